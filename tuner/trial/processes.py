"""Who belongs to an engine, and how to end all of them: /proc, process descriptors and two Linux process controls.

Knows no engine and no trial. Without /proc (not Linux) it sees nothing; callers then have the process group alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_PROC = Path("/proc")
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat. `start_ticks` since boot tells a process from a later one with the same pid."""

    pid: int
    state: str
    ppid: int
    group: int
    session: int
    start_ticks: int

    @property
    def is_zombie(self) -> bool:
        return self.state in "ZX"


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat; the program's name may hold spaces and parentheses."""
    pid = int(text[: text.index("(")])
    fields = text[text.rindex(")") + 1 :].split()
    return Process(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def look_up(pid: int) -> Process | None:
    """The process with this pid as it is now, or None."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text(errors="replace"))
    except (OSError, ValueError, IndexError):
        return None


def scan() -> dict[int, Process]:
    """Every process this one can see, by pid."""
    try:
        pids = [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 - Path objects for nothing
    except OSError:
        return {}
    found = (look_up(pid) for pid in pids)
    return {process.pid: process for process in found if process is not None}


def with_descendants(processes: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """The roots and everything below them."""
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting.extend(children.get(pid, ()))
    return found


def marked(processes: Iterable[Process], mark: str) -> set[int]:
    """Those started with `mark` (NAME=value) in their environment, wherever they went since.

    A process that overwrites its title may overwrite its environment too, so this only adds to what sessions tell.
    """
    wanted = mark.encode()
    found = set()
    for process in processes:
        with suppress(OSError):
            if wanted in (_PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                found.add(process.pid)
    return found


def kill(process: Process, number: int = signal.SIGKILL) -> None:
    """Signal exactly this process: one that took over its pid since is left alone."""
    with suppress(ProcessLookupError, PermissionError):
        try:
            handle = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            if _is_still(process):
                os.kill(process.pid, number)
            return
        try:
            if _is_still(process):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _is_still(process: Process) -> bool:
    now = look_up(process.pid)
    return now is not None and now.start_ticks == process.start_ticks


def reap(processes: Iterable[Process]) -> None:
    """Collect these dead children. Never `waitpid(-1)`: it would steal exit codes that others wait for."""
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def adopt_orphans() -> bool:
    """Make this process the parent of every descendant whose own parent dies. False where there is no such thing."""
    return _LIBC is not None and _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def die_with(parent: int) -> None:
    """In a new child: be killed when the parent dies, also if it died before this line."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def boot_id() -> str:
    """Changes with every boot, so that pids written down before are not believed after."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
