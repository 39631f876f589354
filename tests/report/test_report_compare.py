"""Comparing and re-scoring: values where a rate was shown to hold, bounds elsewhere, never more than was measured."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import tuner
from support.problems import LIMITS, a_config, infeasible, make_spec, measured, raced_out
from support.studies import a_level as a_short_level
from support.studies import stored, with_levels

from tuner.errors import UsageError
from tuner.report.assignments import assignments, trial_numbers
from tuner.report.comparing.comparison import against, compare
from tuner.report.comparing.evidence import Evidence, breakpoints, capacity_at, p95_interval
from tuner.report.comparing.offers import Offer, decide, scored
from tuner.report.comparing.reference import study_address
from tuner.report.comparing.sides import Named, hourly, limits_of, offers_of
from tuner.study.problem import ConfirmPlan
from tuner.study.summary import Figures, read_summary

TUNED = LIMITS.as_json()


def a_trial(result=measured, number=0, capacity=2.0, levels=(), saturation=None, usd_per_hour=16.8, **config):
    """Figures as a summary reads them."""
    spec = make_spec(a_config(**config), f"demo-{number}", 1, 0, None, None, usd_per_hour=usd_per_hour)
    found = replace(result(spec), levels=tuple(levels), saturation_req_per_s=saturation)
    if found.state == "measured":
        found = replace(found, capacity_req_per_s=capacity)
    plain = dict.fromkeys(Figures.__dataclass_fields__)
    return Figures(**{
        **plain, "trial": number, "trial_id": spec.id, "state": found.state, "config": dict(spec.config),
        "fingerprint": spec.fingerprint, "pool": spec.pool, "gpus": 8, "usd_per_hour": usd_per_hour,
        "usd_per_hour_now": usd_per_hour, "capacity_req_per_s": found.capacity_req_per_s, "engine_version": "1",
        "result": found.as_json(), "spec": spec.as_json(), "proposal": {}, "standing": None,
    })  # fmt: skip


def an_offer(trial, side="a", usd_per_hour=16.8):
    return Offer(side, "demo", trial.trial, "", Evidence((trial,)), usd_per_hour, 0.05, 1000.0, 1000.0)


def at(ttft_p95_s):
    return {**TUNED, "ttft_p95_s": ttft_p95_s}


def a_level(*args):
    """Of 800 requests: enough to tell something."""
    return replace(a_short_level(*args), requests=800)


def own_probe(trial):
    return replace(trial, result={**trial.result, "versions": {"tuner": "1"}})


LEVELS = [a_level(0, 1.6, 0.8, "holds"), a_level(1, 2.0, 4.5, "holds"), a_level(2, 2.1, 7.0, "misses")]


@pytest.mark.parametrize(
    ("trial", "limit_s", "low", "high"),
    [
        (a_trial(), 5.0, 2.0, 2.0),  # at the tuned limit the stored capacity is the value
        (a_trial(levels=LEVELS), 5.0, 2.0, 2.0),
        (a_trial(levels=LEVELS), 3.0, 1.6, 2.1),  # 4.5 s once may be 3 s the next time: it tells nothing
        (a_trial(levels=LEVELS), 2.0, None, 2.1),  # neither does 0.8 s of 2 s
        (a_trial(levels=LEVELS), 1.0, None, 2.0),  # the level of 4.5 s misses 1 s
        (a_trial(levels=LEVELS), 0.25, None, 1.6),
        (a_trial(levels=LEVELS, saturation=2.4), 6.0, 2.0, 2.52),  # 7 s may be 6 s
        (a_trial(levels=[*LEVELS, a_level(3, 2.2, 30.0, "misses")]), 6.0, 2.0, 2.2),  # 30 s may not
        (a_trial(levels=LEVELS, saturation=2.4), 9.0, 2.0, 2.52),  # ended early at the tuned limit: no proof of 9 s
        (a_trial(levels=LEVELS), 9.0, 2.0, math.inf),
        (a_trial(raced_out), 5.0, None, 0.5),
        (a_trial(raced_out), 3.0, None, 0.5),
        (a_trial(raced_out), 9.0, None, math.inf),  # the bound was of the tuned limit
        (a_trial(raced_out, saturation=1.0), 9.0, None, 1.05),
        (own_probe(a_trial(raced_out)), 9.0, None, 0.5),  # dropped while it was filled: bound by its throughput
        (own_probe(a_trial(raced_out, levels=LEVELS)), 9.0, 2.0, math.inf),  # its bound is of the levels
        (a_trial(infeasible), 5.0, None, 0.0),
        (a_trial(infeasible), 9.0, None, math.inf),
    ],
)
def test_what_is_known_of_a_capacity_at_another_limit(trial, limit_s, low, high):
    known = capacity_at(Evidence((trial,)), at(limit_s))
    assert known.low == (None if low is None else pytest.approx(low))
    assert known.high == pytest.approx(high)


def test_the_upper_end_of_the_bracket_counts_at_the_tuned_limit():
    trial = a_trial()
    measured_doc = {"capacity_high_req_per_s": 2.1}
    trial = replace(trial, result={**trial.result, "measurement": measured_doc})
    assert capacity_at(Evidence((trial,)), at(5.0)).high == 2.1
    assert capacity_at(Evidence((trial,)), at(5.0)).settled


@given(st.floats(0.01, 5), st.floats(0.0, 20), st.integers(4, 8000))
def test_the_interval_of_a_level_encloses_its_p95(p50, more, requests):
    level = {"ttft_p50_s": p50, "ttft_p95_s": p50 + more, "requests": requests}
    low, high = p95_interval(level, "ttft_p95_s")
    assert 0 < low <= p50 + more <= high
    assert math.isinf(high) == (requests < 4 * 72)


def test_a_level_without_figures_tells_nothing():
    assert p95_interval({"requests": 500, "ttft_p50_s": 1.0, "ttft_p95_s": None}, "ttft_p95_s") == (0.0, math.inf)
    assert p95_interval({"requests": 3, "ttft_p50_s": 1.0, "ttft_p95_s": 1.0}, "ttft_p95_s") == (0.0, math.inf)


def test_tpot_is_judged_by_its_interval_too():
    trial = a_trial(levels=[a_level(0, 2.0, 0.5, "holds")])  # TPOT p50 40 ms, p95 60 ms
    assert capacity_at(Evidence((trial,)), {**TUNED, "tpot_p95_ms": 70.0}).low == 2.0
    assert capacity_at(Evidence((trial,)), {**TUNED, "tpot_p95_ms": 61.0}).low is None
    assert capacity_at(Evidence((trial,)), {**TUNED, "tpot_p95_ms": 45.0}).high == 2.0


def test_confirmations_add_levels():
    run = a_trial(levels=[a_level(0, 1.9, 1.2, "holds")])
    assert capacity_at(Evidence((a_trial(),), (run,)), at(4.0)).low == 1.9


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0.1, 4), st.none() | st.floats(0.1, 20), st.sampled_from(["holds", "misses", "saturates"])),
        max_size=6,
    ),
    st.floats(0.5, 20),
    st.floats(0.5, 20),
)
def test_a_stricter_limit_never_raises_what_may_be_hoped_for(levels, a, b):
    trial = a_trial(levels=[a_level(i, *level) for i, level in enumerate(levels)], saturation=4.0)
    strict, loose = (capacity_at(Evidence((trial,)), at(limit)) for limit in sorted((a, b)))
    assert strict.high <= loose.high
    for known in (strict, loose):
        assert known.low is None or known.low <= known.high


def test_the_cost_is_at_the_guarded_rate():
    assert scored(an_offer(a_trial()), TUNED).cost == pytest.approx(16.8 / (0.95 * 2.0 * 1000 * 3600) * 1e6)


def test_a_bound_below_the_winner_leaves_the_answer_undecided():
    shown, hidden = a_trial(capacity=1.0), a_trial(raced_out, 1, running=64)
    assert decide([an_offer(shown), an_offer(hidden)], TUNED).undecided == ()
    cheaper = an_offer(hidden, usd_per_hour=6.0)  # bound 0.5 req/s: beats 1.0 req/s below half the price
    decision = decide([an_offer(shown), cheaper], TUNED)
    assert [s.offer.trial for s in decision.undecided] == [1]
    assert decision.winner.offer.trial == 0
    assert decision.least < decision.winner.cost


def test_without_any_value_everything_that_might_serve_is_undecided():
    decision = decide([an_offer(a_trial(raced_out)), an_offer(a_trial(infeasible, 1, running=64))], TUNED)
    assert decision.winner is None
    assert [s.offer.trial for s in decision.undecided] == [0]


def test_an_unsettled_winner_is_measured_again_beside_its_rivals():
    decision = decide([an_offer(a_trial()), an_offer(a_trial(raced_out, 1, running=64))], at(9.0))
    assert {s.offer.trial for s in decision.undecided} == {0, 1}


def test_a_refuted_configuration_does_not_win():
    refuted = replace(an_offer(a_trial()), evidence=Evidence((a_trial(),), refuted=(TUNED,)))
    slower = an_offer(a_trial(number=1, capacity=1.0, running=64))
    assert decide([refuted, slower], TUNED).winner.offer.trial == 1
    assert decide([refuted, slower], at(9.0)).winner.offer.trial == 0  # only those limits were missed


@pytest.mark.parametrize(
    ("limits", "rate", "confirmed"),
    [
        (TUNED, 1.9, True),
        (TUNED, 1.0, True),  # less is easier
        (TUNED, 2.0, False),
        (at(9.0), 1.9, True),  # looser is easier
        (at(3.0), 1.0, False),
        ({**TUNED, "tpot_p95_ms": 40.0}, 1.9, False),  # nobody looked at that
    ],
)
def test_a_winner_is_confirmed_where_runs_held_as_much_under_limits_no_looser(limits, rate, confirmed):
    assert Evidence((a_trial(),), confirmed=((TUNED, 1.9),)).confirmed_at(limits, rate) is confirmed


def test_a_missed_confirmation_bounds_the_capacity_at_stricter_limits():
    run = a_trial(infeasible, levels=[a_level(0, 1.9, 6.0, "misses")])
    known = capacity_at(Evidence((a_trial(levels=LEVELS),), (run,), (TUNED,)), at(3.5))
    assert (known.low, known.high) == (1.6, 1.9)


def test_the_published_arithmetic_comes_out():
    """82 % of the throughput at 36 % of the price is 44 % of the cost per token."""
    found = against("mi355x", "b200", (0.82, 0.36), (1.0, 1.0))
    assert round(found.cost_ratio, 2) == 0.44
    assert found.order_turns_at_price_ratio == pytest.approx(0.82)


def test_the_published_arithmetic_comes_out_of_two_sides():
    b200 = an_offer(a_trial(capacity=1.0), "b200", usd_per_hour=100.0)
    mi355x = an_offer(a_trial(number=1, capacity=0.82, running=64), "mi355x", usd_per_hour=36.0)
    (ratios,) = compare([b200, mi355x], TUNED).against
    assert (round(ratios.throughput_ratio, 2), round(ratios.price_ratio, 2)) == (0.82, 0.36)
    assert round(ratios.cost_ratio, 2) == 0.44
    at_the_turn = replace(mi355x, usd_per_hour=100.0 * ratios.order_turns_at_price_ratio)
    assert compare([b200, at_the_turn], TUNED).against[0].cost_ratio == pytest.approx(1.0)


def test_the_crossover_limit_is_where_the_cheapest_side_changes():
    quick = an_offer(a_trial(capacity=1.5, levels=[a_level(0, 1.5, 0.8, "holds")]), "quick")
    levels = [a_level(0, 1.0, 0.5, "holds"), a_level(1, 2.0, 3.0, "holds")]
    deep = an_offer(a_trial(number=1, capacity=2.0, levels=levels, running=64), "deep")
    (found,) = compare([quick, deep], TUNED).crossovers
    assert (found.limit_s, found.before, found.cheaper) == (5.0, "quick", "deep")
    assert breakpoints(deep.evidence) == pytest.approx([0.19, 0.87, 1.31, 5.0, 9.16], abs=0.01)


def test_a_crossover_that_something_undecided_could_move_is_not_sure():
    quick = an_offer(a_trial(capacity=1.5, levels=[a_level(0, 1.5, 0.8, "holds")]), "quick")
    deep = an_offer(
        a_trial(number=1, levels=[a_level(0, 1.0, 0.5, "holds"), a_level(1, 2.0, 3.0, "holds")], running=64), "deep"
    )
    rival = an_offer(a_trial(number=2, capacity=2.2, running=32), "deep")
    (found,) = compare([quick, deep, rival], TUNED).crossovers
    assert not found.sure


@pytest.mark.parametrize(
    ("reference", "storage", "address"),
    [
        ("demo", None, ("demo", "sqlite:///demo.db")),
        ("demo", "postgresql://host/db", ("demo", "postgresql://host/db")),
        ("old/demo.db", None, (None, "sqlite:///old/demo.db")),
        ("old/all.db#demo", "postgresql://host/db", ("demo", "sqlite:///old/all.db")),
        ("postgresql://host/db#demo", None, ("demo", "postgresql://host/db")),
        ("postgresql://host/db", None, (None, "postgresql://host/db")),
    ],
)
def test_a_study_is_named_by_name_file_or_url(reference, storage, address):
    assert study_address(reference, storage) == address


@pytest.mark.parametrize("text", ["mi355x", "=2", "a=x", "a=0", "a=-1", "a=inf", "a=nan"])
def test_an_assignment_is_a_name_and_a_positive_number(text):
    with pytest.raises(UsageError, match="--price"):
        assignments("--price", [text])


def test_assignments_and_numbers_are_read():
    assert assignments("--price", ["a=1", "s/b=2.5"]) == {"a": 1.0, "s/b": 2.5}
    with pytest.raises(UsageError, match="given twice"):
        assignments("--price", ["a=1", "a=2"])
    assert (trial_numbers(None), trial_numbers("4, 17")) == ((), (4, 17))
    with pytest.raises(UsageError, match="--only"):
        trial_numbers("4;17")


def test_a_price_per_gpu_hour_scales_what_was_billed():
    figures = a_trial(usd_per_hour=16.8)
    billed = replace(figures, gpus=4, spec={**figures.spec, "context": {"usd_per_gpu_hour": 2.1}})
    assert hourly(billed, "demo", {"mi355x": 1.0}) == pytest.approx(8.0)  # 4 GPUs, the node's 8 are billed
    assert hourly(replace(billed, spec={**figures.spec, "context": {}}), "demo", {"mi355x": 1.0}) == 4.0
    assert hourly(billed, "demo", {"mi355x": 1.0, "demo/mi355x": 2.0}) == pytest.approx(16.0)
    assert hourly(billed, "demo", {}) == 16.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two studies: one on two pools, one that raced some out."""
    folder = tmp_path_factory.mktemp("compared")

    def raced(spec):
        slow = spec.config["max-running-requests"] == 32 if "only" not in spec.config else False
        return replace(raced_out(spec, 0.9), saturation_req_per_s=2.5) if slow else with_levels(spec)

    stored(folder, with_levels, name="two", pools=("mi355x", "b200"), seeds=[])
    stored(folder, raced, name="raced", seeds=[("slow", a_config(running=32)), ("fast", a_config())], trials=3)
    stored(folder, a_long_level, name="alone", trials=1, seeds=[("one", a_config())], confirm=ConfirmPlan(top=0))
    return folder


