"""Numbered, checksummed records as text lines: what a trial has measured, readable after a kill or out of a pod's log.

A record is one or several lines `tuner-record NUMBER PART/PARTS CRC32 TEXT`; the parts' texts together are one JSON
object with one key, the kind. Other lines may stand between them, lines may be missing, cut or doubled: the reader
takes what is whole. Pure, but for `RecordFile`. Python 3.10, standard library.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# Container logs are stored in pieces of 16 KiB, and reading "the last N lines" counts pieces: stay below, whole line.
LINE_BYTES = 12 * 1024

_MARK = "tuner-record"
_LINE = re.compile(rf"{_MARK} (\d+) (\d+)/(\d+) ([0-9a-f]{{8}}) (.*)")


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `kind` is `begin`, `stage`, `level` or `result`; numbers count from 1."""

    number: int
    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found, by number. `missing` are numbers that must have existed and cannot be read whole.

    A record after the last one that was found leaves no trace: a trial is complete if there is a `result`.
    """

    records: tuple[Record, ...]
    missing: tuple[int, ...]

    def last(self, kind: str) -> Any:
        """The value of the last record of this kind, or None."""
        return next((record.value for record in reversed(self.records) if record.kind == kind), None)

    def all(self, kind: str) -> list[Any]:
        return [record.value for record in self.records if record.kind == kind]


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def lines_of(number: int, kind: str, value: Any, line_bytes: int = LINE_BYTES) -> list[str]:
    """The lines of one record, ASCII, none longer than `line_bytes`, without their newlines."""
    text = json.dumps({kind: finite(value)}, allow_nan=False, separators=(",", ":"))
    room = line_bytes - 64  # the numbers before it
    parts = [text[at : at + room] for at in range(0, len(text), room)]
    return [_line(number, part, len(parts), piece) for part, piece in enumerate(parts, 1)]


def _line(number: int, part: int, parts: int, piece: str) -> str:
    return f"{_MARK} {number} {part}/{parts} {_checksum(number, part, parts, piece)} {piece}"


def _checksum(number: int, part: int, parts: int, piece: str) -> str:
    return f"{zlib.crc32(f'{number} {part}/{parts} {piece}'.encode(errors='surrogatepass')):08x}"


def read_records(lines: Iterable[str]) -> Reading:
    """What can be read whole. A line may begin with anything (a log's time stamp); of doubled ones the first counts."""
    pieces: dict[int, dict[int, str]] = {}
    sizes: dict[int, int] = {}
    for line in lines:
        found = _LINE.search(line.rstrip("\r\n"))
        if found is None:
            continue
        number, part, parts = int(found[1]), int(found[2]), int(found[3])
        if found[4] == _checksum(number, part, parts, found[5]) and sizes.setdefault(number, parts) == parts:
            pieces.setdefault(number, {}).setdefault(part, found[5])
    read = [_joined(number, parts, sizes[number]) for number, parts in sorted(pieces.items())]
    records = tuple(record for record in read if record is not None)
    whole = {record.number for record in records}
    missing = tuple(number for number in range(1, max(pieces, default=0) + 1) if number not in whole)
    return Reading(records, missing)


def _joined(number: int, parts: Mapping[int, str], count: int) -> Record | None:
    try:
        document = json.loads("".join(parts[part] for part in range(1, count + 1)))
        ((kind, value),) = document.items()
    except (KeyError, ValueError, AttributeError):
        return None
    return Record(number, kind, value)


class RecordFile:
    """Appends records to a file, each with one write: a kill leaves at most the last line torn."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew.

        Raises:
            OSError: it cannot be written.
        """
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._number = 0

    def __enter__(self) -> RecordFile:  # noqa: PYI034 - Self came with Python 3.11
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, kind: str, value: Any) -> None:
        """Append one record and ask the disk for it: it outlives this process, and the machine."""
        self._number += 1
        text = "".join(f"{line}\n" for line in lines_of(self._number, kind, value))
        os.write(self._handle, text.encode("ascii"))
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def read_file(path: Path) -> Reading:
    """The records of a file, as far as they can be read; none if there is no such file."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return read_records(file)
    except OSError:
        return Reading((), ())
