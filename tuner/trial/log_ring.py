"""An engine's output on disk, never more than a cap of it: the beginning stays, the end rolls, the middle goes.

The engine writes into a pipe that a thread empties, whatever becomes of the disk: an engine never waits for its log.
Knows nothing of what it carries, but that some values must not reach the disk.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# 64 MiB at most: head, the part before the current one, the current one. A start with a few tracebacks is below 1 MiB.
HEAD_BYTES = 16 * 1024 * 1024
PART_BYTES = 24 * 1024 * 1024

_READ_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20  # what an unprivileged process may ask for (/proc/sys/fs/pipe-max-size)
_LOOK_EVERY_S = 0.1
_POLL_S = 0.005


def older(path: Path) -> tuple[Path, Path]:
    """Where this log's beginning and its part before the current one are, once it was long enough to have them."""
    return path.with_name(f"{path.name}.head"), path.with_name(f"{path.name}.previous")


class LogRing:
    """A pipe to give to a child as its output, and the thread that keeps what comes out of it."""

    def __init__(
        self, path: Path, *, secrets: Sequence[str] = (), head_bytes: int = HEAD_BYTES, part_bytes: int = PART_BYTES
    ) -> None:
        """Begin the log anew.

        Raises:
            OSError: it cannot be written.
        """
        self._path = path
        self._head, self._previous = older(path)
        for old in (self._head, self._previous):
            old.unlink(missing_ok=True)
        self._secrets = tuple(secret.encode() for secret in secrets)
        self._held = b""
        self._room = head_bytes
        self._part_bytes = part_bytes
        self._file = self._open()
        self._pipe, self.write_end = os.pipe()
        with suppress(AttributeError, OSError):
            fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._busy = False
        self._ended = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="engine-log", daemon=True)

    def start(self) -> None:
        """The child has its end: the pipe ends with the last process that holds it."""
        os.close(self.write_end)
        self._thread.start()

    def abandon(self) -> None:
        """There is no child."""
        for handle in (self.write_end, self._pipe, self._file):
            os.close(handle)

    def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until what was written so far is in the file."""
        give_up_s = time.monotonic() + timeout_s
        while not self._ended.is_set() and time.monotonic() < give_up_s:
            if not self._busy and not select.select([self._pipe], [], [], 0)[0]:
                return
            time.sleep(_POLL_S)

    def close(self) -> None:
        """No more is wanted, whoever still holds the pipe. What is in it is kept. Harmless when repeated."""
        if self._closing.is_set():
            return
        self.flush()
        self._closing.set()
        self._thread.join()
        for handle in (self._pipe, self._file):
            os.close(handle)

    def _pump(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._pipe], [], [], _LOOK_EVERY_S)[0]:
                continue
            self._busy = True
            data = os.read(self._pipe, _READ_BYTES)
            self._keep(self._masked(data) if data else self._held)
            self._busy = False
            if not data:
                break
        self._ended.set()

    def _masked(self, data: bytes) -> bytes:
        """The data without secrets; an end that may be the beginning of one waits for what follows."""
        if not self._secrets:
            return data
        data = self._held + data
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        longest = max(len(secret) for secret in self._secrets) - 1
        hold = next(
            (n for n in range(min(longest, len(data)), 0, -1) if any(s.startswith(data[-n:]) for s in self._secrets)), 0
        )
        self._held = data[len(data) - hold :]
        return data[: len(data) - hold]

    def _keep(self, data: bytes) -> None:
        """Write it; a full disk costs the log, never the engine."""
        while data:
            if self._room <= 0:
                self._turn()
            with suppress(OSError):
                os.write(self._file, data[: self._room])
            data, self._room = data[self._room :], self._room - len(data)

    def _turn(self) -> None:
        """Put the full file aside, where it stays (the first) or makes room for the next."""
        self._room = self._part_bytes
        with suppress(OSError):
            self._path.replace(self._previous if self._head.exists() else self._head)
            full, self._file = self._file, self._open()
            os.close(full)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
