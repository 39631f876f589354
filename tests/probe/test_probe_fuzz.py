"""Damaged streams: whatever bytes come, a request ends, nothing crashes, and no broken one is counted as good."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.probe.client import Order, StreamClient
from tuner.probe.connection import Connection, Exchange
from tuner.probe.gathering import Gathering
from tuner.probe.sse import StreamedAnswer

DATA = Path(__file__).parent / "data"
CAPTURES = [path.read_bytes() for path in sorted(DATA.glob("stream_*.raw-http.bin"))]
WHOLE = (DATA / "stream_chat.raw-http.bin").read_bytes()
TOKENS = 12

odd_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "usage", "delta", "text", "error", "content", "finish_reason", "code", "message",
                         "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "tool_calls"]),
        inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@st.composite
def damaged(draw):
    """A captured answer, cut, with bytes flipped, dropped or doubled, in blocks of any size."""
    raw = bytearray(draw(st.sampled_from(CAPTURES)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        kind = draw(st.sampled_from(["flip", "drop", "double", "cut"]))
        if kind == "flip":
            raw[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "drop":
            del raw[at : at + draw(st.integers(1, 40))]
        elif kind == "double":
            raw[at:at] = raw[at : at + 60]
        else:
            del raw[at:]
        if not raw:
            break
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=4)))
    return [bytes(raw[a:b]) for a, b in pairwise([0, *cuts, len(raw)]) if a < b]


def answered(blocks: list[bytes], *, abort: bool):
    """What the client makes of these bytes from a server that then closes or resets."""

    async def main():
        async def serve(reader, writer):
            await reader.readuntil(b"END")
            for block in blocks:
                writer.write(block)
                await asyncio.sleep(0)
            if abort:
                writer.transport.abort()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = StreamClient(f"http://127.0.0.1:{port}", "/v1/chat/completions", first_token_s=60.0, request_s=60.0)
        try:
            return await asyncio.wait_for(client.send(Order(0, 0, 0.0, b"END", TOKENS)), 60.0)
        finally:
            client.close()
            server.close()
            await server.wait_closed()

    return asyncio.run(main())


def is_whole(blocks: list[bytes]) -> bool:
    """By eye: a 200 with a body that ends as it should, and the right count in its last usage."""
    raw = b"".join(blocks)
    return raw.startswith(b"HTTP/1.1 200") and b"[DONE]" in raw and b'"completion_tokens":12' in raw


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged(), st.booleans())
def test_a_damaged_answer_ends_and_is_never_good_unless_it_is_whole(blocks, abort):
    record = answered(blocks, abort=abort)
    if record.error is None:
        assert is_whole(blocks)
        assert (record.output_tokens, record.first_token_s is not None) == (TOKENS, True)
        assert record.input_tokens > 0
    assert record.done_s >= record.sent_s


def test_the_undamaged_answer_is_good():
    assert answered([WHOLE], abort=False).error is None


@settings(max_examples=400, deadline=None)
@given(st.lists(odd_value, max_size=5), st.booleans())
def test_any_json_in_an_event_is_survived(documents, done):
    answer = StreamedAnswer()
    for at, document in enumerate(documents):
        answer.feed(b"data: " + json.dumps(document).encode() + b"\n\n", float(at))
    if done:
        answer.feed(b"data: [DONE]\n\n", 9.0)
    assert isinstance(answer.output_tokens, int)
    assert isinstance(answer.input_tokens, int)
    assert isinstance(answer.cached_tokens, int)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"data:", b"\n", b"\r\n\r\n", b'{"error"', b"[DONE]"])))
def test_any_bytes_are_survived(blocks):
    answer = StreamedAnswer()
    for at, block in enumerate(blocks):
        answer.feed(block, float(at))
    assert answer.chunks == 0 or answer.first_token_s is not None


class Nowhere:
    """A transport whose bytes are not looked at."""

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...

    def close(self) -> None: ...


def framed(document: object) -> bytes:
    data = b"data: " + json.dumps(document).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def understood(reads: list[bytes]):
    """What one connection makes of these reads, without its times."""

    async def main():
        connection = Connection(lambda: 1.0, Gathering())
        connection.connection_made(Nowhere())
        exchange = Exchange(lambda _: None)
        connection.start(exchange, b"")
        for read in reads:
            connection.data_received(read)
        answer = exchange.answer
        told = (answer.chunks, answer.error, answer.done, answer.output_tokens, answer.first_token_s)
        return (*told, exchange.done.done())

    return asyncio.run(main())


texts = st.text(max_size=6) | st.sampled_from(['"', "", '","usage":{', "\\", "}", "\n", "data: x\n\n", "[DONE]", "é"])
events = st.builds(
    lambda text, finish, usage: {"choices": [{"delta": {"content": text}, "finish_reason": finish}], "usage": usage},
    texts,
    st.sampled_from([None, None, None, "length", "abort"]),
    st.sampled_from([None, None, None, {"prompt_tokens": 3, "completion_tokens": 5}]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, min_size=3, max_size=12), st.data())
def test_chunks_known_by_their_frame_are_understood_as_those_that_are_parsed(documents, data):
    """Whole chunks, one a read, may pass the parser by; the same bytes one by one never do, damaged or not."""
    chunks = [framed(document) for document in documents]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(chunks) - 1))
        raw = bytearray(chunks[at])
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        chunks[at] = bytes(raw)
    end = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    whole = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *chunks, end]
    assert understood(whole) == understood([bytes([byte]) for byte in b"".join(whole)])
