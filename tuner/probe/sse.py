"""One streamed answer of an OpenAI-style endpoint, fed with body bytes as they come. No sockets, no clock.

JSON is parsed only up to the first generated token and where usage or an error is announced; the chunks in between
are recognised by their bytes, because at ten thousand chunks a second parsing them all would fill the client's core:
by those around the text, which do not change within an answer, and by a search where that fails.
"""

from __future__ import annotations

import json
import re
from typing import Any

_BEARS_TOKENS = re.compile(rb'"(?:text|content|reasoning_content|reasoning)":\s*"(?!")|"tool_calls":\s*\[(?!\])')
_NULL_USAGE = re.compile(rb'"usage":\s*null')
_ABORTED = re.compile(rb'"finish_reason":\s*"abort"')
GAP_SLOTS_PER_S = 20_000
"""Gaps between chunks are counted in slots of 50 microseconds: a list of them all would grow by 40,000 a second."""

_TEXT_KEYS = ("content", "reasoning_content", "reasoning", "tool_calls")


class StreamedAnswer:
    """What is known of one answer so far. Times are the caller's.

    `error` is a short stable word, `message` the server's own sentence to it.
    """

    __slots__ = (
        "_buffer", "_data", "_gaps", "_head", "_tail", "cached_tokens", "chunks", "done", "error", "finish_s",
        "first_token_s", "first_tokens", "input_tokens", "last_chunk_s", "max_gap_s", "message", "output_tokens",
    )  # fmt: skip

    def __init__(self, gaps: dict[int, int] | None = None) -> None:
        """`gaps` counts the gaps between chunks, shared by many answers (`tuner.probe.gaps`)."""
        self._gaps = gaps
        self._buffer = b""
        self._data: list[bytes] = []
        self._head = self._tail = b""
        self.first_token_s: float | None = None
        self.finish_s: float | None = None
        self.last_chunk_s: float | None = None
        self.max_gap_s = 0.0
        self.chunks = 0
        self.first_tokens = 1
        self.input_tokens = self.output_tokens = self.cached_tokens = 0
        self.done = False
        self.error: str | None = None
        self.message = ""

    def feed(self, data: bytes, now_s: float) -> bool:
        """Take body bytes received at `now_s`; True when they held the first generated token."""
        if self._repeats(data, 0, len(data)):
            self._chunk(now_s)
            return False
        had_token = self.first_token_s is not None
        *lines, self._buffer = (self._buffer + data if self._buffer else data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif self._data and line in (b"", b"\r"):
                event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                self._data.clear()
                self._event(event, now_s)
        return not had_token and self.first_token_s is not None

    def take_chunk(self, data: bytes, now_s: float) -> bool:
        """Count a whole HTTP chunk that differs from an earlier one in its text alone; False: it is another one."""
        size = data.find(b"\r\n", 1, 8)
        if size < 0 or not self._repeats(data, size + 2, len(data) - 2):
            return False
        if not data.endswith(b"\r\n") or data[:size] != b"%x" % (len(data) - size - 4):
            return False
        self._chunk(now_s)
        return True

    def _repeats(self, data: bytes, start: int, end: int) -> bool:
        """Whether these bytes are one event that differs from an earlier one of plain text in that text alone.

        Such a text holds no quotation mark: its end is where the first one stands.
        """
        tail, text = self._tail, start + len(self._head)
        quote = end - len(tail)
        return (
            tail != b""
            and data.find(b'"', text, end) == quote > text
            and data.startswith(self._head, start)
            and data.endswith(tail, quote, end)
            and not self._buffer
            and not self._data
        )

    def _event(self, event: bytes, now_s: float) -> None:
        if event == b"[DONE]":
            self.done = True
            return
        announces = b'"error"' in event or (b'"usage"' in event and not _NULL_USAGE.search(event))
        if self.first_token_s is not None and not announces:
            text = _BEARS_TOKENS.search(event)
            if text:
                self._chunk(now_s)
            if _ABORTED.search(event):
                self.error = "aborted"
            elif text:
                self._learn(event, text.end())
            return
        try:
            document = json.loads(event)
        except ValueError:
            self.error, self.message = "bad_event", "an event of the stream is not JSON"
            return
        if not isinstance(document, dict):
            return
        try:
            self._document(document, now_s)
        except (AttributeError, TypeError, ValueError, OverflowError):
            self.error, self.message = "bad_event", "an event of the stream has another shape than an answer"

    def _document(self, document: dict[str, Any], now_s: float) -> None:
        if fault := document.get("error"):
            self._fail(fault)
            return
        usage = document.get("usage") or {}
        for choice in document.get("choices") or ():
            if _bears_tokens(choice):
                if self.first_token_s is None:
                    self.first_token_s = now_s
                    self.first_tokens = max(1, int(usage.get("completion_tokens") or 1))
                self._chunk(now_s)
            if choice.get("finish_reason"):
                self.finish_s = now_s
                self.error = "aborted" if choice["finish_reason"] == "abort" else self.error
        if usage:
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)
            self.cached_tokens = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    def _learn(self, event: bytes, text: int) -> None:
        """What stands around the text of an event, framed as nearly everybody frames it."""
        quote = event.find(b'"', text)
        if quote > text:
            self._head, self._tail = b"data: " + event[:text], event[quote:] + b"\n\n"

    def _chunk(self, now_s: float) -> None:
        if self.last_chunk_s is not None:
            gap_s = now_s - self.last_chunk_s
            if gap_s > self.max_gap_s:  # noqa: PLR1730 - `max` takes three times as long, at every chunk
                self.max_gap_s = gap_s
            if self._gaps is not None:
                slot = int(gap_s * GAP_SLOTS_PER_S)
                self._gaps[slot] = self._gaps.get(slot, 0) + 1
        self.last_chunk_s = now_s
        self.chunks += 1

    def _fail(self, fault: Any) -> None:
        code = fault.get("code") if isinstance(fault, dict) else None
        # A full queue is refused inside a 200 when streaming: the same refusal as a status 503.
        self.error = "http_503" if code == 503 else "error_event"
        self.message = str(fault.get("message", "") if isinstance(fault, dict) else fault)[:300]


def _bears_tokens(choice: dict[str, Any]) -> bool:
    """Text, reasoning or a tool call: never the role alone."""
    delta = choice.get("delta") or {}
    return bool(choice.get("text")) or any(delta.get(key) for key in _TEXT_KEYS)
