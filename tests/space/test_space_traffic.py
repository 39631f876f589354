"""Files of prompts and traces: what they amount to, what is wrong with them, and how a space file names them."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.traffic import SECRET, a_trace, lines, read, some_prompts

from tuner.errors import SpaceError
from tuner.space.traffic import TrafficError, read_traffic, resolve, traffic_for
from tuner.space.workload import Length, Workload

ROW = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}


def test_a_trace_amounts_to_its_lengths_times_and_shared_blocks(tmp_path):
    rows = [ROW, {**ROW, "timestamp": 1000, "input_length": 1400, "hash_ids": [1, 2, 3]}, {**ROW, "timestamp": 4000}]
    traffic = read(tmp_path, lines(rows), "trace")
    assert [row.shared_tokens for row in traffic.rows] == [0, 1024, 599]
    assert traffic.cached_fraction == pytest.approx((1024 + 599) / 2600)
    assert traffic.input_tokens.mean_tokens == pytest.approx(2600 / 3)
    assert (traffic.input_tokens.low, traffic.input_tokens.high) == (600, 1400)
    assert traffic.timed
    assert traffic.file.gaps_cv2 == pytest.approx(0.25)
    assert traffic.file.requests == 3


def test_groups_follow_how_soon_blocks_are_used_again(tmp_path):
    rng = random.Random(1)
    rows = [{**ROW, "timestamp": i, "input_length": 512, "hash_ids": [rng.randrange(40)]} for i in range(4000)]
    assert read(tmp_path, lines(rows), "trace").prefix_groups == pytest.approx(40, rel=0.1)
    rows = [{**ROW, "timestamp": i, "hash_ids": [2 * i, 2 * i + 1]} for i in range(10)]
    assert read(tmp_path, lines(rows), "trace").prefix_groups == 1


def test_prompts_share_what_they_begin_with(tmp_path):
    traffic = read(tmp_path, some_prompts(), "file")
    first, second = traffic.rows[:2]
    assert first.shared_tokens == 0
    assert second.shared_tokens == 3 * 64  # 790 letters in common are three whole pieces of 256
    assert second.own_from == 3 * 256
    assert traffic.output_tokens == Length.observed([4] * 12)
    assert traffic.chat
    assert not traffic.timed
    assert traffic.file.gaps_cv2 is None


def test_nothing_that_is_stored_or_shown_holds_a_prompt(tmp_path):
    traffic = read(tmp_path, some_prompts(), "file")
    workload = Workload(traffic.input_tokens, traffic.input_tokens, prompts="file", traffic=traffic.file)
    assert SECRET not in repr(traffic) + repr(traffic.rows[0]) + json.dumps(workload.as_json())
    assert Workload.from_json(json.loads(json.dumps(workload.as_json()))) == workload


BROKEN = {
    "empty": ("trace", "\n\n", 0, "is empty"),
    "torn": ("trace", lines([ROW]) + '{"timestamp": 3, "inp', 2, "was the file cut off?"),
    "no object": ("trace", "[1]\n", 1, "must be a JSON object, not a list"),
    "prompts for a trace": ("trace", some_prompts(), 1, "has no `timestamp` (is it a file of prompts?)"),
    "a trace for prompts": ("file", a_trace(), 1, "(is it a trace?)"),
    "unknown key": ("trace", lines([{**ROW, "hashes": []}]), 1, "unknown key: `hashes`"),
    "no length": ("trace", lines([ROW, {"timestamp": 3, "output_length": 1}]), 2, "has no `input_length`"),
    "no whole length": ("trace", lines([{**ROW, "input_length": 1.5}]), 1, "`input_length` must be a whole number"),
    "a length of nothing": ("trace", lines([{**ROW, "input_length": 0}]), 1, "at least 1"),
    "truth for a length": ("trace", lines([{**ROW, "output_length": True}]), 1, "`output_length` must be"),
    "ids that are text": ("trace", lines([{**ROW, "hash_ids": ["a"]}]), 1, "`hash_ids` must be"),
    "too many ids": ("trace", lines([{**ROW, "hash_ids": [1, 2, 3]}]), 1, "3 hash ids of 512 tokens are more than 600"),
    "time goes back": ("trace", lines([{**ROW, "timestamp": 9}, ROW]), 2, "before that of the line above"),
    "time is text": ("trace", lines([{**ROW, "timestamp": "9"}]), 1, "`timestamp` must be a number"),
    "prompt and messages": ("file", lines([{"prompt": "a", "messages": []}]), 1, "exactly one of"),
    "neither": ("file", lines([{"output_tokens": 3}]), 1, "exactly one of"),
    "an empty prompt": ("file", lines([{"prompt": ""}]), 1, "`prompt` must be text"),
    "a prompt of numbers": ("file", lines([{"prompt": [1, 2]}]), 1, "`prompt` must be text"),
    "no messages": ("file", lines([{"messages": []}]), 1, "`messages` must be a list"),
    "no role": ("file", lines([{"messages": [{"content": "a"}]}]), 1, "message 1 has no `role`"),
    "no content": ("file", lines([{"messages": [{"role": "user"}]}]), 1, "message 1 has no `content`"),
    "two lengths": ("file", lines([{"prompt": "a", "output_tokens": 1, "max_tokens": 2}]), 1, "give one of"),
    "times of some": ("file", lines([{"prompt": "a", "timestamp": 1}, {"prompt": "b"}]), 2, "or none has"),
}


@pytest.mark.parametrize(("kind", "text", "line", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_told_by_line_and_key_alone(tmp_path, kind, text, line, words):
    with pytest.raises(TrafficError) as told:
        read(tmp_path, text, kind)
    assert (told.value.line, words in told.value.message) == (line, True), told.value.message
    assert SECRET not in str(told.value)
    assert "\n" not in told.value.told("x.jsonl")


def test_a_missing_a_binary_and_an_unreadable_file_are_told(tmp_path):
    for content, words in ((None, "no such file"), (b"\x00\xff\xfe\x80", "is not UTF-8 text")):
        path = tmp_path / "f"
        if content:
            path.write_bytes(content)
        with pytest.raises(TrafficError, match=words):
            read_traffic(path, "file", name="f")
    with pytest.raises(TrafficError, match="cannot be read"):
        read_traffic(tmp_path, "file", name="f")


@given(st.binary(max_size=200), st.sampled_from(["file", "trace"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, raw, kind):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(raw)
    try:
        told: object = read_traffic(path, kind, name="any")
    except TrafficError as error:
        told = error
    if isinstance(told, TrafficError):
        assert 0 <= told.line <= raw.count(b"\n") + 1
    else:
        assert told.rows


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=50), st.integers())
def test_observed_lengths_keep_their_mean_and_draw_within_their_range(lengths, seed):
    length = Length.observed(lengths)
    assert length.mean_tokens == pytest.approx(sum(lengths) / len(lengths))
    assert min(lengths) <= length.draw(random.Random(seed)) <= max(lengths)
    assert Length.from_json(json.loads(json.dumps(Workload(length, length).as_json()))["input_tokens"]) == length


def test_a_runner_finds_the_file_in_its_folder_and_refuses_another(tmp_path):
    traffic = read(tmp_path, a_trace(), "trace")
    workload = Workload(traffic.input_tokens, Length.fixed(3), prompts="trace", traffic=traffic.file)
    assert traffic_for(workload, tmp_path) == traffic
    assert traffic_for(Workload(Length.fixed(3), Length.fixed(3)), tmp_path) is None
    assert resolve("/far/away/trace.jsonl", tmp_path) == tmp_path / "trace.jsonl"
    (tmp_path / "trace.jsonl").write_text(a_trace(41))
    with pytest.raises(TrafficError, match="has the sha256"):
        traffic_for(workload, tmp_path)
    with pytest.raises(TrafficError, match=r"elsewhere/trace\.jsonl: no such file"):
        traffic_for(workload, tmp_path / "elsewhere")


def in_space(desk, workload, files):
    for name, text in files.items():
        (desk.path.parent / name).write_text(text)
    before, _, rest = desk.base.partition("workload:")
    after = rest[rest.index("\nobjective:") :]
    return f"{before}workload: {workload}{after}"


GOOD = {
    "trace": ("{prompts: {trace: t.jsonl}, arrivals: trace}", 40),
    "trace with poisson arrivals": ("{prompts: {trace: t.jsonl}}", 40),
    "prompts": ("{prompts: {file: p.jsonl}}", 12),
    "prompts of a length to plan for": ("{prompts: {file: p.jsonl}, input_tokens: 300, output_tokens: 9}", 12),
}
FILES = {"t.jsonl": a_trace(), "p.jsonl": some_prompts(), "q.jsonl": lines([{"prompt": "a"}, {"prompt": "b"}])}


@pytest.mark.parametrize(("workload", "requests"), GOOD.values(), ids=GOOD.keys())
def test_a_space_takes_its_traffic_from_a_file(desk, workload, requests):
    found = desk.load(in_space(desk, workload, FILES)).workload
    assert found.traffic is not None
    assert found.traffic.requests == requests
    assert found.prompts == found.traffic.kind
    assert 0 < found.cached_fraction < 1
    assert found.input_tokens.mean_tokens > 100
    assert found.input_tokens.kind == ("fixed" if "300" in workload else "observed")


BAD = {
    "length of a trace": ("{prompts: {trace: t.jsonl}, input_tokens: 5}", "input_tokens: is the trace's own"),
    "sharing of prompts": ("{prompts: {file: p.jsonl}, cached_fraction: 0.5}", "is that of your prompts"),
    "no lengths": ("{prompts: {corpus: builtin}, output_tokens: 5}", "input_tokens: is missing"),
    "no answers": ("{prompts: {file: q.jsonl}}", "output_tokens: is missing, and not every line"),
    "chat by completions": ("{prompts: {file: p.jsonl}, endpoint: completions}", "endpoint: must be chat"),
    "times of prompts": ("{prompts: {file: p.jsonl}, arrivals: trace}", "arrivals: p.jsonl has no timestamps"),
    "times of nothing": ("{input_tokens: 5, output_tokens: 5, arrivals: trace}", "arrivals: trace needs"),
    "two sources": ("{prompts: {file: p.jsonl, trace: t.jsonl}}", "give one of corpus, file and trace"),
    "blocks of prompts": ("{prompts: {file: p.jsonl, block_tokens: 9}}", "block_tokens goes with trace"),
    "no file": ("{prompts: {trace: none.jsonl}}", "none.jsonl: no such file"),
}


@pytest.mark.parametrize(("workload", "words"), BAD.values(), ids=BAD.keys())
def test_what_does_not_go_with_a_file_is_told(desk, workload, words):
    with pytest.raises(SpaceError) as told:
        desk.load(in_space(desk, workload, FILES))
    assert words in str(told.value)
    assert len(told.value.problems) == 1


def test_blocks_may_have_another_size(desk):
    assert (
        desk.load(in_space(desk, "{prompts: {trace: t.jsonl, block_tokens: 256}}", FILES)).traffic.block_tokens == 256
    )
    with pytest.raises(SpaceError, match=r"t\.jsonl:2:1: 3 hash ids of 2000 tokens"):
        desk.load(in_space(desk, "{prompts: {trace: t.jsonl, block_tokens: 2000}}", FILES))