def a_long_level(spec):
    """Two levels near the capacity, of enough requests to be judged at another limit."""
    found = with_levels(spec)
    levels = tuple(replace(level, requests=800) for level in found.levels)
    return replace(found, levels=levels, saturation_req_per_s=1.01 * found.capacity_req_per_s)


def read(folder, name):
    return Named(name, read_summary(f"sqlite:///{folder}/{name}.db"))


def test_one_study_on_two_pools_compares_its_pools(folder):
    offers = offers_of([read(folder, "two")], None, {})
    assert {o.side for o in offers} == {"mi355x", "b200"}
    assert {o.side for o in offers_of([read(folder, "two")], "weights", {})} <= {"fp8", "mxfp4"}
    with pytest.raises(UsageError, match="did you mean 'weights'"):
        offers_of([read(folder, "two")], "weight", {})


def test_a_price_must_be_of_a_pool_that_is_there(folder):
    with pytest.raises(UsageError, match="--price b20: no such pool"):
        offers_of([read(folder, "two")], None, {"b20": 1.0})


def test_limits_that_levels_do_not_keep_are_refused(folder):
    assert limits_of([read(folder, "two")], {"ttft_p95_s": 3.0})["ttft_p95_s"] == 3.0
    with pytest.raises(UsageError, match="ttft_p95_s and tpot_p95_ms only"):
        limits_of([read(folder, "two")], {"e2e_p95_s": 3.0})


