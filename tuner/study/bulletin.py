"""What runs now and where it stands, for whoever reads the database meanwhile: one study attribute, seldom written.

Nothing depends on it: it is not part of what survives a kill, a write that fails is left out, and a reader believes
it only for trials the database holds for running. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from tuner.study.events import Event, TrialEnded, TrialStage, TrialStarted
from tuner.study.lock import Ownership

BULLETIN = "bulletin"
EVERY_S = 5.0
_FOREVER_AGO = float("-inf")


@dataclass
class Bulletin:
    """Gathers the stages of running trials and writes them at most every `EVERY_S` seconds."""

    study: optuna.Study
    owner: Ownership
    slots: int = 1
    now_s: Callable[[], float] = time.monotonic
    at: Callable[[], float] = time.time
    _running: dict[str, dict[str, Any]] = field(default_factory=dict)
    _changed: bool = False
    _written_s: float = _FOREVER_AGO

    def note(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, TrialStarted):
            self._running[event.trial_id] = {"stage": "starting", "since": self.at()}
        elif isinstance(event, TrialStage):
            self._running.setdefault(event.trial_id, {"since": self.at()})["stage"] = event.text
        elif isinstance(event, TrialEnded):
            self._running.pop(event.trial_id, None)
        else:
            return
        self._changed = True

    def write_when_due(self) -> None:
        """Write what changed, if the last time is long enough ago.

        Raises:
            OwnershipLost: another controller has the study.
        """
        if not self._changed or self.now_s() - self._written_s < EVERY_S:
            return
        self._changed, self._written_s = False, self.now_s()
        value = {
            "at": self.at(),
            "slots": self.slots,
            "running": {trial_id: dict(entry) for trial_id, entry in self._running.items()},
        }
        self.owner.check()
        with suppress(StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
            self.study.set_user_attr(BULLETIN, value)


@dataclass(frozen=True, slots=True)
class Posted:
    """A bulletin as read: when it was written (Unix seconds), how many trials may run at once, and their stages."""

    at: float | None = None
    slots: int = 1
    stages: Mapping[str, str] = field(default_factory=dict)
    since: Mapping[str, float] = field(default_factory=dict)


def posted(attrs: Mapping[str, Any]) -> Posted:
    """The bulletin among a study's attributes; an empty one where there is none."""
    value = attrs.get(BULLETIN) or {}
    running = value.get("running") or {}
    return Posted(
        at=value.get("at"),
        slots=int(value.get("slots") or 1),
        stages={trial_id: str(entry.get("stage", "")) for trial_id, entry in running.items()},
        since={trial_id: float(entry["since"]) for trial_id, entry in running.items() if "since" in entry},
    )
