"""Where a runner tells what it knows: lines on its output, records and a message in files.

Everything is written by threads: a reader that pauses or a disk that is slow must not stop the clock of a load, and
neither of them the other.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tuner.trial.compact import MessageFile, compact
from tuner.trial.records import RecordFile, finite, lines_of
from tuner.trial.result import TrialResult

RECORDS_NAME = "records.log"

_LOOK_EVERY_S = 0.2
# Once told to stop, a reader or a disk gets this long to take the last line.
_FLUSH_S = 5.0


class _Writer:
    """Does what it is given, in order, on a thread of its own. What cannot be written is left out."""

    def __init__(self, name: str) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name=name, daemon=True)
        self._thread.start()

    def later(self, write: Callable[[], object]) -> None:
        self._waiting.put(write)

    def close(self, stop_reason: Callable[[], str]) -> None:
        """Wait until all is written; not for ever once we were told to stop."""
        self._waiting.put(None)
        while self._thread.is_alive() and not stop_reason():
            self._thread.join(_LOOK_EVERY_S)
        self._thread.join(_FLUSH_S)

    def _write(self) -> None:
        while (write := self._waiting.get()) is not None:
            with suppress(OSError):  # nobody reads any more, or the disk is full; a trial goes on without
                write()


class Lines(_Writer):
    """JSON lines, or with `records` numbered ones; `begin` is told in records only."""

    def __init__(self, stream: TextIO, *, records: bool = False) -> None:
        super().__init__("lines")
        self._stream = stream
        self._records = records
        self._number = 0

    def put(self, kind: str, value: Any) -> None:
        if self._records:
            self._number += 1
            lines = lines_of(self._number, kind, value)
        elif kind == "begin":
            return
        else:
            lines = [json.dumps({kind: finite(value)}, allow_nan=False)]
        self.later(lambda: self._print(lines))

    def _print(self, lines: list[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()


class Files(_Writer):
    """The records of a working directory, and the message at `message`. What cannot be opened is said and left out."""

    def __init__(self, workdir: Path, message: Path | None) -> None:
        super().__init__("files")
        self._records: RecordFile | None = None
        self._message: MessageFile | None = None
        with _said():
            workdir.mkdir(parents=True, exist_ok=True)
            self._records = RecordFile(workdir / RECORDS_NAME)
        with _said():
            self._message = MessageFile(message) if message else None

    def put(self, kind: str, value: Any) -> None:
        if (records := self._records) is not None:
            self.later(lambda: records.write(kind, value))

    def checkpoint(self, result: TrialResult) -> None:
        if (message := self._message) is not None:
            self.later(lambda: message.write(compact(result)))


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        sys.stderr.write(f"tuner.trial: nothing is kept in {error.filename} - {error.strerror} - the trial goes on\n")
