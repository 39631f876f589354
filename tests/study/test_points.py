"""From a space to its points: every rejection named and counted, doubt kept, seeds completed or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.spaces import small_space

from tuner.errors import SpaceError
from tuner.launch.spaces import open_space
from tuner.space.config import Choice, Layout
from tuner.space.load import seeds_of
from tuner.study import points as module
from tuner.study.points import MEMORY_RULE, Machine, Point, complete_seeds, evaluate, evaluate_point

FRACTIONS = ("mem-fraction-static: 0.84", "mem-fraction-static: {values: [0.3, 0.84]}")
B200 = """\
  b200:
    accelerator: b200
    engine: {kind: sglang, version: "0.5.16"}
    image: lmsysorg/sglang:v0.5.16
    usd_per_gpu_hour: 4.20
    billing: gpu
workload:
"""
TWO_POOLS = (
    ("workload:\n", B200),
    ("MXFP4, args", "MXFP4, pools: [mi355x], args"),
    (
        "      fp8:",
        "      nvfp4: {model: nvidia/GLM-5.2-NVFP4, pools: [b200], args: {kv-cache-dtype: fp8_e4m3}}\n      fp8:",
    ),
)


def with_rule(text):
    return ("budget:", f"rules:\n  - {text}\nbudget:")


def with_seed(text):
    return ("seeds:\n", f"seeds:\n  mine: {text}\n")


def evaluated(folder, *edits):
    return evaluate(open_space(str(small_space(folder, *edits))))


def completed(folder, *edits):
    points = evaluated(folder, *edits)
    return dict(complete_seeds(points, seeds_of(points.space)))


def test_every_point_is_valid_or_counted_by_the_rule_that_rejects_it(tmp_path):
    """One rule of the file, one of the engine's start-up, one of the memory; with a reason and an example each."""
    rule = with_rule("{id: no-tp4, forbid: layout.tp == 4 and mem_fraction_static > 0.5, why: too narrow}")
    points = evaluated(tmp_path, FRACTIONS, rule, *TWO_POOLS)
    assert {"no-tp4": 16, "mem-fraction": 32} == {r: n.count for r, n in points.rejected.items()}
    assert "too narrow" == points.rejected["no-tp4"].reason
    assert "tp4-dp2" in points.rejected["no-tp4"].example
    assert points.total == points.space.size
    assert all(n.reason and n.example for n in points.rejected.values())


def test_what_does_not_fit_in_memory_is_rejected_by_name(tmp_path):
    points = evaluated(tmp_path, *TWO_POOLS)
    lost = points.rejected[MEMORY_RULE]
    assert "b200 tp4-dp2" in lost.example
    assert "fp8" in lost.example
    assert "exceed the HBM" in lost.reason
    assert points.total == len(points.valid) + lost.count


def with_margin(monkeypatch, margin_gib):
    """Let the memory model say what the test needs."""
    predict = module.predict_many
    monkeypatch.setattr(
        module, "predict_many", lambda *args: [replace(p, margin_gib=margin_gib()) for p in predict(*args)]
    )


@pytest.mark.parametrize(("margin_gib", "kept"), [(0.5, True), (-0.5, True), (-0.99, True), (-1.01, False)])
def test_a_doubtful_point_is_kept_and_a_hopeless_one_is_not(tmp_path, monkeypatch, margin_gib, kept):
    space = open_space(str(small_space(tmp_path)))
    config = next(space.grid())
    with_margin(monkeypatch, lambda: margin_gib)
    found = evaluate_point(Machine(space), config)
    assert kept is isinstance(found, Point)
    if not kept:
        assert MEMORY_RULE == found.rule


def test_a_seed_outside_the_grid_is_not_judged_by_the_memory_model(tmp_path, monkeypatch):
    """Its user vouches for it, and the engine's defaults are not the model's to guess."""
    seen = []
    with_margin(monkeypatch, lambda: -50.0 if seen else 5.0)
    points = evaluated(tmp_path, with_seed("{weights: fp8, only: [model, tp]}"))
    seen.append("d")
    outside = [seed for seed in seeds_of(points.space) if seed.only]
    assert 1 == len(complete_seeds(points, outside))


def test_valid_points_come_cheapest_first_and_in_one_order(tmp_path):
    first, again = evaluated(tmp_path), evaluated(tmp_path)
    costs = [p.candidate.predicted_usd_per_million for p in first.valid]
    assert costs == sorted(costs)
    assert [p.config for p in first.valid] == [p.config for p in again.valid]
    assert [p.candidate for p in first.valid] == list(first.candidates)


def test_nothing_valid_is_an_error_with_every_rule_and_its_count(tmp_path):
    rule = with_rule("{id: no-tp4, forbid: layout.tp == 4, why: too narrow}")
    with pytest.raises(SpaceError) as caught:
        evaluated(tmp_path, ("mem-fraction-static: 0.84", "mem-fraction-static: 0.3"), rule)
    assert "no valid point" in str(caught.value)
    assert "no-tp4 rejects 8: too narrow" in str(caught.value)
    assert "mem-fraction rejects 8" in str(caught.value)
    assert "space.yaml:18:3" in str(caught.value)


