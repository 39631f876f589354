"""Where running trials stand, by the last lines of their pods' logs: read one at a time, each in its turn.

For people only: what cannot be read is left out, and says nothing of the trial.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tuner.probe.measurement import Level
from tuner.runtime.kubernetes.client import ApiError
from tuner.runtime.kubernetes.harvest import of_this_attempt
from tuner.runtime.kubernetes.names import CONTAINER
from tuner.runtime.kubernetes.outage import Allowance
from tuner.runtime.kubernetes.tracked import Tracked
from tuner.runtime.stages import level_text
from tuner.trial.records import read_records
from tuner.trial.spec import TrialSpec

# Some records and room for what else prints. Of a long line the API counts every 16 KiB for one, and of too many bytes
# it keeps the first: the newest record may be missing, and comes with the next look.
_CUT = {"tailLines": 20, "limitBytes": 64 * 1024}
_EVERY_LOOKS = 1.9  # a little less than two, so that every second look has one
_READ_S = 3.0
_PAUSE_S = 60.0


@dataclass(slots=True)
class Tails:
    """At most one log every other look, as far as the `allowance` of requests goes."""

    allowance: Allowance
    _next_s: float = float("-inf")

    def read_next(self, trials: Iterable[Tracked], now_s: float) -> tuple[Tracked, str] | None:
        """The trial whose turn it is, with what it newly says of itself; None where it says nothing new."""
        if now_s < self._next_s or not self.allowance.has(now_s):
            return None
        due = [t for t in trials if t.runs_in and not t.ended and t.tail_s <= now_s]
        trial = min((t for t in due if t.place.site.outage.since_s is None), key=lambda t: t.tail_s, default=None)
        if trial is None:
            return None
        self._next_s = now_s + _EVERY_LOOKS * trial.place.site.every_s
        self.allowance.spend(now_s, 1)
        said = self._read(trial, now_s)
        if not said or said == trial.told:
            return None
        trial.told = said
        return trial, said

    def _read(self, trial: Tracked, now_s: float) -> str:
        try:
            tail = trial.place.site.cluster.pod_log(trial.runs_in, CONTAINER, read_s=_READ_S, **_CUT)
        except ApiError:  # its node may not answer: the others first
            trial.tail_s = now_s + _PAUSE_S
            return ""
        trial.tail_s = now_s
        return stage_of(trial.spec, tail)


def stage_of(spec: TrialSpec, tail: str) -> str:
    """What the last stage or level says that can be read whole; "" where there is none of this attempt. Pure."""
    records = of_this_attempt(spec, read_records(tail.splitlines())).records
    return next((words for record in reversed(records) if (words := _words(record.kind, record.value))), "")


def _words(kind: str, value: Any) -> str:
    if kind == "stage":
        return str(value)
    if kind != "level":
        return ""
    try:
        return level_text(Level(**value))
    except (TypeError, ValueError):  # another version's
        return ""
