"""Whether the kernel killed something for want of host memory: the counters of this process's control group.

Reads cgroup v1 and v2; where there is neither it knows nothing and says so with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class OomCounts:
    """Processes of this group that the kernel killed, and how often the group's own limit was hit."""

    kills: int = 0
    limit_hits: int = 0

    def since(self, before: OomCounts) -> OomCounts:
        return OomCounts(self.kills - before.kills, self.limit_hits - before.limit_hits)

    @property
    def cause(self) -> Literal["", "limit", "machine"]:
        """`limit`: the container's own; `machine`: killed although it kept within its limit."""
        if self.kills <= 0:
            return ""
        return "limit" if self.limit_hits > 0 else "machine"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def read_counts(read: Callable[[Path], str] = _read) -> OomCounts:
    """The counters as they are now. `read` returns a file's text, or "" if there is none."""
    groups = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in read(Path("/proc/self/cgroup")).splitlines()}
    for base in (_ROOT / groups.get("", "/").lstrip("/"), _ROOT):
        if events := read(base / "memory.events"):
            return OomCounts(_field(events, "oom_kill"), _field(events, "oom"))
    for base in (_ROOT / "memory" / groups.get("memory", "/").lstrip("/"), _ROOT / "memory"):
        if control := read(base / "memory.oom_control"):
            return OomCounts(_field(control, "oom_kill"), int(read(base / "memory.failcnt") or 0))
    return OomCounts()


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
