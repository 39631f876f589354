from __future__ import annotations

import numpy as np
import pytest

from tuner.study.history import PastTrial
from tuner.study.prior_gp.observations import observe, without_collapsed


def _trial(number, state, fingerprint, **costs):
    return PastTrial(number, state, True, fingerprint, "sampler", {}, {}, {}, **costs)


def test_a_collapsed_measurement_counts_as_a_failed_start_and_not_as_a_cost():
    """A memory cliff at 35 times the predicted cost would outweigh everything else that was observed."""
    prior = np.log(np.array([1.0, 1.1, 0.9, 1.2]))
    history = [
        _trial(0, "measured", "a", usd_per_million=1.3),
        _trial(1, "measured", "b", usd_per_million=1.4),
        _trial(2, "measured", "c", usd_per_million=40.0),
        _trial(3, "pruned", "d", bound_usd_per_million=30.0),
    ]
    index = {"a": 0, "b": 1, "c": 2, "d": 3}
    seen = without_collapsed(observe(history, index), prior)
    assert seen.costs.which.tolist() == [0, 1, 3]
    assert dict(zip(seen.starts.which.tolist(), seen.starts.good.tolist(), strict=True)) == {
        0: True,
        1: True,
        2: False,
        3: True,
    }
    assert 2 not in seen.serves.which
    assert seen.tried == {0, 1, 2, 3}


def test_a_running_trial_counts_with_the_bound_it_has_shown_and_is_still_running():
    history = [
        _trial(0, "running", "a", bound_usd_per_million=2.0),
        _trial(1, "running", "b"),
        _trial(2, "running", "c", bound_usd_per_million=float("inf")),
    ]
    seen = observe(history, {"a": 0, "b": 1, "c": 2})
    assert (seen.costs.which.tolist(), seen.costs.bound.tolist()) == ([0], [True])
    assert seen.costs.log_cost.tolist() == pytest.approx([np.log(2.0)])
    assert (seen.starts.which.tolist(), seen.starts.good.tolist()) == ([0], [True])
    assert len(seen.serves.which) == 0, "a full server says nothing of the limits"
    assert seen.running.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "costs",
    [
        pytest.param([1.3, 1.4, 3.0], id="dear, within four times of what the model says"),
        pytest.param([20.0, 22.0, 18.0], id="all far dearer than the model: the model is off"),
        pytest.param([40.0], id="nothing to compare with"),
    ],
)
def test_a_dear_configuration_is_a_cost_like_any_other(costs):
    history = [_trial(i, "measured", "abc"[i], usd_per_million=cost) for i, cost in enumerate(costs)]
    seen = observe(history, {"a": 0, "b": 1, "c": 2})
    assert without_collapsed(seen, np.zeros(3)) is seen


def test_a_history_without_measurements_stays_as_it_is():
    seen = observe([_trial(0, "pruned", "a", bound_usd_per_million=30.0)], {"a": 0})
    assert without_collapsed(seen, np.zeros(1)) is seen
