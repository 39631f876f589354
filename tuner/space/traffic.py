"""The user's own traffic, read from a JSON Lines file: prompts, or a trace in Mooncake's format.

    {"prompt": "...", "output_tokens": 200}                                        prompts; or "messages": [...]
    {"timestamp": 0, "input_length": 6955, "output_length": 52, "hash_ids": [46]}  a trace; timestamps in milliseconds

What is wrong with a file is told by its line and key, never by what the line holds: prompts are nobody's business.
Knows no tokenizer: prompts are measured in letters. Standard library only, Python 3.10: the runner reads it too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from statistics import fmean, median, pvariance
from typing import Any, Literal

from tuner.space.workload import Length, TrafficFile, Workload

Kind = Literal["file", "trace"]

BLOCK_TOKENS = 512
"""Tokens that one hash id of Mooncake's published traces stands for."""

PIECE_TOKENS = 64
LETTERS_PER_TOKEN = 4
"""Of English prose, about. Only plans and simulations use it; a measurement counts by the engine's usage."""

MAX_TOKENS = 100_000_000
_OUTPUT_KEYS = ("output_tokens", "output_length", "max_tokens")
_KNOWN: Mapping[str, frozenset[str]] = {
    "file": frozenset({"prompt", "messages", "timestamp", *_OUTPUT_KEYS}),
    "trace": frozenset({"timestamp", "input_length", "output_length", "hash_ids"}),
}


class TrafficError(ValueError):
    """A file that cannot be used. `line` counts from 1; 0 means the whole file."""

    def __init__(self, line: int, message: str) -> None:
        self.line, self.message = line, message
        super().__init__(message)

    def told(self, name: str) -> str:
        """One line with the place."""
        return f"{name}:{self.line}: {self.message}" if self.line else f"{name}: {self.message}"


@dataclass(frozen=True, slots=True)
class Row:
    """One request. `blocks` name its beginning, block by block; `shared_tokens` of it an earlier line has had.

    `at_ms` is None where the file gives no times, `output_tokens` where it gives no lengths. `prompt` is the user's
    own (a text, or chat messages), with its first `own_from` letters shared with other lines.
    """

    input_tokens: int
    output_tokens: int | None
    at_ms: float | None
    blocks: tuple[int, ...] = ()
    shared_tokens: int = 0
    prompt: Any = field(default=None, repr=False)
    own_from: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """All lines of a file, in order."""

    kind: Kind
    name: str
    sha256: str
    block_tokens: int
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def timed(self) -> bool:
        """Whether arrivals can follow the file's times."""
        first, last = self.rows[0].at_ms, self.rows[-1].at_ms
        return first is not None and last is not None and last > first

    @property
    def file(self) -> TrafficFile:
        """What may be stored of it."""
        return TrafficFile(self.kind, self.name, self.sha256, len(self.rows), self.block_tokens, self._gaps_cv2())

    @property
    def input_tokens(self) -> Length:
        """Lengths of the prompts; of the user's own an estimate from their letters."""
        return Length.observed([row.input_tokens for row in self.rows])

    @property
    def output_tokens(self) -> Length | None:
        """Lengths of the answers; None where not every line gives one."""
        lengths = [row.output_tokens for row in self.rows if row.output_tokens is not None]
        return Length.observed(lengths) if len(lengths) == len(self.rows) else None

    @property
    def cached_fraction(self) -> float:
        """Share of all input tokens that an earlier line has begun with: what an endless cache would give."""
        return sum(row.shared_tokens for row in self.rows) / sum(row.input_tokens for row in self.rows)

    @property
    def prefix_groups(self) -> int:
        """As many as would, used at random, be used again after as many requests as the shared blocks are.

        That is what decides what a cache still holds; of G prefixes used at random half are used again within G ln 2.
        """
        last: dict[int, int] = {}
        after: list[int] = []
        for i, row in enumerate(self.rows):
            after += [i - last[block] for block in row.blocks if block in last]
            last.update(dict.fromkeys(row.blocks, i))
        return min(10_000, max(1, round(median(after) / math.log(2)))) if after else 1

    @property
    def chat(self) -> bool:
        """Whether a line holds messages, which need the chat endpoint."""
        return any(isinstance(row.prompt, list) for row in self.rows)

    def _gaps_cv2(self) -> float | None:
        if not self.timed:
            return None
        times = [row.at_ms or 0.0 for row in self.rows]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        mean = fmean(gaps)
        return pvariance(gaps, mean) / mean**2


