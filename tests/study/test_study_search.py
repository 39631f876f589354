"""The loop against a scripted cluster with its own clock: what is started, counted, retried, confirmed, refused."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from support.fake_runtime import FakeCluster, FakeRuntime
from support.problems import (
    ENGINE_DEFAULT,
    a_config,
    a_problem,
    config_of,
    failed,
    infeasible,
    make_spec,
    measured,
    raced_out,
    true_capacity,
)

from tuner.errors import UsageError
from tuner.runtime.protocol import Ended
from tuner.space.config import Layout
from tuner.study.events import ConfirmEnded, ConfirmStarted, PoolClosed, StudyOpened, TrialEnded, TrialStarted
from tuner.study.history import PastTrial
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.sampler import choose
from tuner.study.search import search
from tuner.study.starter import trial_name
from tuner.study.storage import open_storage
from tuner.study.summary import read_summary


def go(problem, database, cluster, runtime=None, **options):
    events = []
    runtime = runtime or cluster.controller()
    outcome = search(problem, database, runtime, on_event=events.append, **{"poll_s": 1e4, **options})
    return outcome, events


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def origins(events):
    return [event.origin for event in of(events, TrialStarted) if not event.confirmation]


@pytest.mark.parametrize(("sampler", "model_picks"), [("tpe", 4), ("random", 0)])
def test_a_search_tries_seeds_then_model_then_sampler_and_confirms_the_best(database, sampler, model_picks):
    """Random is the yardstick: it knows no model."""
    cluster = FakeCluster(measured)
    outcome, events = go(a_problem(budget=Budget(trials=9)), database, cluster, sampler=sampler)
    assert (outcome.exit_reason, outcome.exit_code, outcome.counted) == ("confirmed", 0, 9)
    assert outcome.stopped_by == "trials"
    assert origins(events) == [
        "seed:engine-default",
        "seed:baseline",
        *["model"] * model_picks,
        *["sampler"] * (7 - model_picks),
    ]
    summary = read_summary(database)
    assert summary.best.confirmed
    assert summary.best.capacity_req_per_s == max(f.capacity_req_per_s for f in summary.ranked)
    ended = of(events, TrialEnded)
    assert [event.counted for event in ended if not event.confirmation] == list(range(1, 10))
    assert len([event for event in ended if event.confirmation]) == 2
    assert cluster.live == {}


def test_trials_is_a_total_over_resumes(database):
    cluster = FakeCluster(measured)
    go(a_problem(budget=Budget(trials=3)), database, cluster)
    outcome, events = go(a_problem(budget=Budget(trials=5)), database, cluster)
    assert of(events, StudyOpened)[0].resumed
    assert of(events, StudyOpened)[0].counted == 3
    assert (outcome.counted, len(origins(events))) == (5, 2)
    outcome, events = go(a_problem(budget=Budget(trials=5)), database, cluster)
    assert (outcome.exit_reason, origins(events)) == ("confirmed", [])


def test_a_resumed_search_chooses_what_an_unbroken_one_would_have(tmp_path):
    """Sampling depends on the study's seed and the trial's number, not on the session."""
    chosen = []
    for name, stops in (("whole", (10,)), ("broken", (4, 7, 10))):
        cluster = FakeCluster(measured)
        for trials in stops:
            go(a_problem(budget=Budget(trials=trials)), str(tmp_path / name), cluster, seed=11)
        chosen.append([t.fingerprint for t in read_summary(str(tmp_path / name)).trials_in_order])
    assert chosen[0] == chosen[1]


def test_every_slot_of_every_pool_is_used_and_none_twice(database):
    cluster = FakeCluster(measured, slots={"mi355x": 2, "b200": 3}, duration_s=lambda s: 300 + 100 * (s.pool == "b200"))
    problem = a_problem(pools=("mi355x", "b200"), budget=Budget(trials=14))
    outcome, _ = go(problem, database, cluster)
    assert outcome.counted == 14
    assert cluster.most_at_once == {"mi355x": 2, "b200": 3}
    assert cluster.overlaps == []
    assert len({t.fingerprint for t in read_summary(database).trials_in_order}) == 14


BOUND = "bound_usd_per_million"


def half_way(spec, result, elapsed_s):
    """Half of a trial of 600 s, and it has shown what it can serve at most."""
    return 1.05 * result.capacity_req_per_s if result.capacity_req_per_s and elapsed_s >= 300 else None


def staggered(spec):
    return 600.0 + 100 * (spec.seed % 3)


def shown(database):
    storage = open_storage(database)
    try:
        trials = optuna.load_study(study_name="demo", storage=storage.backend).trials
    finally:
        storage.close()
    return [trial.number for trial in trials if "shown" in trial.user_attrs]


def test_what_running_trials_have_shown_is_recorded_for_the_next_choice(database):
    cluster = FakeCluster(measured, slots={"mi355x": 3}, shown=half_way, duration_s=staggered)
    go(a_problem(budget=Budget(trials=9)), database, cluster)
    assert len(shown(database)) >= 3


def test_one_at_a_time_nothing_is_chosen_meanwhile_and_nothing_is_written(database):
    cluster = FakeCluster(measured, shown=half_way, duration_s=lambda _spec: 600.0)
    go(a_problem(budget=Budget(trials=3)), database, cluster, poll_s=350.0)
    assert shown(database) == []


def test_a_choice_heeds_what_running_trials_have_shown():
    """Two run, which differ in layout: the one that turns out well decides where the next one is."""
    problem = a_problem(seeds=[])
    running = a_config(), a_config(layout=Layout(4, dp=2))
    chosen = []
    for bounds in ((1.0, 9.0), (9.0, 1.0)):
        history = [
            PastTrial(n, "running", False, config.fingerprint, "sampler", config.as_json(), {}, {}, **{BOUND: bound})
            for n, (config, bound) in enumerate(zip(running, bounds, strict=True))
        ]
        pick = choose(problem, history, number=2, seed=1, pool="mi355x", method="prior-gp")
        chosen.append(pick.config.layout)
    assert chosen == [config.layout for config in running]


class OneAtATime(FakeRuntime):
    """Tells of one end at a poll, though there are more, and takes a second to start a trial. `calls`: s, p, e."""

    kept, calls = (), ""

    def start(self, spec):
        super().start(spec)
        self.cluster.now_s += 1.0
        self.calls += "s"

    def poll(self, timeout_s):
        self.kept = self.kept or [notice for notice in super().poll(timeout_s) if isinstance(notice, Ended)]
        told, self.kept = self.kept[:1], self.kept[1:]
        self.calls += "e" if told else "p"
        return told


def test_choosing_many_trials_lets_those_that_end_meanwhile_in_between(database):
    cluster = FakeCluster(measured, slots={"mi355x": 6})
    runtime = OneAtATime(cluster)
    go(a_problem(budget=Budget(trials=12), confirm=ConfirmPlan(top=0)), database, cluster, runtime)
    assert runtime.calls.count("s") == 12
    assert runtime.calls.startswith("spspsps"), runtime.calls
    assert "ss" not in runtime.calls


def test_all_that_ended_is_recorded_before_anything_new_is_chosen(database):
    cluster = FakeCluster(measured, slots={"mi355x": 2})
    runtime = OneAtATime(cluster)
    cluster.duration_s = lambda spec: 600.0 - cluster.now_s % 600.0  # both at once
    go(a_problem(budget=Budget(trials=6), confirm=ConfirmPlan(top=0)), database, cluster, runtime)
    assert runtime.calls.replace("p", "") == "ssee" * 3, runtime.calls


def test_the_incumbents_rate_is_converted_by_price_and_seeds_are_never_raced(database):
    def priced(config, *rest):
        price = {8: 16.8, 4: 33.6}[config.layout.tp]
        return make_spec(config, *rest, usd_per_hour=price)

    specs = []

    def script(spec):
        specs.append(spec)
        return measured(spec)

    go(a_problem(make_spec=priced, budget=Budget(trials=4)), database, FakeCluster(script))
    assert [spec.incumbent_req_per_s for spec in specs[:2]] == [None, None]
    raced = specs[2]
    best_so_far = max(true_capacity(config_of(spec)) for spec in specs[:2])
    factor = raced.usd_per_hour / 16.8
    # The posterior mean with its margin, not the reading itself: a little slower, by the price's factor.
    assert 0.93 * best_so_far * factor < raced.incumbent_req_per_s <= best_so_far * factor
    assert [spec.incumbent_req_per_s for spec in specs if spec.confirm] == [None, None]


def test_every_trial_has_fresh_traffic_and_carries_the_studys_uid(database):
    specs = []

    def script(spec):
        specs.append(spec)
        return measured(spec)

    outcome, _ = go(a_problem(), database, FakeCluster(script))
    assert len({spec.seed for spec in specs}) == len(specs) == 10
    assert {spec.context["study_uid"] for spec in specs} == {outcome.uid}


def test_names_fit_an_object_name():
    name = trial_name("A long_study.name-of-someone", 1234, a_config(), confirmation=True)
    assert name == f"a-long-study-name-of-c1234-{a_config().fingerprint}"
    assert len(f"{name}-12") <= 52


def test_lost_trials_are_not_counted_and_retried_elsewhere_within_bounds(database):
    lost = []

    def script(spec):
        if config_of(spec) == a_config():
            lost.append(spec)
            return failed(spec, "infrastructure", "evicted")
        return measured(spec)

    outcome, events = go(a_problem(budget=Budget(trials=4)), database, FakeCluster(script), retries=2)
    assert [spec.attempt for spec in lost] == [1, 2, 3]
    assert [spec.context.get("avoid_nodes") for spec in lost] == [None, ["node-1"], ["node-1"]]
    assert origins(events)[:4] == ["seed:engine-default", "seed:baseline", "retry", "retry"]
    assert (outcome.counted, read_summary(database).trials["failed"]) == (4, 3)


def test_an_invalid_measurement_is_repeated_once(database):
    seen = []

    def script(spec):
        if config_of(spec) == a_config():
            seen.append(spec)
            return failed(spec, "measurement", "client_bound")
        return measured(spec)

    go(a_problem(budget=Budget(trials=4)), database, FakeCluster(script))
    assert len(seen) == 2
    assert read_summary(database).trials["invalid"] == 2


@pytest.mark.parametrize(("recognised", "times"), [(True, 1), (False, 2)])
def test_a_puzzling_crash_is_tried_once_more_and_a_known_one_never(database, recognised, times):
    seen = []

    def script(spec):
        if config_of(spec) == a_config():
            seen.append(spec)
            return failed(spec, kind="crash", recognised=recognised)
        return measured(spec)

    go(a_problem(budget=Budget(trials=6)), database, FakeCluster(script))
    assert len(seen) == times


def test_one_pool_that_only_loses_trials_closes_and_the_other_goes_on(database):
    def script(spec):
        return failed(spec, "infrastructure", "image_pull") if spec.pool == "b200" else measured(spec)

    cluster = FakeCluster(script)
    problem = a_problem(pools=("mi355x", "b200"), budget=Budget(trials=20))
    outcome, events = go(problem, database, cluster)
    assert [event.pool for event in of(events, PoolClosed)] == ["b200"]
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 20)
    assert read_summary(database).trials["failed"] == 6


def test_too_many_lost_trials_in_a_row_stop_the_search_with_the_study_intact(database):
    cluster = FakeCluster(lambda spec: failed(spec, "infrastructure", "image_pull", message="no such image"))
    outcome, events = go(a_problem(), database, cluster)
    assert (outcome.exit_reason, outcome.exit_code) == ("runtime_unusable", 5)
    assert "no such image" in outcome.message
    assert len(origins(events)) == 6
    assert cluster.now_s > 6 * 600 + 400  # rests between them, longer each time
    summary = read_summary(database)
    assert summary.exit_reason == "runtime_unusable"
    assert summary.common_failure == "all 6 trials failed for one reason: image_pull: no such image"
    cluster.script = measured
    assert go(a_problem(), database, cluster)[0].exit_reason == "confirmed"


def test_an_unusable_runtime_leaves_trials_as_they_are(database):
    cluster = FakeCluster(measured)
    runtime = cluster.controller()
    runtime.on_poll = lambda: setattr(runtime, "unusable", True)
    outcome, _ = go(a_problem(), database, cluster, runtime, poll_s=10)
    assert (outcome.exit_code, "forbidden (403)" in outcome.message) == (5, True)
    assert read_summary(database).trials["running"] == 1
    cluster.now_s += 10_000
    outcome, events = go(a_problem(), database, cluster)
    assert outcome.exit_reason == "confirmed"
    assert of(events, TrialStarted)[0].adopted
    assert len(cluster.started) == 10  # the running one was harvested, not repeated


@pytest.mark.parametrize("survives", [True, False])
def test_an_interrupt_ends_cleanly_and_resumes(database, survives):
    cluster = FakeCluster(measured, survives=survives)
    runtime = cluster.controller()

    def interrupt():
        if len(cluster.started) == 3:
            raise KeyboardInterrupt

    runtime.on_poll = interrupt
    outcome, _ = go(a_problem(), database, cluster, runtime)
    assert (outcome.exit_reason, outcome.exit_code, runtime.closed) == ("interrupted", 130, True)
    assert read_summary(database).exit_reason == "interrupted"
    outcome, events = go(a_problem(), database, cluster)
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 8)
    assert of(events, TrialStarted)[0].adopted is survives
    assert of(events, TrialStarted)[0].attempt == (1 if survives else 2)
    assert len(cluster.started) == (10 if survives else 11)


def test_a_trial_that_always_dies_with_its_controller_is_told_lost(database):
    cluster = FakeCluster(measured, survives=False)

    def interrupt():
        raise KeyboardInterrupt

    for _ in range(6):
        runtime = cluster.controller()
        runtime.on_poll = interrupt
        go(a_problem(), database, cluster, runtime)
    first = read_summary(database).trials_in_order[0]
    assert (first.state, first.failure.split(":")[0]) == ("failed", "lost")


def test_nothing_feasible_names_the_nearest_miss(database):
    cluster = FakeCluster(lambda spec: infeasible(spec, 6.0 if config_of(spec) == a_config() else 8.0))
    outcome, _ = go(a_problem(budget=Budget(trials=4)), database, cluster)
    assert (outcome.exit_reason, outcome.exit_code) == ("nothing_feasible", 3)
    summary = read_summary(database)
    assert summary.best is None
    assert summary.nearest_miss.config == a_config().as_json()
    assert summary.nearest_miss.failure == "missed at every rate: nearest TTFT p95 6.00 s, limit 5 s"


def test_an_exhausted_space_ends_the_search(database):
    few = a_problem().candidates[:5]
    outcome, _ = go(a_problem(candidates=few, seeds=[], budget=Budget()), database, FakeCluster(measured))
    assert (outcome.exit_reason, outcome.stopped_by, outcome.counted) == ("confirmed", "space_exhausted", 5)


def test_a_space_in_which_nothing_can_be_measured_says_so(database):
    few = a_problem().candidates[:2]
    cluster = FakeCluster(lambda spec: failed(spec, "measurement", "client_bound"))
    outcome, _ = go(a_problem(candidates=few, seeds=[], budget=Budget()), database, cluster)
    assert (outcome.exit_reason, outcome.message) == ("no_confirmed_winner", "no trial gave a usable measurement")


@pytest.mark.parametrize(
    ("budget", "why", "trials"),
    [
        (Budget(wall_s=3600), "wall", 4),
        (Budget(gpu_hours=16), "gpu_hours", 9),
        (Budget(usd=28), "usd", 7),
    ],
)
def test_the_search_leaves_the_confirmations_share_of_the_budget(database, budget, why, trials):
    plan = ConfirmPlan(top=1, repeats=2, minutes=10)
    outcome, _ = go(a_problem(budget=budget, confirm=plan), database, FakeCluster(measured))
    assert (outcome.stopped_by, outcome.counted, outcome.exit_reason) == (why, trials, "confirmed")


def test_a_budget_spent_before_anything_was_learnt_says_so(database):
    cluster = FakeCluster(lambda spec: failed(spec, "measurement", "client_bound"))
    outcome, _ = go(a_problem(budget=Budget(wall_s=1000)), database, cluster)
    assert (outcome.exit_reason, outcome.exit_code) == ("budget", 4)
    assert "wall" in outcome.message


def test_confirmation_goes_down_the_list_until_one_holds(database):
    """The best fails when measured again: the second is confirmed and becomes the best of the study."""
    refuted = []

    def script(spec):
        if spec.confirm and not refuted:
            refuted.append(spec.fingerprint)
        return infeasible(spec, 5.4) if spec.confirm and spec.fingerprint in refuted else measured(spec)

    outcome, events = go(a_problem(budget=Budget(trials=8)), database, FakeCluster(script))
    assert outcome.exit_reason == "confirmed"
    assert [event.rank for event in of(events, ConfirmStarted)] == [1, 2]
    assert [event.holds for event in of(events, ConfirmEnded)] == [False, True]
    summary = read_summary(database)
    assert [f.fingerprint for f in summary.ranked if f.standing == "missed"] == refuted
    assert summary.best.fingerprint != refuted[0]
    assert summary.best.confirmed


def test_confirmations_run_at_the_guarded_rate_on_other_nodes_with_fresh_seeds(database):
    specs = []

    def script(spec):
        if spec.confirm:
            specs.append(spec)
        return replace(measured(spec), node=f"node-{len(specs)}")

    plan = ConfirmPlan(top=2, repeats=3, minutes=7, different_nodes=True)
    go(a_problem(confirm=plan), database, FakeCluster(script))
    best = read_summary(database).best
    assert [spec.confirm.rate_req_per_s for spec in specs] == pytest.approx([0.95 * best.capacity_req_per_s] * 3)
    assert {spec.confirm.duration_s for spec in specs} == {420}
    assert len({spec.seed for spec in specs}) == 3
    assert [spec.context["avoid_nodes"] for spec in specs] == [
        ["node-0"],
        ["node-0", "node-1"],
        ["node-0", "node-1", "node-2"],
    ]
    assert best.confirmed_rate_req_per_s == pytest.approx(0.95 * best.capacity_req_per_s)


def test_no_winner_when_no_candidate_holds(database):
    cluster = FakeCluster(lambda spec: infeasible(spec) if spec.confirm else measured(spec), slots={"mi355x": 2})
    outcome, events = go(a_problem(), database, cluster)
    assert (outcome.exit_reason, outcome.exit_code) == ("no_confirmed_winner", 4)
    assert [event.holds for event in of(events, ConfirmEnded)] == [False, False, False]
    summary = read_summary(database)
    assert (summary.best.confirmed, summary.best.standing) == (False, None)  # the fourth: not refuted
    assert cluster.live == {}


def test_lost_confirmations_are_repeated_and_then_leave_the_candidate_undecided(database):
    losses = {"left": 2}

    def script(spec):
        if spec.confirm and losses["left"]:
            losses["left"] -= 1
            return failed(spec, "infrastructure", "evicted")
        return measured(spec)

    outcome, _ = go(a_problem(), database, FakeCluster(script))
    assert outcome.exit_reason == "confirmed"
    assert read_summary(database).confirmations["failed"] == 2


def test_a_pool_that_breaks_during_confirmation_is_an_unusable_runtime(database):
    cluster = FakeCluster(lambda s: failed(s, "infrastructure", "evicted") if s.confirm else measured(s))
    outcome, _ = go(a_problem(), database, cluster, retries=9)
    assert outcome.exit_reason == "runtime_unusable"
    cluster.script = measured
    assert go(a_problem(), database, cluster, retries=9)[0].exit_reason == "confirmed"


def test_a_budget_that_ends_during_confirmation_ends_without_a_winner(database):
    plan = ConfirmPlan(top=3, repeats=4, minutes=600)
    slow = FakeCluster(measured, duration_s=lambda spec: 36_000 if spec.confirm else 600)
    outcome, _ = go(a_problem(budget=Budget(wall_s=6000), confirm=plan), database, slow)
    assert (outcome.exit_reason, outcome.exit_code, outcome.stopped_by) == ("budget", 4, "wall")
    assert "before a winner was confirmed" in outcome.message


def test_another_identity_is_refused_with_its_differences(database):
    cluster = FakeCluster(measured)
    go(a_problem(), database, cluster)
    other = a_problem(identity={"workload": {"input_tokens": 30_000}, "image": "sglang@sha256:1"})
    with pytest.raises(UsageError) as caught:
        go(other, database, cluster)
    assert "  workload.input_tokens: 20000 -> 30000\n" in str(caught.value)
    assert "image" not in str(caught.value)
    real = cluster.controller()
    real.simulated = False
    with pytest.raises(UsageError, match="simulated: true -> false"):
        go(a_problem(), database, cluster, real)


def test_a_study_of_another_program_is_refused(database):
    storage = open_storage(database)
    optuna.create_study(study_name="demo", storage=storage.backend).ask()
    storage.close()
    with pytest.raises(UsageError, match="this program did not make"):
        go(a_problem(), database, FakeCluster(measured))


def test_new_prices_rescore_without_measuring_again(database):
    """The dearer pool's price falls between resumes: its configurations become the cheapest, nothing is run again."""
    prices = {"mi355x": 16.8, "b200": 40.0}

    def priced(config, *rest):
        return make_spec(config, *rest, usd_per_hour=prices[config.pool])

    problem = a_problem(pools=("mi355x", "b200"), make_spec=priced, budget=Budget(trials=12))
    cluster = FakeCluster(measured, slots={"mi355x": 1, "b200": 1})
    go(problem, database, cluster)
    before = read_summary(database)
    assert before.best.pool == "mi355x"
    prices["b200"] = 8.0
    outcome, events = go(problem, database, cluster)
    after = read_summary(database)
    assert (origins(events), outcome.exit_reason) == ([], "confirmed")
    assert after.best.pool == "b200"
    assert after.best.confirmed
    was = {f.trial: f.usd_per_million_output_tokens for f in before.ranked}
    now = {f.trial: f.usd_per_million_output_tokens for f in after.ranked}
    assert {round(now[n] / was[n], 6) for n in was} == {1.0, 0.2}


def test_raced_out_trials_count_and_never_win(database):
    best = a_config()
    cluster = FakeCluster(
        lambda s: measured(s, 1.0) if s.confirm or config_of(s) in (best, ENGINE_DEFAULT) else raced_out(s)
    )
    outcome, _ = go(a_problem(budget=Budget(trials=6)), database, cluster)
    assert (outcome.exit_reason, outcome.counted) == ("confirmed", 6)
    assert read_summary(database).trials == {
        "measured": 2,
        "infeasible": 0,
        "pruned": 4,
        "failed": 0,
        "invalid": 0,
        "running": 0,
        "abandoned": 0,
    }


@pytest.mark.postgres
def test_a_search_runs_and_resumes_on_postgresql(postgres_url):
    cluster = FakeCluster(measured, slots={"mi355x": 2})
    problem = a_problem(name="pgsearch", budget=Budget(trials=4))
    assert go(problem, postgres_url, cluster)[0].exit_reason == "confirmed"
    problem = replace(problem, budget=Budget(trials=6))
    outcome, events = go(problem, postgres_url, cluster)
    assert (outcome.counted, len(origins(events))) == (6, 2)
    assert read_summary(postgres_url, "pgsearch").best.confirmed
