"""The simulated runtime: order in virtual time, and results as the runner would give them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise

import optuna
import pytest
from support.spaces import SMALL
from support.traffic import lines, read

from tuner.launch.spaces import open_space
from tuner.runtime.protocol import Ended, Runtime, Stage
from tuner.runtime.simulated import SimulatedRuntime, simulate
from tuner.space.workload import Length, Limits, Workload
from tuner.study.assemble import Where, problem_of
from tuner.study.points import evaluate
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.search import search
from tuner.trial.result import TrialResult
from tuner.trial.spec import Confirm, Deadlines

LAYOUT = "layout: {tp: [4, 8], dp: [1, 2], gpus: 8}"
BAD_FLAG_S = 25.0
"""How long the engine takes to refuse its command line."""


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A small GLM-5.2 space on MI355X with expert-parallel layouts, and a limit that makes levels short."""
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    text = SMALL
    for old, new in ((LAYOUT, LAYOUT.replace("gpus", "ep: [1, tp], gpus")), ("ttft_p95_s: 5.0", "ttft_p95_s: 1.0")):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    points = evaluate(open_space(str(path)))
    return problem_of(points, name="small", where=Where(simulated=True, world=0), trials=3, deadlines=Deadlines())


@pytest.fixture(scope="module")
def a_trial(problem):
    """`a_trial("tp4-dp2", "fp8", seed=1, flags={...})`: the specification of a point of that layout and weights."""

    def make(layout="tp8", weights="mxfp4", seed=1, flags=None, **changes):
        config = next(
            c.config
            for c in problem.candidates
            if c.config.layout.label == layout and c.config.get("weights").name == weights
        )
        spec = problem.make_spec(config, changes.pop("id", "small-1"), 1, seed, None, None)
        argv = list(spec.argv)
        for flag, value in (flags or {}).items():
            argv[argv.index(flag) + 1] = value
        return replace(spec, argv=tuple(argv), **changes)

    return make


@pytest.fixture(scope="module")
def measured(a_trial):
    """The plain trial, measured once."""
    return cache(lambda world: simulate(a_trial(), world)[0])


def broken(spec):
    """A trial that ends after `BAD_FLAG_S`, without a load."""
    return replace(spec, argv=(*spec.argv, "--no-such-flag"))


def ends(runtime, count):
    """The next `count` ends, with the virtual time of each."""
    found = []
    for _ in range(20):
        notices = runtime.poll(1.0)
        found += [(notice.trial_id, runtime.now_s()) for notice in notices if isinstance(notice, Ended)]
        if len(found) == count:
            return found
    raise AssertionError(f"only {found} ended")


# --- the Protocol


def test_it_is_a_runtime_with_as_many_slots_as_nodes():
    runtime: Runtime = SimulatedRuntime({"mi355x": 3})
    assert (runtime.name, runtime.simulated, runtime.now_s()) == ("simulated", True, 0.0)
    assert (runtime.slots("mi355x"), runtime.slots("a pool it has never heard of")) == (3, 1)


def test_a_trial_is_told_of_and_ends_once(a_trial):
    runtime = SimulatedRuntime({})
    spec = replace(broken(a_trial()), attempt=2)
    runtime.start(spec)
    runtime.start(spec)
    (stage,) = runtime.poll(1.0)
    assert isinstance(stage, Stage)
    runtime.start(spec)
    (ended,) = runtime.poll(1.0)
    assert (ended.trial_id, ended.attempt, ended.result.id) == (spec.id, 2, spec.id)
    runtime.start(spec)
    assert list(runtime.poll(1.0)) == []


def test_the_earliest_end_comes_first_and_later_trials_begin_then(a_trial):
    """Two at once: the one that fails at once ends first, whatever the order of their starts."""
    runtime = SimulatedRuntime({"mi355x": 2})
    runtime.start(a_trial(id="long", flags={"--mem-fraction-static": "0.97"}))
    runtime.start(broken(a_trial(id="short")))
    ((first, first_s),) = ends(runtime, 1)
    assert (first, first_s) == ("short", BAD_FLAG_S)
    runtime.start(broken(a_trial(id="next")))
    ((second, second_s), (third, third_s)) = ends(runtime, 2)
    assert (second, second_s) == ("next", 2 * BAD_FLAG_S)
    assert third == "long"
    assert third_s > second_s
    assert runtime.now_s() == third_s