def test_unknown_hardware_and_models_are_told_together_with_their_places(tmp_path):
    with pytest.raises(SpaceError) as caught:
        evaluated(tmp_path, ("glm-5.2", "glm-9"), ("accelerator: mi355x", "accelerator: mi999"))
    said = str(caught.value).splitlines()
    assert "space.yaml:3:23: model.architecture: unknown architecture 'glm-9'" in said[0]
    assert "space.yaml:6:18: pools.mi355x.accelerator: unknown accelerator 'mi999'" in said[1]


OWN_ACCELERATOR = """accelerators:
  mi400: {like: mi355x, hbm_tb_s: 19.6, tflops: {bf16: 5000, fp8: 10000, fp4: 20000}}
pools:
"""
OWN_ARCHITECTURE = """architecture: mine}
architectures:
  mine: {config: glm-5.2, tokens_per_verify: [1.9, 2.7, 3.4]}
"""
OWN = (
    ("pools:\n", OWN_ACCELERATOR),
    ("accelerator: mi355x", "accelerator: mi400"),
    ("architecture: glm-5.2}\n", OWN_ARCHITECTURE),
)


def test_a_file_brings_its_own_hardware_and_models(tmp_path):
    usual, own = evaluated(tmp_path), evaluated(tmp_path, *OWN)
    machine = Machine(own.space)
    assert machine.architecture.acceptance == (1.9, 2.7, 3.4)
    assert machine.of("mi355x")[0].name == "mi400"
    assert len(own.valid) == len(usual.valid)
    assert own.valid[0].prediction.capacity_req_per_s > 1.2 * usual.valid[0].prediction.capacity_req_per_s


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ((OWN[0], ("like: mi355x", "like: mi35x"), *OWN[1:]), ":7:17: accelerators.mi400.like: unknown accelerator"),
        ((OWN[0], ("like: mi355x, ", ""), *OWN[1:]), ":7:10: accelerators.mi400: without `like` it needs vendor"),
        (
            (OWN[0], ("hbm_tb_s", "hbm_tbs"), *OWN[1:]),
            "accelerators.mi400.hbm_tbs: unknown key; did you mean 'hbm_tb_s'",
        ),
        ((OWN[0], ("mi400:", "b200:"), *OWN[1:]), "accelerators.b200: the catalogue has an accelerator b200 already"),
        ((*OWN, ("[1.9,", "[2.9,")), "architectures.mine: tokens_per_verify must not fall"),
        ((*OWN, ("[1.9, 2.7", "[1.9, 3.1")), "architectures.mine: tokens_per_verify: k drafts gain at most k + 1"),
        (
            (*OWN, ("config: glm-5.2", "config: glm-9")),
            ":5:18: architectures.mine.config: unknown architecture 'glm-9'",
        ),
        (
            (*OWN, ("config: glm-5.2", "config: {hidden_size: 8}")),
            "architectures.mine.config: the config of mine: lacks",
        ),
        ((*OWN, ("accelerator: mi400", "accelerator: mi401")), "did you mean 'mi400'"),
    ],
)
def test_mistakes_of_own_definitions_are_told_with_their_place(tmp_path, edits, said):
    with pytest.raises(SpaceError) as caught:
        evaluated(tmp_path, *edits)
    assert said in str(caught.value)


def test_progress_counts_up_to_the_whole_grid(tmp_path):
    told = []
    space = open_space(str(small_space(tmp_path)))
    evaluate(space, lambda done, total: told.append((done, total)))
    assert [(0, 16), (16, 16)] == told


# --- several pools in one file


def test_several_pools_are_candidates_of_one_search_at_their_own_prices(tmp_path):
    points = evaluated(tmp_path, *TWO_POOLS)
    hours = {
        p.config.pool: {q.deployment.usd_per_hour for q in points.valid if q.config.pool == p.config.pool}
        for p in points.valid
    }
    assert {"mi355x": {8 * 2.10}, "b200": {8 * 4.20}} == hours
    for p in points.valid:
        tokens_per_s = 0.95 * p.prediction.capacity_req_per_s * 200
        assert p.candidate.predicted_usd_per_million == pytest.approx(
            p.deployment.usd_per_hour / 3600 / tokens_per_s * 1e6
        )


def test_bundles_stay_on_their_pools(tmp_path):
    points = evaluated(tmp_path, *TWO_POOLS)
    weights = {(p.config.pool, p.config.get("weights").name) for p in points.valid}
    assert {("mi355x", "mxfp4"), ("mi355x", "fp8"), ("b200", "nvfp4"), ("b200", "fp8")} == weights
    assert {"mi355x": "0.5.16", "b200": "0.5.16"} == {p.config.pool: p.deployment.engine_version for p in points.valid}


