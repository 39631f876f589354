"""Which configurations are tried again: lost ones (bounded), doubtful ones once, puzzling crashes once.

Pure. A recognised configuration failure is never tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tuner.study.history import PastTrial

INVALID_REPEATS = 1
CRASH_REPEATS = 1
NEAR_CERTAIN_MARGIN_GIB = 2.0
"""With this much memory to spare per GPU, fit is near certain: an unrecognised crash is then worth a second look."""


def by_configuration(history: Iterable[PastTrial]) -> dict[str, list[PastTrial]]:
    """Trials of each fingerprint in order, without those that never started."""
    groups: dict[str, list[PastTrial]] = {}
    for trial in history:
        if trial.state != "abandoned":
            groups.setdefault(trial.fingerprint, []).append(trial)
    return groups


def due(history: Sequence[PastTrial], pool: str, retries: int, near_certain: Callable[[str], bool]) -> PastTrial | None:
    """The last trial of the first configuration of this pool that deserves another attempt, or None."""
    for fingerprint, trials in by_configuration(history).items():
        if trials[-1].pool == pool and deserves_retry(trials, retries, near_certain=near_certain(fingerprint)):
            return trials[-1]
    return None


def deserves_retry(trials: Sequence[PastTrial], retries: int, *, near_certain: bool) -> bool:
    """Whether a configuration with this past is tried again."""
    last = trials[-1]
    if any(not trial.finished for trial in trials):
        return False
    if last.state == "invalid":
        return sum(trial.state == "invalid" for trial in trials) <= INVALID_REPEATS
    if last.state != "failed":
        return False
    if not last.counted:
        return sum(is_lost(trial) for trial in trials) <= retries
    crashes = sum(trial.state == "failed" and trial.counted for trial in trials)
    return near_certain and not last.recognised and crashes <= CRASH_REPEATS


def is_lost(trial: PastTrial) -> bool:
    """Ended by infrastructure: says nothing of the configuration."""
    return trial.state == "failed" and not trial.counted


def nodes_to_avoid(trials: Iterable[PastTrial]) -> list[str]:
    """Nodes on which earlier attempts were lost or crashed."""
    nodes = (trial.node for trial in trials if trial.state in ("failed", "invalid"))
    return sorted({node for node in nodes if node})
