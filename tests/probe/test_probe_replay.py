"""Requests from the user's file: their order, times, texts and shared beginnings, and what is sent to an engine."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.crowds import left_alone
from support.loopback_engine import LoopbackEngine, count_words
from support.traffic import SECRET, a_trace, lines, read, some_prompts

from tuner.probe.capacity import CapacitySearch
from tuner.probe.outcome import ProbeSettings
from tuner.probe.plan import ReplayStream, RequestStream, stream_of
from tuner.probe.preparation import Bench
from tuner.probe.probe import measure
from tuner.probe.prompts import BodyFactory, learn_lexicon
from tuner.probe.steady import SteadyLoad, SteadySettings
from tuner.space.workload import Length, Limits, Workload


def a_stream(traffic, seed=0, **changes) -> ReplayStream:
    answered = traffic.output_tokens or Length("uniform", 3, 9)
    fields = {"prompts": traffic.kind, "traffic": traffic.file, "arrivals": "trace" if traffic.timed else "poisson"}
    stream = stream_of(Workload(traffic.input_tokens, answered, **(fields | changes)), seed, traffic)
    assert isinstance(stream, ReplayStream)
    return stream


def a_factory(stream) -> BodyFactory:
    async def count(texts):
        return [count_words(t) for t in texts]

    return BodyFactory(stream.workload, stream, asyncio.run(learn_lexicon(count)), "tiny", "n")


def plain(text: bytes) -> str:
    return json.loads(b'"' + text + b'"')


@pytest.fixture
def trace(tmp_path):
    return read(tmp_path, a_trace(), "trace")


def test_requests_are_the_lines_in_order_and_again_from_the_start(trace):
    stream = a_stream(trace)
    asked = [stream.request(i) for i in range(100)]
    assert [r.input_tokens for r in asked[:40]] == [row.input_tokens for row in trace.rows]
    assert [r.output_tokens for r in asked[40:80]] == [row.output_tokens for row in trace.rows]
    assert {r.turn for r in asked[40:80]} == {1}
    assert stream.longest_prefix_tokens == 0
    assert 1 <= stream.staggered(5).output_tokens <= asked[5].output_tokens


def test_lengths_the_file_does_not_give_are_drawn_alike_for_everybody(tmp_path):
    traffic = read(tmp_path, lines({"prompt": f"tell {i}"} for i in range(9)), "file")
    lengths = [a_stream(traffic, seed=3).request(i).output_tokens for i in range(30)]
    assert lengths == [a_stream(traffic, seed=3).request(i).output_tokens for i in range(30)]
    assert len(set(lengths)) > 3


@given(st.floats(0.1, 50), st.integers(0, 200))
def test_the_files_times_are_scaled_to_the_rate_as_a_whole(tmp_path_factory, rate, first):
    traffic = read(tmp_path_factory.getbasetemp(), a_trace(), "trace")
    due = list(itertools.islice(a_stream(traffic).due_times(0, rate, 100.0, first), 81))
    assert due == sorted(due)
    assert due[0] >= 100.0
    assert 80 / (due[80] - due[0]) == pytest.approx(rate)
    times = [row.at_ms for row in traffic.rows]
    at = first % 40
    if at < 38:
        whole, part = times[-1] - times[0], times[at + 1] - times[at]
        assert due[1] - due[0] == pytest.approx(part / whole * 39 / rate, abs=1e-9)


def test_arrivals_need_not_follow_the_trace(trace):
    stream = a_stream(trace, arrivals="poisson")
    plain_stream = RequestStream(stream.workload, 0)
    ours, theirs = (s.due_times(2, 3.0, 0.0, 7) for s in (stream, plain_stream))
    assert list(itertools.islice(ours, 9)) == list(itertools.islice(theirs, 9))
    with pytest.raises(ValueError, match="above 0"):
        next(a_stream(trace).due_times(2, 0.0, 0.0, 7))


def test_equal_hash_ids_become_equal_text_and_lengths_are_kept(trace):
    stream = a_stream(trace)
    factory = a_factory(stream)
    factory.overhead_tokens = 7
    one, two, other, again = (plain(factory.text(stream.request(i))) for i in (1, 3, 2, 41))
    assert one.split()[:1024] == two.split()[:1024]
    assert one.split()[1024:] != two.split()[1024 : len(one.split())]
    assert other.split()[:50] != one.split()[:50]
    assert again.split()[:50] != one.split()[:50]
    for i in range(60):
        planned = stream.request(i)
        assert count_words(plain(factory.text(planned))) == max(1, planned.input_tokens - 7)


def test_tokens_beyond_the_blocks_are_a_requests_own(tmp_path):
    rows = [{"timestamp": i, "input_length": 900, "output_length": 5, "hash_ids": [1]} for i in range(3)]
    stream = a_stream(read(tmp_path, lines(rows), "trace"))
    one, two = (plain(a_factory(stream).text(stream.request(i))).split() for i in (0, 1))
    assert (len(one), len(two)) == (900, 900)
    assert one[:512] == two[:512]
    assert one[512:] != two[512:]


def test_prompts_are_sent_as_they_are_and_marked_the_second_time(tmp_path):
    traffic = read(tmp_path, some_prompts(), "file")
    stream = a_stream(traffic)
    factory = a_factory(stream)
    first, again = (json.loads(factory.content(stream.request(i))) for i in (3, 15))
    assert first == json.loads(some_prompts().splitlines()[3])["messages"]
    at = traffic.rows[3].own_from - len("system")
    told = first[0]["content"]
    assert again[0]["content"] == f"{told[:at]}(1) {told[at:]}"
    assert again[1:] == first[1:]
    body = json.loads(factory.around(factory.content(stream.request(3)), 4))
    assert body["messages"] == first
    assert body["max_tokens"] == 4


@pytest.mark.parametrize(
    ("endpoint", "first", "again"),
    [("completions", "tell", "(1) tell"), ("chat", [{"role": "user", "content": "tell"}], None)],
)
def test_a_raw_prompt_goes_to_either_endpoint(tmp_path, endpoint, first, again):
    stream = a_stream(read(tmp_path, lines([{"prompt": "tell"}]), "file"), endpoint=endpoint)
    factory = a_factory(stream)
    assert json.loads(factory.content(stream.request(0))) == first
    if again:
        assert json.loads(factory.content(stream.request(1))) == again


def test_contents_that_are_no_text_are_left_alone(tmp_path):
    parts = [{"type": "text", "text": "look"}]
    rows = [{"messages": [{"role": "user", "content": parts}, {"role": "user", "content": "tell"}]}]
    stream = a_stream(read(tmp_path, lines(rows), "file"))
    again = json.loads(a_factory(stream).content(stream.request(1)))
    assert again == [{"role": "user", "content": parts}, {"role": "user", "content": "(1) tell"}]


def held(engine, traffic, rate=40.0, seconds=1.5):
    """A short load of this file on a small engine: the report and the bodies sent."""

    async def run():
        async with engine:
            stream = a_stream(traffic)
            made = []

            def search(bench: Bench, left_s: float):
                made.append(SteadyLoad(SteadySettings(seconds, rate_req_per_s=rate)))
                return made[-1]

            report = await measure(
                engine.url, search, workload=stream.workload, seed=0, ttft_limit_s=None, probe_s=60.0, traffic=traffic
            )
            return report, engine.bodies, made[-1].records

    return asyncio.run(run())


def test_a_trace_is_replayed_with_its_lengths_and_its_sharing(tmp_path):
    traffic = read(tmp_path, a_trace(20), "trace")
    report, _, records = held(LoopbackEngine(slots=64), traffic)
    assert report.outcome.state == "measured"
    assert report.client["token_mismatches"] == 0
    assert not [r for r in report.reasons if r.kind != "client_bound"]
    in_order = sorted(records, key=lambda r: r.index)
    assert [r.input_tokens for r in in_order[:20]] == [row.input_tokens for row in traffic.rows]
    assert all(r.cached_tokens >= 1000 for r in in_order[3:20:2])
    assert report.client["prompts"]["sha256"] == traffic.sha256
    assert any("20 requests" in warning for warning in report.warnings) == (report.outcome.requests > 20)


def test_prompts_reach_the_engine_and_nothing_else(tmp_path):
    traffic = read(tmp_path, some_prompts(), "file")
    report, bodies, records = held(LoopbackEngine(slots=64), traffic)
    sent = [b for b in bodies if SECRET in json.dumps(b)]
    assert len(sent) == report.outcome.requests
    assert report.client["token_mismatches"] == 0  # their lengths were never known
    assert SECRET not in json.dumps(report.client) + repr(report) + repr(records)


def test_an_engine_that_repeats_prompts_in_its_complaints_is_not_quoted(tmp_path):
    traffic = read(tmp_path, some_prompts(), "file")
    engine = LoopbackEngine(slots=64, fault=lambda number: "400" if number > 12 else "")
    report, _, _ = held(engine, traffic)
    assert report.client["messages"]["http_400"].startswith("(not shown")


def test_a_capacity_is_searched_over_a_trace(tmp_path):
    """Levels are stretches of the trace, each at its own speed."""
    traffic = read(tmp_path, a_trace(60, block_tokens=32), "trace", block_tokens=32)

    async def run():
        async with LoopbackEngine(slots=4, token_s=0.02, prefill_s=0.02, reported_slots=4) as engine:
            stream = a_stream(traffic)

            def search(bench: Bench, left_s: float):
                settings = ProbeSettings(
                    Limits(ttft_p95_s=0.4), stream.workload.output_tokens.mean_tokens, 4, max_duration_s=20.0,
                    poisson=False, tolerance=0.3, min_level_s=0.5,
                )  # fmt: skip
                return CapacitySearch(settings)

            return await measure(
                engine.url, search, workload=stream.workload, seed=0, ttft_limit_s=0.4, probe_s=60.0, traffic=traffic
            )

    report = left_alone(
        lambda: asyncio.run(run()),
        lambda r: r.outcome.state == "measured",
        lambda r: r.invalid is not None or r.outcome.kind == "undecided",
    )
    # A request takes at least 0.04 s of one of four places.
    assert 0 < report.outcome.capacity_low_req_per_s < 100
