"""`tuner probe`: options, the document and exit codes, against a small engine in this process."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from contextlib import contextmanager

import pytest
from support.cli import tuner
from support.crowds import left_alone
from support.loopback_engine import LoopbackEngine
from support.traffic import SECRET, a_trace, some_prompts

KEYS = {
    "valid", "invalid_reasons", "requests", "errors", "ttft_p50_s", "ttft_p95_s", "ttft_sent_p95_s", "tpot_p50_s",
    "chunk_gap_p95_s", "output_tokens_per_s", "cached_fraction", "client",
}  # fmt: skip
CLIENT_KEYS = {"chunks_per_s", "cpu_ms_per_1k_chunks", "loop_lag_p99_s", "send_lag_p99_s"}
SIZE = ("--input-tokens", 200, "--output-tokens", 20)


@contextmanager
def serving(engine: LoopbackEngine):
    """The engine on a loop of its own, so that the command can have this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(engine.__aenter__(), loop).result(60)
    try:
        yield engine.url
    finally:
        asyncio.run_coroutine_threadsafe(engine.__aexit__(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def test_a_rate_is_measured_and_every_request_recorded(tmp_path):
    rows_at = tmp_path / "rows.jsonl"
    with serving(LoopbackEngine()) as url:
        said = tuner("probe", "--url", url, *SIZE, "--rate", 20, "--duration", 2, "--cached-fraction", 0.6,
                     "--json", "--records", rows_at)  # fmt: skip
    document = json.loads(said.out)
    assert document.keys() >= KEYS
    assert document["client"].keys() >= CLIENT_KEYS
    assert said.code == (0 if document["valid"] else 4)
    assert document["errors"] == 0
    assert document["cached_fraction"] == pytest.approx(0.6, abs=0.03)
    assert 0 < document["ttft_sent_p95_s"] <= document["ttft_p95_s"]
    rows = [json.loads(line) for line in rows_at.read_text().splitlines()]
    assert len(rows) == document["requests"]
    assert all(row["output_tokens"] == 20 for row in rows)
    assert "content" not in rows_at.read_text()


def test_a_concurrency_is_held():
    with serving(LoopbackEngine()) as url:
        said = tuner("probe", "--url", url, *SIZE, "--concurrency", 3, "--duration", 1.5)
    assert said.code in (0, 4)
    assert "output tokens/s" in said.out


def test_a_capacity_is_found_with_its_bracket():
    def found():
        with serving(LoopbackEngine(token_s=0.01)) as url:
            said = tuner("probe", "--url", url, *SIZE, "--find-capacity", "--ttft-p95", 0.25, "--json")
        return said.code, json.loads(said.out)

    _, document = left_alone(
        found,
        lambda seen: seen[1]["capacity_req_per_s"] is not None,
        lambda seen: (seen[0], seen[1]["valid"]) == (4, False),
    )
    assert document["bracket"][0] == document["capacity_req_per_s"] < document["bracket"][1]
    assert document["levels"]
    assert document["chunk_gap_p95_s"] > 0.009  # 10 ms, and what the machine adds


def test_no_rate_within_the_limit_is_exit_3_with_the_nearest_miss():
    with serving(LoopbackEngine(prefill_s=0.3)) as url:
        said = tuner("probe", "--url", url, *SIZE, "--find-capacity", "--ttft-p95", 0.1, "--json")
    document = json.loads(said.out)
    assert (document["state"], document["capacity_req_per_s"]) == ("infeasible", None)
    assert said.code == (3 if document["valid"] else 4)
    assert document["nearest_miss_ttft_p95_s"] > 0.1


def test_failed_requests_are_never_fast():
    with serving(LoopbackEngine(fault=lambda n: "500" if n > 20 and n % 4 == 0 else "")) as url:
        said = tuner("probe", "--url", url, *SIZE, "--rate", 30, "--duration", 1.5, "--json")
    document = json.loads(said.out)
    assert document["errors"] > 0
    assert document["ttft_p95_s"] is None
    assert document["ttft_p50_s"] > 0


def test_an_endpoint_that_fails_everything_gives_no_figures():
    with serving(LoopbackEngine(fault=lambda n: "500" if n > 4 else "")) as url:
        said = tuner("probe", "--url", url, *SIZE, "--rate", 40, "--duration", 3, "--json")
    document = json.loads(said.out)
    assert (said.code, document["valid"]) == (4, False)
    assert any("500" in reason for reason in document["invalid_reasons"])
    assert document["ttft_p50_s"] is None


def test_another_length_than_planned_is_invalid_not_slow():
    with serving(LoopbackEngine(miscounts=0, flushes=False)) as url:
        assert tuner("probe", "--url", url, *SIZE, "--rate", 10, "--duration", 1, "--json").code in (0, 4)
    engine = LoopbackEngine()
    engine.fault = lambda n: setattr(engine, "miscounts", 30 if n > 8 else 0) or ""
    with serving(engine) as url:
        said = tuner("probe", "--url", url, *SIZE, "--rate", 20, "--duration", 2, "--json")
    document = json.loads(said.out)
    assert (said.code, document["valid"]) == (4, False)
    assert any(reason.startswith("token_count") for reason in document["invalid_reasons"])


def test_a_client_that_stands_still_shows_it_and_is_not_believed():
    """A fifth of the time this process does nothing: seen in TTFT from the schedule, and the level is invalid."""
    engine = LoopbackEngine(slots=64)  # what left late does not wait for its turn as well

    def stall(_: str) -> None:
        asyncio.get_running_loop().call_later(1.0, time.sleep, 0.6)

    from tuner.probe.command import ProbeRequest, probe_endpoint
    from tuner.probe.probe import Watch, run

    with serving(engine) as url:
        request = ProbeRequest(url, 200, 20, rate_req_per_s=60.0, duration_s=3.0)
        watch = Watch(on_progress=lambda text: stall(text) if text.startswith("level") else None)
        document = run(probe_endpoint(request, watch)).document
    assert document["valid"] is False
    assert any("stood still for " in reason for reason in document["invalid_reasons"])
    assert document["client"]["longest_stall_s"] >= 0.58
    assert document["ttft_p95_s"] > document["ttft_sent_p95_s"] + 0.1  # a twentieth of all left 0.45 s late or more


PLAIN = dict.fromkeys(("/health", "/server_info", "/v1/models", "/flush_cache"))


def test_an_endpoint_that_only_answers_chats_is_measured_with_prompts_of_the_right_mean_length():
    engine = LoopbackEngine(tokenizes=False, answers=PLAIN, slots=64)
    with serving(engine) as url:
        said = tuner("probe", "--url", url, "--input-tokens", 1000, "--output-tokens", 4, "--rate", 40, "--duration",
                     2, "--json")  # fmt: skip
    document = json.loads(said.out)
    assert document["errors"] == 0
    assert not any(reason.startswith("token_count") for reason in document["invalid_reasons"])
    asked = [len(body["messages"][0]["content"].split()) + engine.overhead for body in engine.bodies[-40:]]
    assert sum(asked) / len(asked) == pytest.approx(1000, rel=0.02)
    assert len(set(asked)) > 1
    assert any("/v1/tokenize" in warning for warning in document["warnings"])


def test_a_count_that_does_not_follow_the_prompt_sizes_nothing():
    engine = LoopbackEngine(tokenizes=False, miscounts=5000)
    with serving(engine) as url:
        said = tuner("probe", "--url", url, "--input-tokens", 1000, "--output-tokens", 4, "--rate", 5, "--json")
    document = json.loads(said.out)
    assert (said.code, document["valid"], document["requests"]) == (4, False, 0)
    assert "does not follow" in document["invalid_reasons"][0]


def test_cached_tokens_that_nobody_reports_are_unknown_not_none():
    with serving(LoopbackEngine(reports_cached=False)) as url:
        said = tuner("probe", "--url", url, *SIZE, "--rate", 10, "--duration", 1, "--cached-fraction", 0.5, "--json")
    document = json.loads(said.out)
    assert document["cached_fraction"] is None
    assert any("--enable-cache-report" in warning for warning in document["warnings"])


@pytest.mark.parametrize("load", [("--rate", 20), ("--find-capacity", "--ttft-p95", 5)])
def test_an_interrupted_run_says_what_it_measured_and_is_exit_130(tmp_path, load):
    rows_at = tmp_path / "rows.jsonl"
    engine = LoopbackEngine()
    enough, main_thread = 30, threading.get_ident()

    def fault(number: int) -> str:
        if number == enough:
            signal.pthread_kill(main_thread, signal.SIGINT)
        return ""

    engine.fault = fault
    with serving(engine) as url:
        said = tuner("probe", "--url", url, *SIZE, *load, "--duration", 600, "--json", "--records", rows_at)
    document = json.loads(said.out)
    assert (said.code, document["valid"]) == (130, False)
    assert any(reason.startswith("interrupted") for reason in document["invalid_reasons"])
    assert 0 < len(rows_at.read_text().splitlines()) <= document["requests"]


def test_an_endpoint_with_a_key_is_measured_and_the_key_is_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("ENDPOINT_KEY", f"{SECRET}\n")
    load = (*SIZE, "--rate", 20, "--duration", 1, "--json", "--records", tmp_path / "rows")
    with serving(LoopbackEngine(api_key=SECRET)) as url:
        said = tuner("probe", "--url", url, *load, "--api-key-env", "ENDPOINT_KEY")
        without = tuner("probe", "--url", url, *load)
    document = json.loads(said.out)
    assert (document["errors"], document["requests"] > 0) == (0, True)
    assert document["request"]["api_key_env"] == "ENDPOINT_KEY"
    assert SECRET not in said.out + said.err + (tmp_path / "rows").read_text()
    assert without.code == 4
    assert "401" in without.out, "it says why"


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "line\nbreak", "schl\u00fcssel"])
def test_a_key_that_is_none_is_refused_and_not_shown(monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("ENDPOINT_KEY", value)
    said = tuner("probe", "--url", "http://h:1", *SIZE, "--rate", 1, "--api-key-env", "ENDPOINT_KEY")
    assert (said.code, said.out) == (2, "")
    assert "--api-key-env ENDPOINT_KEY" in said.err
    assert not (value or "").strip() or value not in said.err
    assert len(said.err.splitlines()) == 1


def test_nobody_at_the_url_is_exit_5():
    said = tuner("probe", "--url", "http://127.0.0.1:9", *SIZE, "--rate", 1)
    assert (said.code, said.out) == (5, "")
    assert "nobody answers" in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--url, --input-tokens, --output-tokens"),
        (("--url", "http://h:1", "--input-tokens", 5), "--output-tokens"),
        (("--url", "http://h:1", *SIZE), "none is given"),
        (("--url", "http://h:1", *SIZE, "--rate", 1, "--concurrency", 1), "--rate and --concurrency"),
        (("--url", "http://h:1", *SIZE, "--find-capacity"), "--ttft-p95"),
        (("--url", "http://h:1", *SIZE, "--rate", 1, "--ttft-p95", 1), "--find-capacity"),
        (("--url", "http://h:1", *SIZE, "--rate", 0), "--rate"),
        (("--url", "http://h:1", *SIZE, "--rate", "nan"), "--rate"),
        (("--url", "http://h:1", *SIZE, "--rate", 1, "--duration", -1), "--duration"),
        (("--url", "http://h:1", *SIZE, "--rate", 1, "--cached-fraction", 1), "--cached-fraction"),
        (("--url", "http://h:1", *SIZE, "--rate", 1, "--arrivals", "bursty"), "one of poisson, constant, trace"),
        (("--url", "http://h:1", *SIZE, "--rate", 1, "--records", "/no/such/x"), "no such folder"),
        (("--url", "https://h:1", *SIZE, "--rate", 1), "TLS"),
        (("--url", "http://h:1/v1", *SIZE, "--rate", 1), "without a path"),
        (("--url", "http://h:99999", *SIZE, "--rate", 1), "http://h:99999"),
        (("--url", "here", *SIZE, "--rate", 1), "http://HOST:PORT"),
        (("--url", "http://h:1", "--input-tokens", 0, "--output-tokens", 1, "--rate", 1), "--input-tokens"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(options, words):
    said = tuner("probe", *options)
    assert (said.code, said.out) == (2, "")
    assert words in said.err
    assert len(said.err.splitlines()) == 1


def test_a_trace_and_prompts_are_measured_by_file(tmp_path):
    trace, prompts = tmp_path / "trace.jsonl", tmp_path / "prompts.jsonl"
    trace.write_text(a_trace(20))
    prompts.write_text(some_prompts())
    rows_at = tmp_path / "rows.jsonl"
    with serving(LoopbackEngine(slots=32)) as url:
        load = ("--url", url, "--rate", 15, "--duration", 1.5, "--json")
        replayed = tuner("probe", *load, "--trace", trace, "--arrivals", "trace")
        own = tuner("probe", *load, "--prompts", prompts, "--records", rows_at)
    document = json.loads(replayed.out)
    assert document["prompts"]["kind"] == "trace"
    assert document["errors"] == 0
    assert document["cached_fraction_offered"] == pytest.approx(document["cached_fraction"], abs=0.1)
    assert json.loads(own.out)["prompts"]["requests"] == 12
    assert json.loads(own.out)["requests"] > 0
    assert SECRET not in own.out + own.err + rows_at.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--trace", "t", "--prompts", "p"), "--prompts or --trace, not both"),
        (("--trace", "none.jsonl"), "none.jsonl: no such file"),
        (("--trace", "p"), "p:1: has no `timestamp`"),
        (("--trace", "t", "--output-tokens", 4), "--output-tokens goes without --trace"),
        (("--prompts", "p", "--cached-fraction", 0.5), "--cached-fraction goes without --prompts"),
        (("--prompts", "p", "--arrivals", "trace"), "p has no timestamps"),
        (("--prompts", "raw"), "--output-tokens is needed"),
        (("--prompts", "p", "--block-tokens", 64), "--block-tokens goes with --trace"),
        (("--arrivals", "trace", *SIZE), "--arrivals trace goes with"),
    ],
)
def test_files_that_do_not_go_with_the_options_are_one_line_and_exit_2(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_text(a_trace())
    (tmp_path / "p").write_text(some_prompts())
    (tmp_path / "raw").write_text('{"prompt": "tell"}')
    said = tuner("probe", "--url", "http://127.0.0.1:1", "--rate", 1, *options)
    assert said.code == 2
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1