def test_a_trial_tells_of_its_levels_when_they_end_in_virtual_time(a_trial, measured):
    """Also while another trial ends: what it has shown by then is known by then."""
    runtime = SimulatedRuntime({"mi355x": 2})
    runtime.start(a_trial())
    runtime.start(broken(a_trial(id="short")))
    told = []
    while not told or told[-1][1].trial_id == "short" or not isinstance(told[-1][1], Ended):
        told += [(runtime.now_s(), notice) for notice in runtime.poll(1.0)]
    assert [at_s for at_s, _ in told] == sorted(at_s for at_s, _ in told)
    assert [notice.trial_id for _, notice in told[:3]] == ["small-1", "short", "short"], "computed, computed, ended"
    (*levels, (end_s, ended)) = [(at_s, notice) for at_s, notice in told[3:]]
    result = ended.result
    assert len(levels) == len(result.levels) >= 2
    began_s = result.start_up_s
    for (at_s, stage), level in zip(levels, result.levels, strict=True):
        assert began_s + level.start_s <= at_s <= end_s
        assert stage.capacity_at_most_req_per_s == level.capacity_at_most_req_per_s >= result.capacity_req_per_s
        began_s = max(began_s, at_s - level.start_s - level.duration_s - 1e-6)
    assert [round(b[0] - a[0], 6) for a, b in pairwise(levels)] == [
        round(b.start_s + b.duration_s - a.start_s - a.duration_s, 6) for a, b in pairwise(result.levels)
    ]


def test_with_no_time_to_wait_no_level_is_told_before_its_time(a_trial):
    runtime = SimulatedRuntime({})
    runtime.start(a_trial())
    assert len(runtime.poll(0)) == 1, "it was computed"
    assert (list(runtime.poll(0)), runtime.now_s()) == ([], 0.0)


def test_a_further_attempt_and_a_released_trial_run_again(a_trial):
    runtime = SimulatedRuntime({})
    spec = broken(a_trial())
    for again in (spec, replace(spec, attempt=2)):
        runtime.start(again)
        ends(runtime, 1)
    runtime.release(spec.id)
    runtime.start(replace(spec, attempt=2))
    assert ends(runtime, 1) == [(spec.id, 3 * BAD_FLAG_S)]


def test_what_is_released_before_it_was_computed_is_never_heard_of(a_trial):
    runtime = SimulatedRuntime({})
    runtime.start(broken(a_trial(id="gone")))
    runtime.release("gone")
    runtime.release("never heard of")
    assert list(runtime.poll(1.0)) == []


def test_after_a_restart_everything_is_gone(a_trial):
    assert SimulatedRuntime({}).reconcile("uid", {"a": 1, "b": 3}) == {"a": "gone", "b": "gone"}


def test_reconciling_within_a_process_keeps_what_is_expected(a_trial):
    runtime = SimulatedRuntime({})
    for trial_id in ("a", "b", "c"):
        runtime.start(broken(a_trial(id=trial_id)))
    assert runtime.reconcile("uid", {"a": 1, "b": 2, "d": 1}) == {"a": "running", "b": "gone", "d": "gone"}
    assert [trial_id for trial_id, _ in ends(runtime, 1)] == ["a"]
    assert list(runtime.poll(1.0)) == []


def test_time_passes_while_nothing_runs():
    """Whoever waits for a pool to rest must not wait for ever."""
    runtime = SimulatedRuntime({})
    assert list(runtime.poll(7.0)) == []
    assert runtime.now_s() == 7.0


def test_closing_ends_everything_and_may_be_repeated(a_trial):
    runtime = SimulatedRuntime({})
    runtime.start(broken(a_trial()))
    runtime.close()
    runtime.close()
    assert list(runtime.poll(1.0)) == []


# --- results


def test_a_measured_trial_is_whole_and_says_that_it_is_simulated(measured, a_trial):
    result = measured(0)
    assert (result.state, result.failure, result.simulated) == ("measured", None, True)
    assert "simulated" in result.versions["engine"]
    assert result.measurement.capacity_req_per_s == result.capacity_req_per_s
    assert 0 < result.ttft_p95_s <= 1.0
    assert result.output_tokens_per_s == pytest.approx(200 * result.capacity_req_per_s)
    assert result.measurement.achieved_cached_share == pytest.approx(0.5, abs=0.02)
    assert result.gpu_seconds > 8 * result.start_up_s > 0
    assert result.effective["tp"] == 8
    assert TrialResult.from_json(result.as_json()) == result


