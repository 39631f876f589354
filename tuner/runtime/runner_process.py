"""One runner (`python -m tuner.trial`) as a child of the controller: its pipes, its lines, its end, its remains.

The runner holds the read end of a control pipe and ends when the write end, here, is gone: also after SIGKILL of the
controller. It holds a lock on its folder all its life, so that a later controller knows whether it still lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.trial import processes
from tuner.trial.family import FamilyRecord, end_leftovers
from tuner.trial.runner import RECORD_NAME
from tuner.trial.spec import TrialSpec

LOCK_NAME = "runner.lock"
FOLDER_VARIABLE = "TUNER_TRIAL_DIR"

_STDERR_NAME = "runner.stderr"
_READ_BYTES = 1 << 16
# The runner's own way down when it is told to stop: 5 s for the load, 1 s for the engine, 10 s of SIGKILL, its last
# resort after 25 s.
STOP_AT_MOST_S = 40.0
_EXIT_S = 10.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """One message of a runner: `kind` is `stage`, `level` or `result`."""

    kind: str
    value: Any


class RunnerProcess:
    """A running trial."""

    def __init__(
        self,
        spec: TrialSpec,
        folder: Path,
        *,
        env: Mapping[str, str],
        python: str = sys.executable,
        inherit: Sequence[int] = (),
        files: Path | None = None,
    ) -> None:
        """Start it. `inherit` are descriptors it keeps open all its life (locks), `files` is where the user's lie."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        spec_path = folder / "spec.json"
        spec_path.write_text(json.dumps(spec.as_json()), encoding="utf-8")
        lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        theirs, self._control = os.pipe()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            command = [python, "-m", "tuner.trial", "--spec", str(spec_path)]
            command += ["--workdir", str(folder), "--control-fd", str(theirs)]
            command += ["--files", str(files)] if files else []
            with (folder / _STDERR_NAME).open("ab") as stderr:
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**os.environ, **env, FOLDER_VARIABLE: str(folder)},
                    pass_fds=(theirs, lock, *inherit),
                    start_new_session=True,
                )
        except OSError:
            os.close(self._control)
            raise
        finally:
            os.close(theirs)
            os.close(lock)
        assert self._child.stdout is not None
        self.stdout = self._child.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._rest = b""

    def read(self) -> list[Line] | None:
        """Lines that have come; None at the end of the output."""
        try:
            new = os.read(self.stdout.fileno(), _READ_BYTES)
        except BlockingIOError:
            return []
        if not new:
            return None
        *whole, self._rest = (self._rest + new).split(b"\n")
        return [line for line in map(_parse, whole) if line is not None]

    def tell_to_stop(self) -> None:
        """Close the control pipe; the runner stops its engine and ends."""
        with suppress(OSError):
            os.close(self._control)
        self._control = -1

    def end(self, timeout_s: float = _EXIT_S) -> int:
        """Wait for its end, force it after `timeout_s`; its exit code. Nothing of it is left afterwards."""
        try:
            code = self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        self.tell_to_stop()
        self.stdout.close()
        end_remains(self.folder)
        return code

    def last_words(self) -> str:
        """The last line of its stderr."""
        try:
            text = (self.folder / _STDERR_NAME).read_text(errors="replace")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _parse(line: bytes) -> Line | None:
    """A runner writes one key per line; anything else on its stdout is not ours."""
    try:
        doc = json.loads(line)
    except ValueError:
        return None
    if not isinstance(doc, dict) or len(doc) != 1:
        return None
    ((kind, value),) = doc.items()
    return Line(kind, value)


def lives(folder: Path) -> bool:
    """Whether the runner of this folder still runs, whoever started it."""
    try:
        handle = os.open(folder / LOCK_NAME, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def await_end(folders: Sequence[Path], timeout_s: float) -> None:
    """Wait for runners of an earlier controller: their control pipes are closed, so they end by themselves."""
    give_up_s = time.monotonic() + timeout_s
    while any(lives(folder) for folder in folders) and time.monotonic() < give_up_s:
        time.sleep(_LOOK_EVERY_S)


def end_remains(folder: Path) -> None:
    """SIGKILL whatever is left of the folder's runner and engine."""
    everybody = processes.scan().values()
    for pid in processes.marked(everybody, f"{FOLDER_VARIABLE}={folder}") - {os.getpid()}:
        if (found := processes.look_up(pid)) is not None:
            processes.kill(found)
    if (record := FamilyRecord.read(folder / RECORD_NAME)) is not None:
        end_leftovers(record)


def remove(folder: Path) -> None:
    """Delete the folder, as far as that goes."""
    shutil.rmtree(folder, ignore_errors=True)
