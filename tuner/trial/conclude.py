"""What a load's outcome means for the trial: its state and its figures. Pure; the same for real and simulated loads."""

from __future__ import annotations

from typing import Any

from tuner.probe.measurement import Measurement
from tuner.probe.outcome import Outcome

NO_VERDICT = ("undecided", "no_tokenizer", "interrupted")
"""The load's words for an end without a verdict: too little time, a client that stood still, prompts that could not be
sized. Nothing is known of the engine then: the measurement is invalid, the configuration has not failed."""


def figures_of(outcome: Outcome, measurement: Measurement | None) -> dict[str, Any]:
    """The figures of a `TrialResult` whose load was not a failure, by field name.

    An infeasible trial carries its nearest miss and its bound, a pruned one its bound.
    """
    if outcome.state == "measured" and measurement is not None:
        return {
            "capacity_req_per_s": measurement.capacity_req_per_s,
            "ttft_p95_s": measurement.ttft_p95_s,
            "output_tokens_per_s": measurement.output_tokens_per_s,
            "saturation_req_per_s": outcome.saturation_req_per_s,
            "measurement": measurement,
        }
    return {
        "bound_req_per_s": outcome.bound_req_per_s,
        "saturation_req_per_s": outcome.saturation_req_per_s,
        "ttft_p95_s": outcome.nearest_miss_ttft_p95_s,
        "measurement": measurement,
    }
