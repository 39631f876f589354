"""The decision table: what each kind of result means to the study, and what it costs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.problems import LIMITS, WORKLOAD, a_config, failed, infeasible, make_spec, measured, raced_out

from tuner.probe.measurement import Level
from tuner.space.workload import Length, Limits, Sampling, Workload
from tuner.study.problem import TokenWeights
from tuner.study.score import bound_cost, missed_slack, rate_to_beat, score, usd_per_million
from tuner.study.verdict import judge, sentence, stored_result
from tuner.trial.result import TrialResult
from tuner.trial.spec import Confirm

SPEC = make_spec(a_config(), "demo-0-abc", 1, 7, None, None)
CONFIRM = make_spec(a_config(), "demo-c0-abc", 1, 7, None, Confirm(0.95, 600))
PER_TOKEN = TokenWeights()


@pytest.mark.parametrize(
    ("result", "told", "state", "feasible"),
    [
        (measured(SPEC), "COMPLETE", "measured", True),
        (infeasible(SPEC), "PRUNED", "infeasible", False),
        (raced_out(SPEC), "PRUNED", "pruned", True),
        (failed(SPEC), "PRUNED", "failed", False),
        (failed(SPEC, kind="crash", recognised=False), "PRUNED", "failed", False),
        (failed(SPEC, "infrastructure", "evicted"), "FAIL", "failed", None),
        (failed(SPEC, "measurement", "client_bound"), "FAIL", "invalid", None),
        (TrialResult("t", "measured", 0.0, 1.0, 0.0), "PRUNED", "infeasible", False),
        (TrialResult("t", "measured", 2.0, 7.0, 2000.0), "PRUNED", "infeasible", False),
    ],
)
def test_every_class_of_result_has_its_state_and_constraints(result, told, state, feasible):
    verdict = judge(result, SPEC, PER_TOKEN)
    assert (verdict.told, verdict.state) == (told, state)
    if feasible is None:
        assert verdict.constraints == {}
    else:
        assert set(verdict.constraints) == {"ttft_p95_s", "error_rate", "failure"}
        assert all(slack <= 0 for slack in verdict.constraints.values()) is feasible
    assert (verdict.value is not None) is (told == "COMPLETE")


def test_only_a_configuration_failure_violates_the_failure_constraint():
    assert judge(failed(SPEC), SPEC, PER_TOKEN).constraints["failure"] > 0
    assert judge(infeasible(SPEC), SPEC, PER_TOKEN).constraints["failure"] == 0


def test_slack_is_relative_to_the_limit():
    assert judge(infeasible(SPEC, 7.5), SPEC, PER_TOKEN).constraints["ttft_p95_s"] == pytest.approx(0.5)
    assert judge(measured(SPEC, ttft_p95_s=4.0), SPEC, PER_TOKEN).constraints["ttft_p95_s"] == pytest.approx(-0.2)


def test_a_miss_without_a_figure_is_still_a_miss():
    verdict = judge(TrialResult("t", "infeasible"), SPEC, PER_TOKEN)
    assert verdict.constraints["ttft_p95_s"] > 0
    assert "ttft_p95_s" in (verdict.failure or "")


def test_the_mildest_open_level_speaks_for_a_miss_nobody_summed_up():
    def level(rate, errors, ttft):
        return Level(1, "open", rate, None, 0.0, 60.0, 100, 9, errors, 1.0, ttft, None, None, 10.0, "misses")

    result = TrialResult("t", "infeasible", levels=(level(2.0, 50, 9.0), level(0.5, 2, 6.0)))
    assert missed_slack(result, LIMITS) == {"ttft_p95_s": pytest.approx(0.2), "error_rate": pytest.approx(3.0)}
    assert missed_slack(result, Limits(ttft_p95_s=10.0, error_rate=0.0))["error_rate"] == pytest.approx(0.02)


def test_a_raced_out_trial_carries_the_least_it_can_cost():
    verdict = judge(raced_out(SPEC, bound=0.5), SPEC, PER_TOKEN)
    assert verdict.bound_usd_per_million == pytest.approx(16.8e6 / (3600 * 0.95 * 0.5 * 1000))


def test_price_is_taken_at_the_guarded_rate():
    got = score(measured(SPEC, 2.0), 16.8, 0.05, PER_TOKEN, WORKLOAD, LIMITS)
    assert got.usd_per_million_output_tokens == pytest.approx(16.8 / (1.9 * 1000 * 3600) * 1e6)


def test_a_confirmation_is_priced_at_the_very_rate_it_held():
    assert judge(measured(CONFIRM), CONFIRM, PER_TOKEN).value == pytest.approx(16.8 / (0.95 * 1000 * 3600) * 1e6)


def test_answers_that_end_by_themselves_are_priced_by_what_was_measured():
    free = Workload(Length.fixed(100), Length.fixed(1000), sampling=Sampling(ignore_eos=False))
    short = measured(SPEC, 2.0, output_tokens_per_s=1000.0)
    got = score(short, 16.8, 0.0, PER_TOKEN, free, LIMITS).usd_per_million_output_tokens
    assert got == pytest.approx(16.8 / (1000 * 3600) * 1e6)


def test_weights_price_the_prompt_by_what_the_traffic_offers():
    weights = TokenWeights(output=1, input=0.5, cached_input=0.1)
    got = score(measured(SPEC, 1.0), 3.6, 0.0, weights, WORKLOAD, LIMITS).usd_per_million_output_tokens
    assert got == pytest.approx(3.6e6 / (3600 * (1000 + 0.5 * 8000 + 0.1 * 12_000)))


def test_nothing_served_costs_infinitely_much():
    assert usd_per_million(16.8, 0.0, 1000) == math.inf
    with pytest.raises(ValueError, match="no capacity"):
        score(infeasible(SPEC), 16.8, 0.05, PER_TOKEN, WORKLOAD, LIMITS)


@given(rate=st.floats(0.01, 100), price=st.floats(0.1, 500), guard=st.floats(0, 0.5))
def test_the_rate_to_beat_costs_exactly_what_the_incumbent_costs(rate, price, guard):
    cost = bound_cost(rate, 16.8, guard, PER_TOKEN, WORKLOAD)
    needed = rate_to_beat(cost, price, guard, PER_TOKEN, WORKLOAD)
    assert bound_cost(needed, price, guard, PER_TOKEN, WORKLOAD) == pytest.approx(cost)


def test_a_failure_is_told_in_one_short_line():
    text = sentence(failed(SPEC, kind="crash", message="a\n  b " + "x" * 1000))
    assert text is not None
    assert text.startswith("crash: a b x")
    assert len(text) == 300
    assert sentence(measured(SPEC)) is None
    assert sentence(failed(SPEC, kind="hang", message="")) == "hang"


def test_the_stored_log_tail_is_its_last_four_kilobytes():
    doc = stored_result(failed(SPEC, log_tail="ä" * 5000 + "the end"))
    assert len(doc["failure"]["log_tail"].encode()) <= 4096
    assert doc["failure"]["log_tail"].endswith("the end")
    assert stored_result(measured(SPEC))["failure"] is None
