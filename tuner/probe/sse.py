"""One streamed answer, OpenAI-style or sglang's own (/generate), fed with body bytes as they come. No sockets or clock.

JSON is parsed only up to the first generated token and where usage or an error is announced; the chunks in between
are recognised by their bytes, because at ten thousand chunks a second parsing them all would fill the client's core:
by those around the text, which do not change within an answer, and by a search where that fails.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tuner.probe.gaps import FOLDED_AT_ONCE, ChunkTimes

_BEARS_TOKENS = re.compile(rb'"(?:text|content|reasoning_content|reasoning)":\s*"(?!")|"tool_calls":\s*\[(?!\])')
_NULL_USAGE = re.compile(rb'"usage":\s*null')
_ABORTED = re.compile(rb'"finish_reason":\s*"abort"')

_TEXT_KEYS = ("content", "reasoning_content", "reasoning", "tool_calls")


class StreamedAnswer:
    """What is known of one answer so far. Times are the caller's.

    `error` is a short stable word, `message` the server's own sentence to it.
    """

    __slots__ = (
        "_buffer", "_data", "cached_tokens", "cached_told", "done", "error", "finish_s", "first_token_s",
        "first_tokens", "head", "input_tokens", "message", "output_tokens", "tail", "times",
    )  # fmt: skip

    def __init__(self, gaps: Counter[int] | None = None) -> None:
        """`gaps` counts the gaps between chunks, shared by many answers (`tuner.probe.gaps`)."""
        self.times = ChunkTimes(Counter() if gaps is None else gaps)
        self._buffer = b""
        self._data: list[bytes] = []
        self.head = self.tail = b""
        """What stands around the text of a plain event, the quotation mark after it included; empty: not known yet."""
        self.first_token_s: float | None = None
        self.finish_s: float | None = None
        self.first_tokens = 1
        self.input_tokens = self.output_tokens = self.cached_tokens = 0
        self.cached_told = self.done = False
        self.error: str | None = None
        self.message = ""

    @property
    def chunks(self) -> int:
        """Chunks that bore tokens."""
        return len(self.times)

    def end(self) -> None:
        """No more comes: without the last event of a stream it is not a whole answer."""
        if self.error is None and not self.done:
            self.error, self.message = "truncated", "the stream ended without [DONE]"
            if not self.chunks and self._buffer.lstrip().startswith(b"{"):
                self.message = "a document came instead of a stream of events: it does not stream"

    def feed(self, data: bytes, now_s: float) -> bool:
        """Take body bytes received at `now_s`; True when they held the first generated token."""
        if self._repeats(data):
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

    @property
    def between_events(self) -> bool:
        return not self._buffer and not self._data

    def _repeats(self, data: bytes) -> bool:
        """Whether these bytes are one event that differs from an earlier one of plain text in that text alone.

        Such a text holds no quotation mark: its end is where the first one stands.
        """
        head, tail = self.head, self.tail
        text, quote = len(head), len(data) - len(tail)
        return (
            tail != b""
            and text < quote == data.find(b'"', text)
            and data.startswith(head)
            and data.endswith(tail)
            and self.between_events
        )

    def _event(self, event: bytes, now_s: float) -> None:
        if event == b"[DONE]":
            self.done = True
            return
        announces = (
            b'"error"' in event or b'"meta_info"' in event or (b'"usage"' in event and not _NULL_USAGE.search(event))
        )
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
        if "meta_info" in document:
            document = _as_openai(document, self.output_tokens)
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
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            self.cached_told, self.cached_tokens = cached is not None, int(cached or 0)

    def _learn(self, event: bytes, text: int) -> None:
        """What stands around the text of an event, framed as nearly everybody frames it."""
        quote = event.find(b'"', text)
        if quote > text:
            self.head, self.tail = b"data: " + event[:text], event[quote:] + b"\n\n"

    def _chunk(self, now_s: float) -> None:
        waiting = self.times.waiting
        waiting.append(now_s)
        if len(waiting) > FOLDED_AT_ONCE:
            self.times.fold()

    def _fail(self, fault: Any) -> None:
        code = fault.get("code") if isinstance(fault, dict) else None
        # A full queue is refused inside a 200 when streaming: the same refusal as a status 503.
        self.error = "http_503" if code == 503 else "error_event"
        self.message = str(fault.get("message", "") if isinstance(fault, dict) else fault)[:300]


def _as_openai(document: dict[str, Any], told_tokens: int) -> dict[str, Any]:
    """An event of sglang's own stream, which repeats the whole text and its counts each time, in the other's form."""
    meta = document["meta_info"]
    usage = {key: meta.get(key) for key in ("prompt_tokens", "completion_tokens")}
    more = int(usage["completion_tokens"] or 0) > told_tokens
    return {
        "choices": [
            {"text": more and document.get("text"), "finish_reason": (meta.get("finish_reason") or {}).get("type")}
        ],
        "usage": {**usage, "prompt_tokens_details": {"cached_tokens": meta.get("cached_tokens")}},
    }


def _bears_tokens(choice: dict[str, Any]) -> bool:
    """Text, reasoning or a tool call: never the role alone."""
    delta = choice.get("delta") or {}
    return bool(choice.get("text")) or any(delta.get(key) for key in _TEXT_KEYS)
