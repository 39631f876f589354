from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.trial.engine_log import TAIL_BYTES, LogFollower, milestone_of, read_end, redact, short_tail

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("name", "milestone"),
    [
        ("unknown_flag", "launch"),
        ("spec_no_draft", "graphs"),
        ("deepseek_v2_mla_fails_in_warmup", "warmup"),
        ("tp2_ok", "ready"),
    ],
)
def test_milestones_of_captured_starts(name, milestone):
    assert milestone_of((DATA / f"{name}.log").read_text()) == milestone


def test_a_log_is_followed_as_it_grows_and_each_step_is_told_once(tmp_path):
    path = tmp_path / "engine.log"
    follower = LogFollower(path)
    assert follower.look() == []
    told = []
    with path.open("wb", buffering=0) as log:
        for part in (DATA / "tp2_ok.log").read_bytes().splitlines(keepends=True):
            log.write(part[:7])
            told += follower.look()
            log.write(part[7:])
            told += follower.look()
    assert told[0] == "loading weights"
    assert told[-1] == "fired up"
    assert "KV cache holds 65536 tokens" in told
    assert all(one != other for one, other in pairwise(told))
    assert follower.milestone == "ready"


def test_progress_bars_are_told_in_steps_of_ten_percent(tmp_path):
    path = tmp_path / "engine.log"
    bar = "\r".join(f"Loading safetensors checkpoint shards: {p:3d}% Completed | {p}/100" for p in range(0, 101, 5))
    path.write_text(bar + "\nCapturing batches (bs=8 avail_mem=9 GB):  42%|####\n[1] Capture cuda graph begin.\n")
    assert LogFollower(path).look() == [
        *(f"loading weights {p} %" for p in range(0, 101, 10)),
        "capturing graphs 40 %",
        "capturing graphs",
    ]


def test_retractions_are_counted(tmp_path):
    path = tmp_path / "engine.log"
    path.write_text("[1] KV cache pool is full. Retract requests. #retracted_reqs: 1\n" * 3)
    follower = LogFollower(path)
    follower.look()
    assert follower.retractions == 3


def test_a_burst_is_skipped_not_swallowed(tmp_path):
    path = tmp_path / "engine.log"
    path.write_text("x" * 3_000_000 + "\n[1] The server is fired up and ready to roll!\n")
    assert LogFollower(path).look() == ["fired up"]


@pytest.mark.parametrize(
    "line",
    [
        "server_args=ServerArgs(api_key='sk-veryveryhidden', tp_size=8)",
        "argv: sglang serve --api-key sk-veryveryhidden --tp-size 8",
        "headers: Authorization: Bearer sk-veryveryhidden",
        "OSError: token=hf_veryveryhidden was refused",
        "proxy http://user:veryveryhidden@proxy:3128 refused",
        "{'admin_api_key': 'veryveryhidden'}",
        "ValueError: PGPASSWORD=veryveryhidden",
        "argv: ['--admin-api-key', 'veryveryhidden', '--port', '1']",
        '{"hfToken": "a b veryveryhidden"}',
        "cannot log in with s3cr3t-veryveryhidden",
        "[1] Receive: obj=GenerateReqInput(text='veryveryhidden')",
        "[1] Finish: obj=..., out={'text': 'veryveryhidden'}",
        "ValidationError: {'messages': [{'role': 'user', 'content': 'veryveryhidden'}]}",
        "bad request: prompt='veryveryhidden'",
    ],
)
def test_secrets_and_requests_never_reach_a_tail(line):
    assert "veryveryhidden" not in redact(line, ("s3cr3t-veryveryhidden",))
    assert "veryveryhidden" not in short_tail(f"before\n{line}\nafter", ("s3cr3t-veryveryhidden",))


def test_a_plain_line_stays_as_it_is():
    line = "#new-token: 4096, ValueError: api_key=None, key_cache.shape=[2, 4] and token usage: 0.00 at http://127.0.0.1:31000/x"
    assert redact(line) == line


def test_the_tail_leaves_out_usage_texts_and_leak_reports():
    tail = short_tail((DATA / "bad_choice.log").read_text())
    assert "usage:" not in tail
    assert "invalid choice: 'nonsense'" in tail
    assert "leaked function" not in short_tail((DATA / "crash_out_of_vocab_token_server.log").read_text())


@given(st.text(max_size=3000), st.integers(10, 500))
def test_the_tail_fits_in_bytes_and_ends_with_the_logs_end(log, size):
    tail = short_tail(log, size_bytes=size)
    assert len(tail.encode()) <= size <= TAIL_BYTES


def test_the_end_of_a_long_log_begins_at_a_line(tmp_path):
    path = tmp_path / "engine.log"
    path.write_text("".join(f"line {i}\n" for i in range(1000)))
    assert read_end(path, 25) == "line 998\nline 999\n"
    assert read_end(tmp_path / "none") == ""