def test_a_trial_is_a_function_of_its_seed_and_world(measured, a_trial):
    assert simulate(a_trial(), 0)[0] == measured(0)
    assert simulate(a_trial(seed=2), 0)[0].levels != measured(0).levels
    assert measured(3).capacity_req_per_s != measured(0).capacity_req_per_s


def test_no_rate_is_given_up_because_its_level_took_many_requests(a_trial):
    """A level lasts limit / tolerance: at this rate more requests than deciding may take. It decided long before."""
    spec = a_trial(flags={"--max-running-requests": "8"})
    workload = replace(spec.workload, input_tokens=type(spec.workload.input_tokens).fixed(64), cached_fraction=0.0)
    workload = replace(workload, output_tokens=type(spec.workload.output_tokens).fixed(8))
    result, _ = simulate(replace(spec, workload=workload), 0)
    assert result.state == "measured"
    rate = result.capacity_req_per_s
    assert rate * 1.0 / 0.05 > 500
    assert [level.verdict for level in result.levels if level.rate_req_per_s == rate] == ["holds"]
    saturated = next(level for level in result.levels if level.verdict == "saturates")
    assert rate > 0.7 * saturated.output_tokens_per_s / 8


FP8_EP = {"layout": "tp8-ep8", "weights": "fp8"}


@pytest.mark.parametrize(
    ("how", "world", "kind", "started"),
    [
        ({"argv": ("--no-such-flag",)}, 0, "bad_flag", False),
        ({"flags": {"--tp-size": "1"}}, 0, "oom_weights", False),
        ({"flags": {"--tp-size": "3"}}, 0, "invalid_combination", False),
        ({"flags": {"--tp-size": "4", "--mem-fraction-static": "0.3"}}, 0, "oom_kv", False),
        ({"flags": {"--mem-fraction-static": "0.99"}}, 0, "oom_graph", False),
        ({"flags": {"--mem-fraction-static": "0.97"}}, 0, "oom_runtime", True),
        (FP8_EP, 1, "hang", True),
        (FP8_EP, 7, "gpu_fault", True),
    ],
)
def test_failures_are_told_apart_as_the_runner_does(a_trial, how, world, kind, started):
    extra = how.get("argv", ())
    spec = a_trial(**{key: value for key, value in how.items() if key != "argv"})
    result, lasted_s = simulate(replace(spec, argv=(*spec.argv, *extra)), world)
    assert (result.state, result.failure.kind, result.failure.failure_class) == ("failed", kind, "configuration")
    assert result.failure.recognised
    assert result.failure.message
    assert (result.start_up_s is not None) == started
    assert result.capacity_req_per_s is None
    assert result.simulated
    assert result.gpu_seconds == pytest.approx(8 * lasted_s)
    assert lasted_s > (result.start_up_s or 0.0)


def test_every_request_failing_is_a_failure_with_its_own_word(a_trial):
    """No answer is quick enough for a client that waits a millisecond."""
    result, _ = simulate(a_trial(deadlines=replace(Deadlines(), first_token_s=0.001)), 0)
    assert (result.state, result.failure.kind) == ("failed", "all_failed")
    assert "timeout" in result.failure.message


def test_a_limit_no_rate_meets_is_infeasible_with_its_nearest_miss(a_trial):
    result, _ = simulate(a_trial(limits=Limits(ttft_p95_s=0.01)), 0)
    assert (result.state, result.failure, result.capacity_req_per_s) == ("infeasible", None, None)
    assert result.ttft_p95_s > 0.01
    assert result.bound_req_per_s > 0


def test_what_cannot_beat_the_incumbent_is_pruned_early_with_a_bound(a_trial, measured):
    better = 3 * measured(0).capacity_req_per_s
    result, _ = simulate(a_trial(incumbent_req_per_s=better), 0)
    assert (result.state, result.capacity_req_per_s) == ("pruned", None)
    assert measured(0).capacity_req_per_s * 0.95 < result.bound_req_per_s < better
    assert result.gpu_seconds < measured(0).gpu_seconds


def test_too_little_time_for_a_verdict_is_no_fault_of_the_configuration(a_trial):
    """As the runner says: nothing is known of the engine, so the trial does not count."""
    result, _ = simulate(a_trial(deadlines=replace(Deadlines(), probe_s=5.0)), 0)
    assert (result.state, result.failure.failure_class, result.failure.kind) == ("invalid", "measurement", "undecided")
    assert result.start_up_s > 0


