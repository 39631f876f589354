"""How long the kernel kept this container off the CPU because its quota was used up (cgroup v2 and v1).

Reads this process's own cgroup, or the root of its namespace as containers see it. Without such files: nothing known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Throttled:
    """Counters since the cgroup was made: periods in which it was stopped, and seconds of them."""

    periods: int
    seconds: float

    def since(self, before: Throttled) -> Throttled:
        return Throttled(self.periods - before.periods, self.seconds - before.seconds)


def throttled(cgroups: Path = CGROUPS, own: Path = OWN) -> Throttled | None:
    """The counters as they stand; None where the kernel tells none."""
    for path in _candidates(cgroups, own):
        try:
            text = path.read_text("ascii")
        except (OSError, ValueError):
            continue
        if (found := _parse(text)) is not None:
            return found
    return None


def _candidates(cgroups: Path, own: Path) -> list[Path]:
    """The process's own group first; inside a container it is the root."""
    try:
        lines = own.read_text("ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    paths = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        below = group.lstrip("/")
        if not controllers:
            paths += [cgroups / below / "cpu.stat", cgroups / "unified" / below / "cpu.stat"]
        elif "cpu" in controllers.split(","):
            paths += [cgroups / name / below / "cpu.stat" for name in (controllers, "cpu", "cpu,cpuacct")]
    return [*paths, cgroups / "cpu.stat", cgroups / "cpu" / "cpu.stat"]


def _parse(text: str) -> Throttled | None:
    fields = dict(line.split()[:2] for line in text.splitlines() if len(line.split()) >= 2)
    try:
        periods = int(fields["nr_throttled"])
        if "throttled_usec" in fields:
            return Throttled(periods, int(fields["throttled_usec"]) / 1e6)
        return Throttled(periods, int(fields["throttled_time"]) / 1e9)
    except (KeyError, ValueError):
        return None
