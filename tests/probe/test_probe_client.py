from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tuner.probe.client import Order, StreamClient
from tuner.probe.events import RequestRecord

DATA = Path(__file__).parent / "data"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE, RESET, KEEP, HANG = "close", "reset", "keep", "hang"


def chunk(*events: bytes) -> bytes:
    data = b"".join(events)
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(**document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


TOKEN = event(choices=[{"text": "x"}], usage=None)
USAGE = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None})
DONE = b"data: [DONE]\n\n"
GOOD = HEAD + chunk(TOKEN) + chunk(TOKEN, USAGE, DONE) + b"0\r\n\r\n"

Script = Sequence[tuple[Sequence[bytes], str]]


class ScriptedServer:
    """Answers the n-th request with the n-th script entry: blocks written one by one, then what happens."""

    def __init__(self, script: Script) -> None:
        self.script = list(script)
        self.connections = 0
        self.pause_s = 0.0
        self.requests: list[bytes] = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                blocks, then = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                for block in blocks:
                    writer.write(block)
                    await asyncio.sleep(0)
                    await asyncio.sleep(self.pause_s)
                if then == RESET:
                    # Lingering for no time turns the close into a reset.
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                if then == HANG:
                    await reader.read()
                if then != KEEP:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def ask(
    script: Script, *, times: int = 1, expected: int | None = None, turns: int = 1, first_token_s: float = 60.0
) -> tuple[list[RequestRecord], ScriptedServer, StreamClient, list[tuple[str, int]]]:
    told: list[tuple[str, int]] = []

    def tell(what: str, index: int) -> Callable[[float], None]:
        return lambda _: told.append((what, index))

    async def main():
        async with ScriptedServer(script) as server:
            client = StreamClient(server.url, "/v1/completions", first_token_s=first_token_s)
            records = []
            for i in range(times):
                order = Order(i, 3, 1.5, b'{"prompt":"x"}', expected)
                records.append(await client.send(order, tell("sent", i), tell("token", i)))
                for _ in range(turns):
                    await asyncio.sleep(0.001 if turns > 1 else 0)
            client.close()
            await asyncio.sleep(0.005)
            return records, server, client, told

    return asyncio.run(main())