@pytest.mark.parametrize(("share", "state"), [(0.9, "measured"), (2.0, "infeasible")])
def test_a_confirmation_holds_below_the_capacity_and_misses_above(a_trial, measured, share, state):
    rate = share * measured(0).capacity_req_per_s
    result, _ = simulate(a_trial(confirm=Confirm(rate, 60.0)), 0)
    assert result.state == state
    assert (result.capacity_req_per_s if state == "measured" else result.bound_req_per_s) == pytest.approx(rate)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_limit_near_the_first_token_of_a_filling_server_is_measured_too(a_trial, seed):
    """While it fills, requests are prefilled together: that wait must not be taken for a lone request's."""
    heavy = Workload(Length.fixed(20000), Length.fixed(1000), 0.6, 32)
    flags = {"--chunked-prefill-size": "32768"}
    tight = {"limits": Limits(ttft_p95_s=1.2), "seed": seed, "workload": heavy, "flags": flags}
    result, _ = simulate(a_trial("tp4-dp2", **tight), 0)
    beyond, _ = simulate(a_trial("tp4-dp2", **tight, confirm=Confirm(1.5 * result.capacity_req_per_s, 600.0)), 0)
    assert beyond.state == "infeasible"


def test_a_search_in_which_nothing_can_be_decided_ends(problem, tmp_path):
    """Its pool rests in virtual time between trials, and is closed in the end."""
    short = Deadlines(probe_s=2.0)
    hopeless = replace(problem, make_spec=replace(problem.make_spec, deadlines=short), budget=Budget(trials=2))
    outcome = search(hopeless, f"sqlite:///{tmp_path}/study.db", SimulatedRuntime({"mi355x": 1}))
    assert (outcome.exit_reason, outcome.counted) == ("runtime_unusable", 0)
    assert "undecided" in outcome.message or "no rate was shown to hold" in outcome.message


@pytest.mark.parametrize(("nodes", "any_shown"), [(1, False), (2, True)])
def test_with_two_nodes_what_running_trials_have_shown_is_on_record(problem, tmp_path, nodes, any_shown):
    url = f"sqlite:///{tmp_path}/study.db"
    few = replace(problem, budget=Budget(trials=4), confirm=ConfirmPlan(top=0))
    search(few, url, SimulatedRuntime({"mi355x": nodes}))
    trials = optuna.load_study(study_name=few.name, storage=url).trials
    shown = {trial.number: trial.user_attrs["shown"] for trial in trials if "shown" in trial.user_attrs}
    assert bool(shown) is any_shown
    for number, said in shown.items():
        result = TrialResult.from_json(trials[number].user_attrs["result"])
        levels = [level.capacity_at_most_req_per_s for level in result.levels]
        assert said["bound_req_per_s"] in [pytest.approx(rate, rel=1e-5) for rate in levels]


def test_a_trace_is_replayed_with_its_sharing(a_trial, tmp_path):
    """Every request begins as the one of 16 before it did: all but the first of each find that part cached."""
    rows = [
        {"timestamp": 50 * i, "input_length": 20_100, "output_length": 300, "hash_ids": [*range(g, g + 30), 10_000 + i]}
        for i in range(400)
        for g in [100 * (i % 16)]
    ]
    traffic = read(tmp_path, lines(rows), "trace")
    workload = Workload(
        traffic.input_tokens, Length.fixed(300), traffic.cached_fraction, traffic.prefix_groups, "trace",
        prompts="trace", traffic=traffic.file,
    )  # fmt: skip
    spec = a_trial(workload=workload, limits=Limits(ttft_p95_s=3.0))
    shared, lasted_s = simulate(spec, 0, traffic)
    alone, _ = simulate(replace(spec, workload=replace(workload, cached_fraction=0.0, traffic=None)), 0)
    assert shared.state == alone.state == "measured"
    assert shared.measurement.achieved_cached_share == pytest.approx(30 * 512 / 20_100, abs=0.02)
    assert shared.measurement.offered_cached_share == pytest.approx(traffic.cached_fraction)
    assert shared.capacity_req_per_s > 1.3 * alone.capacity_req_per_s
    assert simulate(spec, 0, traffic) == (shared, lasted_s)
