"""A child process with everything it ever started: told to stop, then ended, whole, whatever it does about it.

Knows no engine. One family per process at a time: orphans that come back to this process are taken for its members.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.trial import processes
from tuner.trial.processes import Process

MARK_VARIABLE = "TUNER_TRIAL"

# Once the leader is gone, what is left of its group has nothing to drain.
_ORPHANS_GRACE_S = 1.0
# Ten seconds of SIGKILL: what survives it hangs in the kernel (a GPU driver) and no signal will end it.
_KILL_S = 10.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class FamilyRecord:
    """Enough to find a family's members after the process that watched over them was killed."""

    pid: int
    start_ticks: int
    boot_id: str
    mark: str

    @classmethod
    def read(cls, path: Path) -> FamilyRecord | None:
        """The record in this file, or None if there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self)), encoding="utf-8")
        draft.replace(path)


class ProcessFamily:
    """A running child in a session of its own, and its descendants."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], *, mark: str, **streams: Any) -> None:
        """Start `argv` with this process's environment plus `env`; `mark` identifies what it starts.

        `streams` are `Popen`'s stdin, stdout and stderr.

        Raises:
            OSError: the program cannot be started.
        """
        processes.adopt_orphans()
        self._before = {(p.pid, p.start_ticks) for p in processes.scan().values()}
        self._mark = f"{MARK_VARIABLE}={mark}"
        me = os.getpid()
        self._child = subprocess.Popen(
            list(argv),
            env={**os.environ, **env, MARK_VARIABLE: mark},
            start_new_session=True,
            preexec_fn=lambda: _prepare(me),  # noqa: PLW1509 - two system calls; there is no other way to ask for them
            **streams,
        )
        self.pid = self._child.pid
        leader = processes.look_up(self.pid)
        self._start_ticks = leader.start_ticks if leader else 0

    @property
    def record(self) -> FamilyRecord:
        return FamilyRecord(self.pid, self._start_ticks, processes.boot_id(), self._mark)

    def exit_code(self) -> int | None:
        """The child's exit code (negative: the signal that ended it), or None while it runs."""
        return self._child.poll()

    def reap_orphans(self) -> None:
        """Collect dead grandchildren that came back to us; the process table is finite."""
        seen = processes.scan()
        processes.reap(p for p in self._adopted(seen) if p.is_zombie)

    def stop(self, drain_s: float) -> list[int]:
        """SIGTERM, up to `drain_s` to drain, then SIGKILL to all that is left. Returns pids no signal could end."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM)
        give_up_s = time.monotonic() + drain_s
        while self.exit_code() is None and time.monotonic() < give_up_s:
            time.sleep(_LOOK_EVERY_S)
        give_up_s = min(give_up_s, time.monotonic() + _ORPHANS_GRACE_S)
        while self._alive() and time.monotonic() < give_up_s:
            time.sleep(_LOOK_EVERY_S)
        return self.kill()

    def kill(self) -> list[int]:
        """SIGKILL the whole session and every descendant that left it, until none is left. Reaps them."""
        give_up_s = time.monotonic() + _KILL_S
        alive = self._alive()
        while alive and time.monotonic() < give_up_s:
            for process in alive:
                processes.kill(process)
            time.sleep(_LOOK_EVERY_S / 5)
            alive = self._alive()
        if os.getpid() == 1:  # pragma: no cover - in a container of our own; anywhere else this ends the user's session
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        self.reap_orphans()
        self.exit_code()  # the child too: it may have died after we last asked
        return [process.pid for process in alive]

    def _alive(self) -> list[Process]:
        self.exit_code()
        self.reap_orphans()
        seen = processes.scan()
        family = family_of(seen, self.pid, self._start_ticks, self._mark)
        family |= processes.with_descendants(seen, (p.pid for p in self._adopted(seen)))
        family -= {os.getpid()}
        return [seen[pid] for pid in family if pid in seen and not seen[pid].is_zombie]

    def _adopted(self, seen: Mapping[int, Process]) -> list[Process]:
        """Children of ours that we did not start: orphans of the family. Our own children share our session."""
        me, session = os.getpid(), os.getsid(0)
        return [
            p
            for p in seen.values()
            if p.ppid == me
            and p.session != session
            and p.pid != self.pid
            and (p.pid, p.start_ticks) not in self._before
        ]


def family_of(seen: Mapping[int, Process], leader: int, leader_start_ticks: int, mark: str) -> set[int]:
    """The leader, its session and group, everything below those, and whatever carries the mark."""
    now = seen.get(leader)
    if now is not None and now.start_ticks != leader_start_ticks:
        roots: set[int] = set()  # somebody else has that pid now, and may lead a session with that number
    else:
        roots = {p.pid for p in seen.values() if leader in (p.pid, p.session, p.group)}
    family = processes.with_descendants(seen, roots) if roots else set()
    return family | processes.marked(seen.values(), mark)


def end_leftovers(record: FamilyRecord) -> list[int]:
    """SIGKILL what is left of a family whose watcher died. Returns pids that outlived it."""
    if record.boot_id != processes.boot_id():
        return []
    give_up_s = time.monotonic() + _KILL_S
    while True:
        seen = processes.scan()
        family = family_of(seen, record.pid, record.start_ticks, record.mark) - {os.getpid()}
        processes.reap(seen[pid] for pid in family if seen[pid].ppid == os.getpid() and seen[pid].is_zombie)
        alive = [seen[pid] for pid in family if not seen[pid].is_zombie]
        if not alive or time.monotonic() >= give_up_s:
            return [process.pid for process in alive]
        for process in alive:
            processes.kill(process)
        time.sleep(_LOOK_EVERY_S / 5)


def _prepare(parent: int) -> None:
    """In the child, before its program: die with the parent, and no core dump of hundreds of gigabytes."""
    processes.die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
