"""Everything a report says of one study, as one value: `gather` -> `StudyReport` -> HTML, Markdown or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuner.report.facts.certainty import Certainty, certainty
from tuner.report.facts.effects import Effects, effects
from tuner.report.facts.hardware import Hardware, hardware
from tuner.report.facts.loads import Loads, loads
from tuner.report.facts.outcomes import Outcomes, outcomes
from tuner.report.facts.prediction import Predictions, predictions
from tuner.report.facts.progress import Progress, progress
from tuner.report.facts.spending import Spending, spending
from tuner.report.table import nearest_miss
from tuner.study.summary import Figures, StudySummary


@dataclass(frozen=True, slots=True)
class StudyReport:
    """A study and what its figures say. `miss` says what came closest where nothing met the limits."""

    summary: StudySummary
    certainty: Certainty | None
    effects: Effects | None
    progress: Progress
    hardware: Hardware
    loads: tuple[Loads, ...]
    predictions: Predictions
    outcomes: Outcomes
    spending: Spending
    miss: str | None

    @property
    def limits(self) -> Mapping[str, float]:
        return self.summary.plan.get("limits") or {}

    @property
    def ranked(self) -> tuple[Figures, ...]:
        """By the rank `tuner export` gives them: the best first."""
        best = self.summary.best
        return (best, *(f for f in self.summary.ranked if f is not best)) if best else ()

    def as_json(self) -> dict[str, Any]:
        """The summary's document, with what the figures say and every trial's stored result beside it."""
        return {
            **self.summary.as_json(),
            "certainty": self.certainty and {**asdict(self.certainty), "clear": self.certainty.clear},
            "effects": self.effects and asdict(self.effects),
            "progress": asdict(self.progress),
            "predictions": asdict(self.predictions),
            "rejected": [asdict(r) for r in self.outcomes.rejected],
            "valid_points": self.outcomes.valid,
            "failure_kinds": [asdict(k) for k in self.outcomes.failures],
            "spending": asdict(self.spending),
            "trial_details": [_details(f) for f in self.summary.trials_in_order],
            "confirmation_details": [_details(f) for f in self.summary.confirmations_in_order],
        }


def _details(figures: Figures) -> dict[str, Any]:
    return {**figures.as_json(), "result": dict(figures.result), "workload": figures.spec.get("workload")}


def gather(summary: StudySummary) -> StudyReport:
    """Work out everything a report says."""
    return StudyReport(
        summary,
        certainty(summary),
        effects(summary),
        progress(summary),
        hardware(summary),
        loads(summary),
        predictions(summary),
        outcomes(summary),
        spending(summary),
        None if summary.best else nearest_miss(summary),
    )
