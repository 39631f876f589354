"""How long a trial may take in all, whoever runs it: the sum of its own deadlines, and what lies between them."""

from __future__ import annotations

from tuner.trial.spec import TrialSpec

# A runner keeps its own deadlines; this much beyond their sum it hangs.
OVERDUE_S = 1800.0


def longest_s(spec: TrialSpec) -> float:
    """Seconds from the runner's start to where it is certainly stuck."""
    deadlines = spec.deadlines
    load_s = max(deadlines.probe_s, spec.confirm.duration_s if spec.confirm else 0.0)
    before_s = deadlines.memory_free_s + deadlines.ready_s
    return before_s + deadlines.first_token_s + load_s + deadlines.stop_s + OVERDUE_S
