"""Where running trials stand, by the last lines of their pods' logs: read one at a time, each in its turn.

Nothing depends on it: what cannot be read is left out, and says nothing of the trial.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tuner.probe.measurement import Level
from tuner.runtime.kubernetes.client import ApiError
from tuner.runtime.kubernetes.harvest import of_this_attempt
from tuner.runtime.kubernetes.names import CONTAINER
from tuner.runtime.kubernetes.outage import Allowance
from tuner.runtime.kubernetes.tracked import Tracked
from tuner.runtime.protocol import Stage
from tuner.runtime.stages import level_text
from tuner.trial.records import Record, read_records
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

    def read_next(self, trials: Iterable[Tracked], now_s: float) -> Stage | None:
        """What the trial whose turn it is newly says of itself; None where it says nothing new."""
        if now_s < self._next_s or not self.allowance.has(now_s):
            return None
        due = [t for t in trials if t.runs_in and not t.ended and t.tail_s <= now_s]
        trial = min((t for t in due if t.place.site.outage.since_s is None), key=lambda t: t.tail_s, default=None)
        if trial is None:
            return None
        self._next_s = now_s + _EVERY_LOOKS * trial.place.site.every_s
        self.allowance.spend(now_s, 1)
        stage = self._read(trial, now_s)
        if stage is None or stage.text == trial.told:
            return None
        trial.told = stage.text
        return stage

    def _read(self, trial: Tracked, now_s: float) -> Stage | None:
        try:
            tail = trial.place.site.cluster.pod_log(trial.runs_in, CONTAINER, read_s=_READ_S, **_CUT)
        except ApiError:  # its node may not answer: the others first
            trial.tail_s = now_s + _PAUSE_S
            return None
        trial.tail_s = now_s
        return stage_of(trial.spec, tail)


def stage_of(spec: TrialSpec, tail: str) -> Stage | None:
    """What the last stage or level says that can be read whole, and the last level of the capacity. Pure.

    None where there is none of this attempt.
    """
    records = of_this_attempt(spec, read_records(tail.splitlines())).records
    stages = [stage for record in records if (stage := _stage(spec.id, record)) is not None]
    shown = [at_most for stage in stages if (at_most := stage.capacity_at_most_req_per_s) is not None]
    return replace(stages[-1], capacity_at_most_req_per_s=shown[-1] if shown else None) if stages else None


def _stage(trial_id: str, record: Record) -> Stage | None:
    if record.kind == "stage":
        return Stage(trial_id, str(record.value))
    if record.kind != "level":
        return None
    try:
        level = Level(**record.value)
        return Stage(trial_id, level_text(level), level.capacity_at_most_req_per_s)
    except (TypeError, ValueError):  # another version's
        return None