@pytest.mark.parametrize(
    ("billing", "layout", "usd_per_hour"), [("node", "tp4", 16.8), ("gpu", "tp4", 8.4), ("gpu", "tp8", 16.8)]
)
def test_a_node_is_charged_whole_and_gpus_one_by_one(tmp_path, billing, layout, usd_per_hour):
    edits = (
        ("usd_per_gpu_hour: 2.10", f"usd_per_gpu_hour: 2.10\n    billing: {billing}"),
        ("dp: [1, 2], gpus: 8", "gpus: [4, 8]"),
        ("layout: {tp: 8}, ", ""),
    )
    prices = {p.config.layout.label: p.deployment.usd_per_hour for p in evaluated(tmp_path, *edits).valid}
    assert prices[layout] == pytest.approx(usd_per_hour)


# --- seeds


def test_an_open_seed_takes_the_models_best_that_fits(tmp_path):
    points = evaluated(tmp_path, with_seed("{weights: fp8}"))
    config = dict(complete_seeds(points, seeds_of(points.space)))["mine"]
    assert config == next(p.config for p in points.valid if p.config.get("weights") == Choice("fp8"))


def test_a_doubtful_completion_is_taken_only_when_no_other_is_left(tmp_path):
    points = evaluated(tmp_path, with_seed("{weights: fp8}"))
    doubt = points.valid[0]
    others = [replace(p, candidate=replace(p.candidate, margin_gib=-0.5)) if p is doubt else p for p in points.valid]
    shaken = replace(points, valid=tuple(others))
    seeds = seeds_of(points.space)
    open_seed = replace(seeds[0], values={})
    ((_, config),) = complete_seeds(shaken, [open_seed])
    assert config == points.valid[1].config
    ((_, config),) = complete_seeds(replace(points, valid=(others[0],)), [open_seed])
    assert config == doubt.config


def test_seeds_keep_the_order_of_the_file(tmp_path):
    assert ["mine", "baseline"] == list(completed(tmp_path, with_seed("{weights: mxfp4}")))


def test_an_engine_default_lies_outside_the_grid_on_the_widest_layout(tmp_path):
    config = completed(tmp_path, with_seed("{weights: fp8, only: [model, tp]}"))["mine"]
    assert (Layout(8), ("model", "tp"), "mi355x") == (config.layout, config.only, config.pool)
    assert (("weights", Choice("fp8")),) == config.values


def test_an_engine_default_runs_on_the_first_pool_that_takes_its_checkpoint(tmp_path):
    assert "b200" == completed(tmp_path, *TWO_POOLS, with_seed("{weights: nvfp4, only: [model, tp]}"))["mine"].pool
    assert (
        "b200"
        == completed(tmp_path, *TWO_POOLS, with_seed("{pool: b200, weights: fp8, only: [model, tp]}"))["mine"].pool
    )


def test_an_engine_default_is_no_wider_than_a_node_of_its_pool(tmp_path):
    edits = (*TWO_POOLS, ("billing: gpu", "gpus_per_node: 4"), ("gpus: 8}", "gpus: [4, 8]}"))
    seed = with_seed("{pool: b200, weights: nvfp4, only: [model, tp]}")
    assert Layout(4) == completed(tmp_path, *edits, seed)["mine"].layout


def test_without_tp_among_what_is_passed_the_engine_runs_on_one_gpu(tmp_path):
    assert Layout(1) == completed(tmp_path, with_seed("{weights: fp8, only: [model]}"))["mine"].layout
    with pytest.raises(SpaceError, match=r"space.yaml:27:9: seeds.mine: its layout would not be passed; add tp"):
        completed(tmp_path, with_seed("{layout: {tp: 8}, weights: fp8, only: [model]}"))


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        ("{layout: {tp: 4, dp: 2}, weights: mxfp4}", "the rule mine-not forbids it: because"),
        ("{pool: b200, layout: {tp: 4, dp: 2}, weights: fp8}", f"every completion is rejected ({MEMORY_RULE}: weights"),
        ("{weights: mxfp4, only: [model, tp]}", "rejected by mine-not: because"),
    ],
)
def test_a_rejected_seed_is_told_with_rule_reason_and_place(tmp_path, seed, words):
    rule = with_rule("{id: mine-not, forbid: \"weights == 'mxfp4'\", why: because}")
    with pytest.raises(SpaceError) as caught:
        completed(tmp_path, *TWO_POOLS, with_seed(seed), rule)
    assert words in str(caught.value)
    assert "space.yaml:34:9: seeds.mine" in str(caught.value)


def test_all_rejected_seeds_are_told_at_once(tmp_path):
    rule = with_rule("{id: r, forbid: layout.tp == 4, why: because}")
    seeds = ("seeds:\n", "seeds:\n  a: {layout: {tp: 4, dp: 2}}\n  b: {layout: {tp: 4, dp: 2}, weights: fp8}\n")
    with pytest.raises(SpaceError) as caught:
        completed(tmp_path, rule, seeds)
    assert ["seeds.a", "seeds.b"] == [line.split(": ")[1] for line in str(caught.value).splitlines()]


def test_an_architecture_is_found_beside_the_space_file(tmp_path):
    """A path in the file means what lies beside the file, wherever the command is run."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    space = open_space(str(small_space(tmp_path, ("glm-5.2", "config.json"))))
    assert str(tmp_path / "config.json") == space.architecture_said()
    with pytest.raises(SpaceError, match=r"space.yaml:3:23: model.architecture: .*config.json"):
        evaluate(space)
