"""From a space to a search problem: identity, dimensions, and trials that survive JSON and the engine's parser."""

from __future__ import annotations

import json
import re

import pytest
from support.spaces import SMALL, small_space
from support.traffic import a_trace

from tuner.launch.dialect import canonical, dialect
from tuner.launch.parse import parse_argv
from tuner.launch.spaces import open_space
from tuner.space.find import shipped_spaces
from tuner.study.assemble import Where, config_from, deadlines_of, identity, problem_of
from tuner.study.history import differences
from tuner.study.points import evaluate
from tuner.study.problem import coordinates
from tuner.trial.spec import Confirm, Deadlines, TrialSpec

HERE = Where(simulated=True, world=1)
POOL = """\
    usd_per_gpu_hour: 2.10
    max_nodes: 2
    node_selector: {a: b}
    tolerations: [{key: gpu}]
    model_cache: {pvc: models}
    compile_cache: {pvc: compiled}
    autoscale: {wait: 20m}
    image_pull_secrets: [s]
    priority_class: low
    context: east
    namespace: ml
    queue: batch
    files: {config_map: prompts}
    billing: node
    env: {A: "1"}
    args: {watchdog-timeout: 1800}
    pod_patch: {spec: {hostIPC: true}}
"""
FULL = (
    ("    usd_per_gpu_hour: 2.10\n", POOL),
    ("subject_to:", "guard: 0.05\n  token_weights: {output: 1}\n  subject_to:"),
    ("seeds:\n", "rules:\n  - {id: r, forbid: layout.tp == 2, why: because}\nseeds:\n"),
)


def changed(folder, old, new):
    """What a study made from the full file says of the same file with one edit."""
    before = identity(open_space(str(small_space(folder, *FULL))), HERE)
    after = identity(open_space(str(small_space(folder, *FULL, (old, new)))), HERE)
    return differences(json.loads(json.dumps(before)), after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("budget: {trials: 4}", "budget: {trials: 9, wall: 2h, gpu_hours: 5, usd: 9}"),
        ("top: 1, repeats: 1, minutes: 2", "top: 3, repeats: 2, minutes: 5, different_nodes: false"),
        ("usd_per_gpu_hour: 2.10", "usd_per_gpu_hour: 3.10"),
        ("billing: node", "billing: gpu"),
        ("max_nodes: 2", "max_nodes: 20"),
        ("tolerations: [{key: gpu}]", "tolerations: []"),
        ("model_cache: {pvc: models}", "model_cache: {host_path: /models}"),
        ("compile_cache: {pvc: compiled}", "compile_cache: {pvc: other}"),
        ("wait: 20m", "wait: 5m"),
        ("image_pull_secrets: [s]", "image_pull_secrets: [t]"),
        ("priority_class: low", "priority_class: high"),
        ("context: east", "context: west"),
        ("namespace: ml", "namespace: other"),
        ("queue: batch", "queue: night"),
        ("files: {config_map: prompts}", "files: {pvc: traces}"),
        ("seeds:\n", "deadlines: {ready: 90m, probe: 1h}\nseeds:\n"),
        ("name: small", "name: other"),
        ("why: because", "why: for another reason"),
        ("rules:\n", "rules:\n  - {id: w, warn: layout.tp == 8, why: mind it}\n"),
        ("  baseline: {layout: {tp: 8}", "  wide: {layout: {tp: 8}}\n  baseline: {layout: {tp: 8}"),
    ],
)
def test_what_changes_no_measurement_may_change_between_resumes(tmp_path, old, new):
    assert not changed(tmp_path, old, new)


def test_the_deadlines_of_the_file_are_those_of_every_trial(tmp_path):
    said = "deadlines: {ready: 90m, first_token: 20, probe: 1h, stop: 5s, memory_free: 2}\nseeds:\n"
    made = problem(evaluate(open_space(str(small_space(tmp_path, ("seeds:\n", said))))))
    spec = made.make_spec(made.candidates[0].config, "a-0-x", 1, 0, None, None)
    assert spec.deadlines == Deadlines(5400.0, 20.0, 3600.0, 5.0, 2.0)


