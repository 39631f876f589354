from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.probe.sse import StreamedAnswer

DATA = Path(__file__).parent / "data"


def body_of(name: str) -> bytes:
    """The de-chunked body of a captured stream."""
    rest = (DATA / f"{name}.raw-http.bin").read_bytes().split(b"\r\n\r\n", 1)[1]
    body = b""
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def fed(*blocks: bytes) -> StreamedAnswer:
    answer = StreamedAnswer()
    for at, block in enumerate(blocks):
        answer.feed(block, float(at))
    return answer


def facts(answer: StreamedAnswer) -> tuple[object, ...]:
    return (
        answer.done, answer.error, answer.chunks, answer.input_tokens, answer.output_tokens, answer.cached_tokens,
        answer.first_tokens, answer.first_token_s is not None,
    )  # fmt: skip


def event(**document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


CAPTURED = [
    # name, done, error, chunks with tokens, prompt, completion and cached tokens, first chunk's tokens, any token
    ("stream_chat", (True, None, 11, 41, 12, 40, 1, True)),
    ("stream_completions", (True, None, 11, 30, 12, 29, 1, True)),
    ("stream_completions_contusage", (True, None, 4, 30, 4, 29, 1, True)),
    ("stream_completions_nousage", (True, None, 6, 0, 0, 0, 1, True)),
    ("stream_cache_warm", (True, None, 3, 581, 3, 580, 1, True)),
    ("stream_completions_ngram", (True, None, 7, 6, 48, 5, 1, True)),
    ("stream_generate", (True, None, 6, 30, 6, 29, 1, True)),
    ("stream_aborted", (True, "aborted", 3, 3, 106, 0, 1, True)),
    ("stream_scheduler_killed", (False, None, 4, 0, 0, 0, 1, True)),
    ("stream_queue_full", (True, "http_503", 0, 0, 0, 0, 1, False)),
]
"""Of `stream_aborted` (all requests aborted at their 106th token) and of `stream_scheduler_killed` (the stream stops
between two chunks) the middle is left out, as it was when they were captured."""


def test_every_captured_stream_is_in_the_table():
    assert {path.name.split(".")[0] for path in DATA.glob("stream_*.raw-http.bin")} == {name for name, _ in CAPTURED}


@pytest.mark.parametrize(("name", "expected"), CAPTURED)
def test_captured_streams_of_a_real_server(name, expected):
    assert facts(fed(body_of(name))) == expected


@pytest.mark.parametrize("name", [name for name, _ in CAPTURED])
def test_a_split_at_any_byte_changes_nothing(name):
    body = body_of(name)
    whole = facts(fed(body))
    assert all(facts(fed(body[:at], body[at:])) == whole for at in range(1, len(body)))
    assert facts(fed(*(body[i : i + 1] for i in range(len(body))))) == whole


@pytest.mark.parametrize("name", ["stream_chat", "stream_queue_full"])
def test_carriage_returns_and_comments_change_nothing(name):
    body = body_of(name)
    assert facts(fed(body.replace(b"\n", b"\r\n"))) == facts(fed(body))
    assert facts(fed(body.replace(b"data: {", b": ping\n\ndata: {"))) == facts(fed(body))


def test_the_role_chunk_is_no_token():
    role = event(choices=[{"delta": {"role": "assistant", "content": "", "reasoning_content": None}}])
    token = event(choices=[{"delta": {"content": "Hi"}}])
    answer = fed(role, token)
    assert answer.first_token_s == 1.0


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"content": None, "reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
    ],
)
def test_text_reasoning_and_tool_calls_are_tokens(delta):
    later = event(choices=[{"delta": delta}])
    answer = fed(later, later)
    assert (answer.first_token_s, answer.chunks, answer.times.max_gap_s) == (0.0, 2, 1.0)


@pytest.mark.parametrize("delta", [{}, {"content": ""}, {"content": None}, {"tool_calls": []}])
def test_empty_deltas_are_none(delta):
    assert fed(event(choices=[{"delta": {"content": "x"}}]), event(choices=[{"delta": delta}])).chunks == 1
    assert fed(event(choices=[{"delta": delta}])).first_token_s is None


@pytest.mark.parametrize(
    ("fault", "word", "message"),
    [
        ({"message": "The request queue is full.", "code": 503}, "http_503", "The request queue is full."),
        ({"message": "boom", "code": 500}, "error_event", "boom"),
        ("boom", "error_event", "boom"),
    ],
)
@pytest.mark.parametrize("before", [b"", event(choices=[{"text": "x"}])])
def test_an_error_inside_a_200_is_a_failure(before, fault, word, message):
    answer = fed(before + event(error=fault) + b"data: [DONE]\n\n")
    assert (answer.error, answer.message) == (word, message)


@pytest.mark.parametrize("before", [b"", event(choices=[{"text": "x"}])])
def test_an_abort_is_a_failure(before):
    assert fed(before + event(choices=[{"text": "y", "finish_reason": "abort"}])).error == "aborted"


def test_the_word_error_inside_the_text_is_none():
    assert fed(event(choices=[{"text": "a"}]), event(choices=[{"text": 'an "error" here'}])).error is None


def test_tokens_of_the_first_chunk_come_from_continuous_usage():
    first = event(choices=[{"text": "four at once"}], usage={"completion_tokens": 4, "prompt_tokens": 9})
    assert fed(first).first_tokens == 4


def test_a_stream_that_is_not_json_is_a_failure():
    assert fed(b"data: {oops\n\n").error == "bad_event"
    assert facts(fed(b"data: 7\n\n")) == facts(StreamedAnswer())


def test_data_lines_of_one_event_belong_together():
    assert fed(b'data: {"choices":\ndata: [{"text":"x"}]}\n\n').chunks == 1


def test_the_end_of_an_answer_without_text_is_remembered():
    answer = fed(event(choices=[{"text": "", "finish_reason": "length"}], usage=None))
    assert (answer.first_token_s, answer.finish_s) == (None, 0.0)
