"""What a search tells whoever watches it: small frozen events, and the reasons a search ends for.

Knows nothing of terminals or logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tuner.errors import (
    EXIT_INTERRUPTED,
    EXIT_NOTHING_FEASIBLE,
    EXIT_OK,
    EXIT_RUNTIME_UNUSABLE,
    EXIT_UNCONFIRMED,
)
from tuner.space.config import ServingConfig

if TYPE_CHECKING:
    from tuner.study.budget import Used
    from tuner.study.problem import Budget

ExitReason = Literal[
    "confirmed", "nothing_feasible", "no_confirmed_winner", "budget", "runtime_unusable", "interrupted"
]
Stop = Literal["", "stop", "drain"]
"""What whoever started a search wants of it: to go on, to end, or to end once the running trials have."""

StoppedBy = Literal["trials", "wall", "gpu_hours", "usd", "space_exhausted", "converged", "chosen"]

_EXIT_CODES: dict[ExitReason, int] = {
    "confirmed": EXIT_OK,
    "nothing_feasible": EXIT_NOTHING_FEASIBLE,
    "no_confirmed_winner": EXIT_UNCONFIRMED,
    "budget": EXIT_UNCONFIRMED,
    "runtime_unusable": EXIT_RUNTIME_UNUSABLE,
    "interrupted": EXIT_INTERRUPTED,
}


def exit_code(reason: ExitReason) -> int:
    """The process exit code of a search that ended for `reason`."""
    return _EXIT_CODES[reason]


@dataclass(frozen=True, slots=True)
class StudyOpened:
    """The study is ours. `resumed` is False for a new one; `counted` trials are already in it."""

    study: str
    uid: str
    resumed: bool
    counted: int


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial was handed to the runtime. `adopted`: it was found running (or finished) after a restart."""

    number: int
    trial_id: str
    config: ServingConfig
    origin: str
    attempt: int
    confirmation: bool = False
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class TrialStage:
    """Where a running trial stands, for people."""

    number: int
    trial_id: str
    text: str
    confirmation: bool = False


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """A trial is recorded. `state` is the study's word for it; `best` says it is the cheapest so far.

    `usd_per_million_output_tokens` is None unless measured; `failure` is a short sentence; `same_as` is the earlier
    trial whose engine ran the same settings.
    """

    number: int
    trial_id: str
    config: ServingConfig
    state: str
    counted: int
    usd_per_million_output_tokens: float | None = None
    capacity_req_per_s: float | None = None
    ttft_p95_s: float | None = None
    failure: str | None = None
    best: bool = False
    confirmation: bool = False
    same_as: int | None = None


@dataclass(frozen=True, slots=True)
class Best:
    """What the summary would call the best: the cheapest confirmed one, else the cheapest that nothing refuted.

    `standing` says what the confirmations say of it, None before any.
    """

    number: int
    config: ServingConfig
    usd_per_million_output_tokens: float | None
    capacity_req_per_s: float | None
    ttft_p95_s: float | None
    standing: str | None = None


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is used, what the whole search is expected to take (None: nothing known yet), and the best so far.

    `limits` are `Limits.as_json()`. Told when a study is opened and after every trial.
    """

    used: Used
    expected: Used | None
    budget: Budget
    limits: Mapping[str, float]
    best: Best | None


@dataclass(frozen=True, slots=True)
class PoolClosed:
    """A pool gave too many lost or unusable trials in a row; nothing more is started on it in this session."""

    pool: str
    reason: str

    @property
    def text(self) -> str:
        return f"pool {self.pool} is closed for now: {self.reason}"


@dataclass(frozen=True, slots=True)
class BaselineDeviates:
    """The baseline, measured again, costs `ratio` of what it costs elsewhere or did before; `text` says it in words."""

    pool: str
    node: str
    ratio: float
    text: str


@dataclass(frozen=True, slots=True)
class StopOffered:
    """One more trial is expected to save less than `expected_gain` of the cost; the search goes on unless told."""

    expected_gain: float
    counted: int


@dataclass(frozen=True, slots=True)
class SearchStopped:
    """No further configuration is tried; `why` names the budget that is spent, or the exhausted space."""

    why: StoppedBy
    counted: int


@dataclass(frozen=True, slots=True)
class Closing:
    """The search was interrupted, and the trials this controller started are being ended: up to a minute or two."""

    running: int


@dataclass(frozen=True, slots=True)
class ConfirmStarted:
    """A candidate is about to be confirmed at its guarded rate."""

    config: ServingConfig
    rank: int
    rate_req_per_s: float
    repeats: int


@dataclass(frozen=True, slots=True)
class ConfirmEnded:
    """A candidate held its guarded rate in every repetition, or did not; `undecided`: no run of it could be used."""

    config: ServingConfig
    rank: int
    holds: bool
    undecided: bool = False


Event = (
    StudyOpened
    | TrialStarted
    | TrialStage
    | TrialEnded
    | Ledger
    | PoolClosed
    | BaselineDeviates
    | StopOffered
    | SearchStopped
    | Closing
    | ConfirmStarted
    | ConfirmEnded
)
OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """How a search ended. `stopped_by` is what ended the trying; `message` is one sentence for people."""

    study: str
    uid: str
    exit_reason: ExitReason
    message: str
    counted: int
    stopped_by: StoppedBy | None = None

    @property
    def exit_code(self) -> int:
        return exit_code(self.exit_reason)