def test_a_good_answer():
    (record,), server, _, told = ask([([GOOD], KEEP)], expected=2)
    assert (record.error, record.input_tokens, record.output_tokens, record.cached_tokens) == (None, 5, 2, 0)
    assert (record.chunks, record.first_tokens, record.level, record.scheduled_s) == (2, 1, 3, 1.5)
    assert record.sent_s <= record.first_token_s <= record.done_s
    assert told == [("sent", 0), ("token", 0)]
    assert server.requests[0].startswith(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert server.requests[0].endswith(b'Content-Length: 14\r\n\r\n{"prompt":"x"}')


def test_connections_are_kept():
    records, server, _, _ = ask([([GOOD], KEEP)], times=5)
    assert [r.error for r in records] == [None] * 5
    assert server.connections == 1


def test_a_connection_the_server_has_closed_is_not_used_again():
    """Also when the close arrives only with the next request: that one is asked once more on a fresh connection."""
    records, server, _, told = ask([([GOOD], CLOSE)], times=4)
    assert [r.error for r in records] == [None] * 4
    assert server.connections == 4
    assert told == [(what, i) for i in range(4) for what in ("sent", "token")]


def test_a_fresh_connection_that_dies_is_not_retried():
    (record,), server, client, _ = ask([([], RESET)])
    assert (record.error, server.connections) == ("reset", 1)
    assert "reset" in client.messages


def test_after_the_first_byte_nothing_is_retried():
    records, server, _, _ = ask([([GOOD], KEEP), ([HEAD, chunk(TOKEN)], RESET), ([GOOD], KEEP)], times=3)
    assert [r.error for r in records] == [None, "reset", None]
    assert server.connections == 2


def test_a_kept_connection_torn_while_in_use_is_a_fault():
    records, server, _, _ = ask([([GOOD], KEEP), ([], RESET), ([GOOD], KEEP)], times=2)
    assert [r.error for r in records] == [None, "reset"]
    assert server.connections == 1


def test_a_kept_connection_that_closes_at_once_is_asked_again_and_only_once():
    records, server, client, told = ask([([GOOD], KEEP), ([], CLOSE), ([], RESET)], times=2)
    assert [r.error for r in records] == [None, "reset"]
    assert client.resent == 1
    assert server.connections == 2
    assert told.count(("sent", 1)) == 1


@pytest.mark.parametrize(
    ("blocks", "then", "word"),
    [
        ([HEAD, chunk(TOKEN)], CLOSE, "truncated"),
        ([HEAD, chunk(TOKEN, USAGE) + b"0\r\n\r\n"], KEEP, "truncated"),
        ([HEAD, chunk(TOKEN)], RESET, "reset"),
        ([], CLOSE, "reset"),
        ([b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\nboom"], KEEP, "http_500"),
        ([b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"], KEEP, "http_503"),
        ([b"SMTP ready\r\n\r\n"], KEEP, "protocol"),
        ([HEAD, chunk(event(error={"code": 500, "message": "boom"}), DONE) + b"0\r\n\r\n"], KEEP, "error_event"),
        ([HEAD, chunk(DONE) + b"0\r\n\r\n"], KEEP, "token_count"),
        ([HEAD, chunk(TOKEN, DONE) + b"0\r\n\r\n"], KEEP, "token_count"),
    ],
)
def test_every_failure_has_its_word(blocks, then, word):
    """A request that ended before its answer began or after is failed, never fast."""
    (record,), _, client, _ = ask([(blocks, then)])
    assert record.error == word
    assert word in client.messages


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}', "not stream"),
        (TOKEN + USAGE, "without [DONE]"),
        (TOKEN + DONE, "no usage"),
    ],
)
def test_an_answer_of_another_kind_says_what_is_missing(answer, words):
    (_,), _, client, _ = ask([([HEAD, chunk(answer) + b"0\r\n\r\n"], KEEP)])
    (message,) = client.messages.values()
    assert words in message


def test_another_number_of_tokens_than_asked_for_is_a_failure():
    (record,), _, client, _ = ask([([GOOD], KEEP)], expected=3)
    assert record.error == "token_count"
    assert client.messages["token_count"] == "2 tokens were counted, 3 were asked for"


def test_an_answer_that_is_complete_but_for_the_last_chunk_is_good():
    (record,), _, _, _ = ask([([HEAD, chunk(TOKEN, TOKEN, USAGE, DONE)], CLOSE)])
    assert record.error is None


def test_tokens_without_text_show_at_the_end():
    quiet = event(choices=[{"text": "", "finish_reason": "length"}], usage=None)
    (record,), _, _, told = ask([([HEAD, chunk(quiet, USAGE, DONE) + b"0\r\n\r\n"], KEEP)])
    assert record.error is None
    assert record.first_token_s is not None
    assert told == [("sent", 0)]


def test_a_silent_server_is_a_timeout():
    (record,), _, client, _ = ask([([HEAD], HANG)], first_token_s=0.05)
    assert (record.error, record.first_token_s) == ("timeout", None)
    assert client.messages["timeout"].startswith("silent for ")


@pytest.mark.parametrize(("first_token_s", "request_s"), [(1.0, 60.0), (60.0, 1.0)])
def test_a_server_that_stops_in_the_middle_is_a_timeout(first_token_s, request_s):
    async def main():
        async with ScriptedServer([([HEAD, chunk(TOKEN)], HANG)]) as server:
            client = StreamClient(server.url, "/v1/completions", first_token_s=first_token_s, request_s=request_s)
            return await client.send(Order(0, 0, 0.0, b"{}"))

    record = asyncio.run(main())
    assert record.error == "timeout"
    assert record.first_token_s is not None


def test_an_answer_that_keeps_coming_may_take_longer_than_the_first_token():
    slow = [HEAD, *[chunk(TOKEN)] * 60, chunk(USAGE, DONE) + b"0\r\n\r\n"]

    async def main():
        async with ScriptedServer([(slow, KEEP)]) as server:
            server.pause_s = 0.02
            client = StreamClient(server.url, "/v1/completions", first_token_s=1.0)
            record = await client.send(Order(0, 0, 0.0, b"{}"))
            client.close()
            await asyncio.sleep(0.005)
            return record

    record = asyncio.run(main())
    assert record.error is None
    assert record.done_s - record.sent_s > 1.0


def test_nobody_listening_is_refused():
    async def main():
        async with ScriptedServer([([], CLOSE)]) as server:
            url = server.url
        sent: list[float] = []
        record = await StreamClient(url, "/x").send(Order(0, 0, 0.0, b"{}"), sent.append)
        return record, sent

    record, sent = asyncio.run(main())
    assert (record.error, len(sent)) == ("refused", 1)


def test_cancelling_a_request_closes_its_connection():
    async def main():
        async with ScriptedServer([([HEAD, chunk(TOKEN)], HANG), ([GOOD], KEEP)]) as server:
            client = StreamClient(server.url, "/v1/completions")
            started = asyncio.Event()
            task = asyncio.create_task(client.send(Order(0, 0, 0.0, b"{}"), on_first_token=lambda _: started.set()))
            await started.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            record = await client.send(Order(1, 0, 0.0, b"{}"))
            client.close()
            await asyncio.sleep(0.005)
            return record, server.connections

    record, connections = asyncio.run(main())
    assert (record.error, connections) == (None, 2)


def test_a_stray_answer_spoils_the_connection_and_nothing_else():
    records, server, _, _ = ask([([GOOD, b"HTTP/1.1 408 X\r\nContent-Length: 0\r\n\r\n"], KEEP)], times=2, turns=20)
    assert [r.error for r in records] == [None, None]
    assert server.connections == 2


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "ftp://x", "nonsense"])
def test_only_plain_http(url):
    with pytest.raises(ValueError, match="plain http"):
        StreamClient(url, "/")