def test_a_file_without_deadlines_has_those_of_a_trial_without(tmp_path):
    assert deadlines_of(open_space(str(small_space(tmp_path))).spec.deadlines) == Deadlines()


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("node_selector: {a: b}", "node_selector: {a: c}", "pools.mi355x.node_selector.a"),
        ("architecture: glm-5.2", "architecture: glm-5", "model.architecture"),
        ('version: "0.5.16"', 'version: "0.5.17"', "pools.mi355x.engine.version"),
        ("kind: sglang,", "kind: sglang, command: [sgl],", "pools.mi355x.engine.command"),
        ("mi35x-20260728", "mi35x-20260801", "pools.mi355x.image"),
        ("accelerator: mi355x", "accelerator: mi325x", "pools.mi355x.accelerator"),
        ('env: {A: "1"}', 'env: {A: "2"}', "pools.mi355x.env.A"),
        ("watchdog-timeout: 1800", "watchdog-timeout: 900", "pools.mi355x.args.watchdog-timeout"),
        ("hostIPC: true", "hostIPC: false", "pools.mi355x.pod_patch.spec.hostIPC"),
        ("    max_nodes: 2", "    exclusive: false\n    max_nodes: 2", "pools.mi355x.exclusive"),
        ("input_tokens: 4000", "input_tokens: 4001", "workload.input_tokens"),
        ("output_tokens: 200", "output_tokens: {uniform: [100, 300]}", "workload.output_tokens"),
        ("cached_fraction: 0.5", "cached_fraction: 0.6", "workload.cached_fraction"),
        ("prefix_groups: 8", "prefix_groups: 4", "workload.prefix_groups"),
        ("  prefix_groups: 8", "  prefix_groups: 8\n  arrivals: constant", "workload.arrivals"),
        ("  prefix_groups: 8", "  prefix_groups: 8\n  sampling: {temperature: 0.5}", "workload.sampling.temperature"),
        ("ttft_p95_s: 5.0", "ttft_p95_s: 4.0", "objective.subject_to.ttft_p95_s"),
        ("ttft_p95_s: 5.0", "ttft_p95_s: 5.0, error_rate: 0.01", "objective.subject_to.error_rate"),
        ("guard: 0.05", "guard: 0.1", "objective.guard"),
        ("token_weights: {output: 1}", "token_weights: {output: 1, input: 1}", "objective.token_weights.input"),
        ("tp: [4, 8], dp: [1, 2]", "tp: [8]", "space.layout"),
        (
            "max-running-requests: {values: [32, 64]}",
            "max-running-requests: {values: [64]}",
            "space.max-running-requests",
        ),
        ("kv-cache-dtype: fp8_e4m3", "kv-cache-dtype: auto", "space.weights.choice.mxfp4.args.kv-cache-dtype"),
        ("MXFP4, args", "MXFP4, env: {B: c}, args", "space.weights.choice.mxfp4.env.B"),
        ("mem-fraction-static: 0.84", "mem-fraction-static: 0.83", "space.mem-fraction-static"),
        ("layout.tp == 2", "layout.tp == 1", "rules.r.forbid"),
    ],
)
def test_what_changes_a_measurement_is_another_study_and_named(tmp_path, old, new, path):
    found = changed(tmp_path, old, new)
    assert found
    assert all(line.startswith(path) for line in found), found


@pytest.mark.parametrize(
    "where",
    [
        Where(simulated=True, world=2),
        Where(simulated=False),
        Where(simulated=False, program=("tuner", "engine")),
    ],
)
def test_where_it_runs_belongs_to_the_identity(tmp_path, where):
    space = open_space(str(small_space(tmp_path)))
    assert identity(space, HERE) != identity(space, where)
    assert identity(space, where) == json.loads(json.dumps(identity(space, where)))


OWN = (
    ("pools:\n", "accelerators:\n  mi400: {like: mi355x, hbm_tb_s: 19.6}\npools:\n"),
    ("accelerator: mi355x", "accelerator: mi400"),
    ("glm-5.2}\n", "mine}\narchitectures:\n  mine: {config: glm-5.2, tokens_per_verify: [1.9]}\n"),
)


@pytest.mark.parametrize("edit", [("hbm_tb_s: 19.6", "hbm_tb_s: 18.6"), ("[1.9]", "[1.8]")])
def test_own_definitions_change_a_prediction_and_no_measurement(tmp_path, edit):
    """With the simulated engine the measurement is the prediction."""
    for where, changes in ((HERE, True), (Where(simulated=False), False)):
        one = identity(open_space(str(small_space(tmp_path, *OWN))), where)
        other = identity(open_space(str(small_space(tmp_path, *OWN, edit))), where)
        assert one == json.loads(json.dumps(one))
        assert (one != other) is changes


def test_an_unused_definition_is_nothing_to_a_study(tmp_path):
    unused = ("pools:\n", "accelerators:\n  mi400: {like: mi355x, hbm_tb_s: 19.6}\npools:\n")
    plain, more = (identity(open_space(str(small_space(tmp_path, *e))), HERE) for e in ((), (unused,)))
    assert plain == more