def test_the_command_tells_ratios_and_the_decision(folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = tuner("compare", "two", "--price", "b200=1.05")
    assert said.code == 0
    assert "SIMULATED" in said.out
    assert "of the cost per token; the order turns at a price ratio of" in said.out
    assert re.search(r"decided: trial \d+ of two, \$[\d.]+ per million, (not )?confirmed at these limits", said.out)
    assert re.search(r": b200 is the cheaper one below \$[\d.]+ an hour, now \$[\d.]+$", said.out, re.MULTILINE)
    doc = json.loads(tuner("compare", "two", "raced.db", "--json").out)
    assert doc["studies"] == ["two", "raced"]
    assert doc["winner"]["usd_per_million_output_tokens"] > 0
    assert {row["ttft_p95_s"] for row in doc["by_ttft_limit"]} >= {5.0}


def test_a_winner_that_nothing_confirmed_at_the_limit_comes_with_the_command_that_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    doc = json.loads(tuner("compare", "two", "--json").out)
    assert (doc["winner"]["confirmed"], doc["confirm_commands"]) == (True, [])
    said = tuner("compare", "alone", "--limit", "ttft_p95_s=6")
    assert "not confirmed at these limits" in said.out
    assert "--limit ttft_p95_s=6 --new-study alone-ttft6 --seed-from alone --only 0" in said.out


def test_the_command_offers_to_run_exactly_what_is_undecided(folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = tuner("compare", "raced", "--limit", "ttft_p95_s=20")
    assert said.code == 4
    assert "undecided:" in said.out
    assert "--limit ttft_p95_s=20 --new-study raced-ttft20 --seed-from raced" in said.out
    doc = json.loads(tuner("compare", "raced", "--limit", "ttft_p95_s=20", "--json").out)
    assert doc["commands"][0].endswith(
        ",".join(str(s["trial"]) for s in sorted(doc["undecided"], key=lambda s: s["trial"]))
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nobody"], "no such study database"),
        (["two", "--price", "x"], "NAME=NUMBER"),
        (["two", "--limit", "error_rate=0.1"], "can be judged by"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(folder, monkeypatch, args, words):
    monkeypatch.chdir(folder)
    said = tuner("compare", *args)
    assert said.code == 2
    assert words in said.err
