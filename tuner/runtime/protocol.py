"""The seam between the search and wherever trials run.

Knows no Optuna and no search: it starts trials, says what became of them, and forgets them when told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tuner.trial.result import TrialResult
from tuner.trial.spec import TrialSpec

Fate = Literal["running", "finished", "gone"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a running trial stands, for people: `starting`, `loading weights`, `level 2.1 req/s: p95 1.2 s`...

    `capacity_at_most_req_per_s` is what it has shown by then: with several trials at once the next one is chosen
    while this one runs. A runtime that does not know it leaves it out.
    """

    trial_id: str
    text: str
    capacity_at_most_req_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial ended, with the attempt it belongs to. It stays known to the runtime until `release`."""

    trial_id: str
    attempt: int
    result: TrialResult


Notice = Stage | Ended


class Runtime(Protocol):
    """Where trials run. Every method is safe to repeat; identity is (spec.id, spec.attempt).

    Raises `RuntimeUnusable` from any method when nothing can run at all. A trial's own failure is never an exception:
    it is an `Ended` whose result says so.
    """

    name: str
    simulated: bool

    def slots(self, pool: str) -> int:
        """How many trials the pool runs at once, at least 1."""

    def start(self, spec: TrialSpec) -> None:
        """Begin a trial. Starting one that already runs, or has ended and is not released, does nothing."""

    def poll(self, timeout_s: float) -> Sequence[Notice]:
        """What happened since the last call; waits up to `timeout_s` for something to happen."""

    def reconcile(self, study_uid: str, expected: Mapping[str, int]) -> dict[str, Fate]:
        """After a restart: the fate of each expected trial (id -> attempt).

        `running` ones go on and will be reported by `poll`; so will `finished` ones, whose result is still to be had;
        `gone` ones must be started again. Whatever of this study is not expected is removed.
        """

    def release(self, trial_id: str) -> None:
        """The result is recorded: forget the trial and delete what it left. Unknown ids are ignored."""

    def now_s(self) -> float:
        """Seconds on the clock trials are timed by: monotonic here, virtual in the simulator."""

    def close(self) -> None:
        """End every trial this controller started and that cannot outlive it."""
