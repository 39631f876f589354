"""Money: a lower price never costs more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuner.space.workload import Length, Workload
from tuner.study.problem import TokenWeights
from tuner.study.score import bound_cost

TRAFFIC = Workload(Length.fixed(1000), Length.fixed(100), cached_fraction=0.5)
positive = st.floats(1e-3, 1e3)


@given(positive, positive, st.floats(1.0, 100.0), st.floats(0.0, 0.5))
def test_a_lower_price_or_a_higher_capacity_never_costs_more(rate, usd_per_hour, factor, guard):
    weights = TokenWeights()
    cost = bound_cost(rate, usd_per_hour, guard, weights, TRAFFIC)
    assert bound_cost(rate, usd_per_hour * factor, guard, weights, TRAFFIC) >= cost
    assert bound_cost(rate * factor, usd_per_hour, guard, weights, TRAFFIC) <= cost