@pytest.mark.parametrize(
    ("name", "error", "output_tokens", "message"),
    [
        ("stream_chat", None, 12, ""),
        ("stream_queue_full", "http_503", 0, "The request queue is full."),
        ("err_too_long_stream", "http_400", 0, "longer than the model's context length"),
    ],
)
def test_captured_answers_split_at_every_byte(name, error, output_tokens, message):
    """Over real sockets: whatever the reads are, the record is the same."""
    raw = (DATA / f"{name}.raw-http.bin").read_bytes()

    async def main():
        script = [([raw[:at], raw[at:]], CLOSE) for at in range(1, len(raw))]
        async with ScriptedServer([*script, ([raw], CLOSE)]) as server:
            client = StreamClient(server.url, "/v1/chat/completions")
            records = [await client.send(Order(i, 0, 0.0, b"{}")) for i in range(len(raw))]
            return records, client

    records, client = asyncio.run(main())
    assert {(r.error, r.output_tokens, r.chunks) for r in records} == {(error, output_tokens, records[-1].chunks)}
    assert len({r.first_token_s is None for r in records}) == 1
    assert message in client.messages.get(error, "")


@pytest.mark.parametrize(
    ("name", "error", "output_tokens", "cached_tokens"),
    [
        ("stream_chat", None, 12, 40),
        ("stream_completions", None, 12, 29),
        ("stream_completions_contusage", None, 4, 29),
        ("stream_completions_nousage", "token_count", 0, 0),
        ("stream_completions_ngram", None, 48, 5),
        ("stream_cache_warm", None, 3, 580),
        ("stream_generate", None, 6, 29),
        ("stream_aborted", "aborted", 106, 0),
        ("stream_scheduler_killed", "truncated", 0, 0),
        ("stream_queue_full", "http_503", 0, 0),
        ("err_too_long_stream", "http_400", 0, 0),
    ],
)
def test_a_captured_stream_is_recorded_as_what_it_is(name, error, output_tokens, cached_tokens):
    (record,), _, _, _ = ask([([(DATA / f"{name}.raw-http.bin").read_bytes()], CLOSE)])
    assert (record.error, record.output_tokens, record.cached_tokens) == (error, output_tokens, cached_tokens)
    assert (record.first_token_s is None) == (name in {"stream_queue_full", "err_too_long_stream"})


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("err_404", 404, "Not Found"),
        ("err_405", 405, "Method Not Allowed"),
        ("err_bad_type", 400, "Input should be a valid integer"),
        ("err_neg_max", 400, "max_tokens must be positive"),
        ("err_too_long", 400, "longer than the model's context length"),
    ],
)
def test_a_captured_refusal_fails_with_its_status_and_sentence(name, status, says):
    body = (DATA / f"{name}.body").read_bytes()
    answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
    (record,), _, client, _ = ask([([answer], KEEP)])
    assert (record.error, record.output_tokens, record.first_token_s) == (f"http_{status}", 0, None)
    assert says in client.messages[f"http_{status}"]