def test_own_definitions_travel_with_a_trial(tmp_path):
    points = evaluate(open_space(str(small_space(tmp_path, *OWN))))
    spec = problem(points).make_spec(points.valid[0].config, "s-0", 1, 5, None, None)
    context = TrialSpec.from_json(json.loads(json.dumps(spec.as_json()))).context
    assert context["accelerator"] == {"name": "mi400", "like": "mi355x", "hbm_tb_s": 19.6}
    assert context["architecture"] == {"name": "mine", "config": "glm-5.2", "tokens_per_verify": [1.9]}


def problem(points, **changes):
    how = {"name": "s", "where": HERE, "trials": None}
    return problem_of(points, **how | changes)


def test_a_problem_holds_what_the_file_says(tmp_path):
    points = evaluate(open_space(str(small_space(tmp_path, *FULL))))
    made = problem(points)
    assert (4, None, None) == (made.budget.trials, made.budget.wall_s, made.budget.usd)
    assert (1, 1, 2.0) == (made.confirm.top, made.confirm.repeats, made.confirm.minutes)
    assert ["baseline"] == [name for name, _ in made.seeds]
    assert (0.05, 5.0) == (made.guard, made.limits.ttft_p95_s)
    assert 7 == problem(points, trials=7).budget.trials
    assert ("mi355x",) == made.pools


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_trials_of_a_shipped_space_survive_json_and_the_engines_own_parser(name):
    """Every 29th valid point and every seed: the document round-trips, the argv parses back to what was meant."""
    points = evaluate(open_space(name))
    made = problem(points)
    assert all(coordinates(candidate.config, made.dimensions) for candidate in made.candidates)
    configs = [p.config for p in points.valid[::29]] + [config for _, config in made.seeds]
    assert len(configs) > 150
    for number, config in enumerate(configs):
        assert bool(config.only) is (coordinates(config, made.dimensions) is None)
        spec = made.make_spec(config, f"t-{number}", 2, 5, 1.5, Confirm(2.5, 60.0) if number % 2 else None)
        assert spec == TrialSpec.from_json(json.loads(json.dumps(spec.as_json())))
        assert config == config_from(json.loads(json.dumps(spec.config)), points.space)
        assert config.fingerprint == spec.fingerprint
        _check_argv(spec, config, points)


def _check_argv(spec, config, points):
    deployment = points.space.deployment(config)
    args = spec.context["args"]
    assert spec.argv == (*spec.context["program"], *args)
    given = parse_argv(args, dialect(spec.engine_version))
    assert deployment.model == given["model-path"]
    assert config.layout.tp == given["tp-size"]
    if config.only:
        assert {"model-path", "tp-size"} == set(given)
        return
    assert (config.layout.dp, config.layout.ep) == (
        1 if given.get("enable-dp-attention") else given.get("dp-size", 1),
        given.get("ep-size", 1),
    )
    for flag, value in deployment.flags.items():
        if value is not False:
            assert value == given[canonical(flag)], flag


def test_a_trial_carries_its_price_its_limits_and_what_a_model_of_the_hardware_needs(tmp_path):
    points = evaluate(open_space(str(small_space(tmp_path, *FULL))))
    made = problem(points, where=Where(simulated=True, world=3, program=("tuner", "engine")))
    spec = made.make_spec(points.valid[0].config, "s-0", 1, 5, None, None)
    assert ("tuner", "engine") == spec.argv[:2]
    assert ["sglang", "serve"] == spec.context["program"]
    assert (8, 16.8, 0.05) == (spec.gpus, pytest.approx(spec.usd_per_hour), spec.guard)
    assert ("mi355x", "glm-5.2", "mi355x") == (spec.context["accelerator"], spec.context["architecture"], spec.pool)
    assert {"A": "1"} == spec.env
    assert (True, "0.5.16", "s") == (spec.simulated, spec.engine_version, spec.study)
    assert spec.image.endswith("mi35x-20260728")


def test_a_file_of_traffic_counts_by_what_it_says(tmp_path):
    def of(name, text):
        (tmp_path / name).write_text(text)
        space = tmp_path / "space.yaml"
        workload = f"workload: {{prompts: {{trace: {name}}}, arrivals: trace}}\nobjective:"
        space.write_text(re.sub(r"workload:.*?\nobjective:", workload, SMALL, flags=re.DOTALL))
        points = evaluate(open_space(str(space)))
        return identity(points.space, HERE), problem(points)

    one, made = of("a.jsonl", a_trace())
    assert of("b.jsonl", a_trace())[0] == one
    other, _ = of("a.jsonl", a_trace(41))
    (line,) = differences(one, other)
    assert line.startswith("workload.prompts.trace: ")
    assert made.workload.traffic.name == "a.jsonl"
    assert made.candidates[0].predicted_capacity_req_per_s > 0
    spec = made.make_spec(made.candidates[0].config, "demo-1", 1, 0, None, None)
    assert TrialSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
