"""What a diagnosis is made from and what it says: `Snapshot`, `Expectation`, `Verdict`.

Knows no rule. Times of a snapshot are the cluster's: `now` is best taken from the API server's own `Date`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

FailureClass = Literal["configuration", "infrastructure", "unusable"]
Kind = Literal["waiting", "running", "finished", "configuration", "infrastructure", "unusable"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One trial as the cluster shows it.

    `events` are those of the Job and of its pod, in any order. `nodes` are all nodes of the cluster; None: they may
    not be read.
    """

    job: Mapping[str, Any]
    pod: Mapping[str, Any] | None
    events: Sequence[Mapping[str, Any]]
    nodes: Sequence[Mapping[str, Any]] | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is known of the trial besides its objects.

    `smallest_gpus` is the least any configuration of the pool asks for: what refuses this trial only for its size
    leaves the pool usable. `own_image`: the image comes from the configuration, not from the pool. `proven`: a trial
    has run in this pool during this search, so what is wrong now was not wrong in the space file. `known_here`: the
    server has answered this controller before, so a login that it does not accept now may pass or be renewed.
    """

    pool: str
    gpu_resource: str
    gpus: int
    smallest_gpus: int | None = None
    container: str = "trial"
    own_image: bool = False
    proven: bool = False
    known_here: bool = False
    autoscale_wait_s: float | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done about a trial.

    `waiting` and `running`: nothing, `stage` is for people. `finished`: the pod has ended and may hold our result; if
    it does not, the trial ended as `otherwise` says. The rest is the trial's end, or (`unusable`) the search's.
    `seconds_queued` runs from the Job's creation until the trial's container ran.
    """

    kind: Kind
    stage: str
    failure_kind: str = ""
    message: str = ""
    seconds_queued: float = 0.0
    retry_elsewhere: bool = False
    otherwise: FailureClass | None = None


def waiting(stage: str) -> Verdict:
    """It has not begun; `stage` says what it waits for."""
    return Verdict("waiting", stage)


def running(stage: str) -> Verdict:
    """Its container runs, or ran until its pod was told to end."""
    return Verdict("running", stage)


def lost(failure_kind: str, message: str, *, elsewhere: bool = True) -> Verdict:
    """An infrastructure failure: the trial is repeated."""
    return Verdict("infrastructure", "lost", failure_kind, message, retry_elsewhere=elsewhere)


def unusable(failure_kind: str, message: str) -> Verdict:
    """Every further trial would meet the same."""
    return Verdict("unusable", "unusable", failure_kind, message)


def misfit(failure_kind: str, message: str, expected: Expectation) -> Verdict:
    """The pool, the namespace or the space file is wrong: for every trial, unless one has run here already."""
    return lost(failure_kind, message) if expected.proven else unusable(failure_kind, message)


def too_large(failure_kind: str, message: str, expected: Expectation, available: float) -> Verdict:
    """The trial asks for more GPUs than there can be; a smaller configuration of the pool may still find its place."""
    smallest = expected.smallest_gpus or expected.gpus
    if 0 < smallest <= available:
        return lost(failure_kind, message, elsewhere=False)
    return misfit(failure_kind, message, expected)