def resolve(name: str, folder: Path) -> Path:
    """Where a named file lies: relative names in `folder`; an absolute one that is not there, by its last part."""
    path = Path(name)
    if path.is_absolute():
        return path if path.exists() else folder / PurePath(name).name
    return folder / path


def read_traffic(path: Path, kind: Kind, *, name: str, block_tokens: int = BLOCK_TOKENS) -> Traffic:
    """Read and check a whole file.

    Raises:
        TrafficError: it cannot be read, is empty, torn or no text, or a line is not what `kind` says.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise TrafficError(0, "no such file") from None
    except OSError as error:
        raise TrafficError(0, f"cannot be read: {error.strerror or type(error).__name__}") from None
    documents = list(_documents(raw))
    if not documents:
        raise TrafficError(0, "is empty; one JSON object a line is needed")
    read = _trace_row if kind == "trace" else _prompt_row
    rows = [read(line, document, block_tokens) for line, document in documents]
    _check_times([line for line, _ in documents], rows)
    if kind == "file":
        block_tokens = PIECE_TOKENS
    return Traffic(kind, name, hashlib.sha256(raw).hexdigest(), block_tokens, tuple(_shared(rows, block_tokens)))


def traffic_for(workload: Workload, folder: Path) -> Traffic | None:
    """The content of a workload's file, found in `folder`; None for a workload without one.

    Raises:
        TrafficError: it cannot be used, or is not the file the workload was made with.
    """
    wanted = workload.traffic
    if wanted is None:
        return None
    path = resolve(wanted.name, folder)
    try:
        traffic = read_traffic(path, wanted.kind, name=wanted.name, block_tokens=wanted.block_tokens)
    except TrafficError as error:
        raise TrafficError(0, error.told(str(path))) from None
    if traffic.sha256 != wanted.sha256:
        text = f"{path} has the sha256 {traffic.sha256[:12]}..., the study's file {wanted.sha256[:12]}..."
        raise TrafficError(0, text)
    return traffic


def _documents(raw: bytes) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            raise TrafficError(number, "is not UTF-8 text") from None
        except (ValueError, RecursionError) as error:
            column = getattr(error, "colno", 1)
            torn = "; the last line has no end: was the file cut off?" if raw.endswith(line) else ""
            raise TrafficError(number, f"is not JSON (column {column}){torn}") from None
        if not isinstance(document, dict):
            raise TrafficError(number, f"must be a JSON object, not {_kind_of(document)}")
        yield number, document


def _trace_row(line: int, document: Mapping[str, Any], block_tokens: int) -> Row:
    _check_keys(line, document, "trace", ("timestamp", "input_length", "output_length"))
    tokens = _whole(line, document, "input_length", 1)
    ids = document.get("hash_ids") or []
    if not isinstance(ids, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise TrafficError(line, "`hash_ids` must be a list of whole numbers")
    if len(ids) > math.ceil(tokens / block_tokens):
        text = f"{len(ids)} hash ids of {block_tokens} tokens are more than {tokens} input tokens; set block_tokens"
        raise TrafficError(line, text)
    output = _whole(line, document, "output_length", 0)
    return Row(tokens, max(1, output), _time(line, document), tuple(ids))


def _prompt_row(line: int, document: Mapping[str, Any], _: int) -> Row:
    _check_keys(line, document, "file", ())
    if ("prompt" in document) == ("messages" in document):
        raise TrafficError(line, "needs exactly one of `prompt` and `messages`")
    prompt = document["prompt"] if "prompt" in document else _messages(line, document["messages"])
    if isinstance(document.get("prompt", "-"), str) is False or not prompt:
        raise TrafficError(line, "`prompt` must be text and not empty")
    given = [key for key in _OUTPUT_KEYS if key in document]
    if len(given) > 1:
        raise TrafficError(line, f"give one of `{given[0]}` and `{given[1]}`")
    output = _whole(line, document, given[0], 1) if given else None
    text = letters_of(prompt)
    size = PIECE_TOKENS * LETTERS_PER_TOKEN
    chain, blocks = hashlib.sha256(), []
    for begin in range(0, len(text) - size + 1, size):
        chain.update(text[begin : begin + size].encode("utf-8", "surrogatepass"))
        blocks.append(int.from_bytes(chain.digest()[:8], "big"))
    tokens = max(1, round(len(text) / LETTERS_PER_TOKEN))
    return Row(tokens, output, _time(line, document), tuple(blocks), prompt=prompt)


def letters_of(prompt: Any) -> str:
    """A prompt as one text, messages one after the other."""
    if isinstance(prompt, str):
        return prompt
    return "".join(head + body for head, body, _ in message_texts(prompt))


def message_texts(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """Role, content as text, and whether the content is text, of each message."""
    contents = [message.get("content") for message in messages]
    texts = [c if isinstance(c, str) else json.dumps(c, ensure_ascii=False) for c in contents]
    return [
        (str(m["role"]), text, isinstance(content, str))
        for m, content, text in zip(messages, contents, texts, strict=True)
    ]


def _messages(line: int, messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise TrafficError(line, "`messages` must be a list of objects with `role` and `content`")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message.get("role"), str):
            raise TrafficError(line, f"message {number} has no `role`")
        if message.get("content") is None and not message.get("tool_calls"):
            raise TrafficError(line, f"message {number} has no `content`")
    return messages


def _check_keys(line: int, document: Mapping[str, Any], kind: str, needed: Sequence[str]) -> None:
    missing = [key for key in needed if key not in document]
    unknown = sorted(str(key) for key in document if key not in _KNOWN[kind])
    if missing:
        other = " (is it a file of prompts?)" if {"prompt", "messages"} & set(document) else ""
        raise TrafficError(line, f"has no `{missing[0]}`{other}")
    if unknown:
        other = " (is it a trace?)" if "input_length" in document else ""
        # Keys could be anybody's words: only what looks like a key is repeated.
        shown = f"`{unknown[0]}`" if unknown[0].isidentifier() and len(unknown[0]) <= 30 else "one"
        raise TrafficError(line, f"unknown key: {shown}{other}; known are {', '.join(sorted(_KNOWN[kind]))}")


def _whole(line: int, document: Mapping[str, Any], key: str, least: int) -> int:
    value = document[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_TOKENS:
        raise TrafficError(line, f"`{key}` must be a whole number of tokens, at least {least}")
    return value


def _time(line: int, document: Mapping[str, Any]) -> float | None:
    if "timestamp" not in document:
        return None
    value = document["timestamp"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TrafficError(line, "`timestamp` must be a number of milliseconds")
    return float(value)


def _check_times(lines: Sequence[int], rows: Sequence[Row]) -> None:
    """All lines have a time or none has, and none is earlier than the one before."""
    for number, (before, row) in zip(lines[1:], itertools.pairwise(rows), strict=True):
        if (row.at_ms is None) != (before.at_ms is None):
            raise TrafficError(number, "either every line has a `timestamp` or none has")
        if row.at_ms is not None and before.at_ms is not None and row.at_ms < before.at_ms:
            raise TrafficError(number, "its `timestamp` is before that of the line above")


def _shared(rows: Sequence[Row], block_tokens: int) -> Iterable[Row]:
    """The rows with how much of each an earlier one has begun with; at least one token of a prompt is always new."""
    uses = Counter(block for row in rows for block in dict.fromkeys(row.blocks))
    seen: set[int] = set()
    for row in rows:
        known = _leading(row.blocks, seen.__contains__)
        seen.update(row.blocks)
        with_others = _leading(row.blocks, lambda block: uses[block] > 1)
        yield Row(
            row.input_tokens,
            row.output_tokens,
            row.at_ms,
            row.blocks,
            min(known * block_tokens, row.input_tokens - 1),
            row.prompt,
            with_others * block_tokens * LETTERS_PER_TOKEN if row.prompt is not None else 0,
        )


def _leading(blocks: Sequence[int], known: Any) -> int:
    return next((i for i, block in enumerate(blocks) if not known(block)), len(blocks))


def _kind_of(value: object) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
