"""What a loaded space spans: points, their identity, what they deploy, what rules say of them."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.errors import SpaceError
from tuner.space.config import Choice, Layout, ServingConfig
from tuner.space.find import find_space, shipped_spaces
from tuner.space.load import seeds_of

SHIPPED = ("amd-mi355x.yaml", "nvidia-b200.yaml")
FORBID = "pool == 'nv' and speculation.steps > 2"


def point(space, **wanted):
    """The first point of the grid with these values; choices by label."""
    for config in space.grid():
        have = {"pool": config.pool, "layout": config.layout.label}
        have |= {k.replace("-", "_"): v.label if isinstance(v, Choice) else v for k, v in config.values}
        if have | wanted == have:
            return config
    raise AssertionError(f"no point with {wanted}")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_space_spans_thousands_of_distinct_points(shipped, name):
    """Canonical JSON and fingerprint are unique over the grid, stable, and survive a round trip."""
    space = shipped(name)
    grid = list(space.grid())
    assert len(grid) == space.size > 4000
    assert len({c.canonical for c in grid}) == len({c.fingerprint for c in grid}) == len(set(grid)) == len(grid)
    choices = frozenset(d.name for d in space.dimensions if d.bundles)
    for config in grid[:: len(grid) // 500]:
        doc = json.loads(config.canonical)
        assert ServingConfig.from_json(doc, choices) == config
        assert json.dumps(doc, sort_keys=True, separators=(",", ":")) == config.canonical


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_space_keeps_points_and_explains_every_rejection(shipped, name):
    space = shipped(name)
    rejected = [r for c in list(space.grid())[::7] if (r := space.rejection(c))]
    assert 0 < len(rejected) < space.size // 7
    assert {r.rule for r in rejected} <= {r.id for r in space.rules}
    assert all(r.reason for r in rejected)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_seeds_are_what_they_say(shipped, name):
    seeds = {s.name: s for s in seeds_of(shipped(name))}
    assert list(seeds) == ["engine-default", "baseline", "known"]
    assert seeds["engine-default"].only == ("model", "tp")
    assert seeds["known"].values["speculation"] == Choice("mtp", (("steps", 3),))


@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (ServingConfig("p", Layout(8), ()), "ed07ca95e1a7"),
        (ServingConfig("p", Layout(4, 2), (("a", Choice("x", (("n", 1),))), ("b", 0.8))), "35d3f16512af"),
    ],
)
def test_a_fingerprint_never_changes_between_releases(config, fingerprint):
    """Names of objects, duplicates and resume depend on it."""
    assert config.fingerprint == fingerprint


def test_grid_skips_bundles_meant_for_other_pools(desk):
    space = desk.load(desk.base)
    grid = list(space.grid())
    assert len(grid) == space.size == len(set(grid))
    assert {c.pool for c in grid if c.get("weights") == Choice("mxfp4")} == {"amd"}
    assert {c.pool for c in grid if c.get("weights") == Choice("fp8")} == {"amd", "nv"}


def test_grid_skips_layouts_wider_than_a_node(desk):
    space = desk.space(
        {"billing: gpu": "gpus_per_node: 4", "attn_dp: [1, 8], gpus: 8": "gpus: [4, 8]", "layout: {tp: 8}, w": "w"}
    )
    assert {c.layout.gpus for c in space.grid() if c.pool == "nv"} == {4}
    assert {c.layout.gpus for c in space.grid() if c.pool == "amd"} == {4, 8}


def test_names_of_an_inactive_parameter_are_none_and_of_an_active_one_its_value(desk):
    space = desk.load(desk.base)
    off = space.names(point(space, speculation="off"))
    deep = space.names(point(space, speculation="mtp(steps=3)"))
    assert (off["speculation"], off["speculation.steps"]) == ("off", None)
    assert (deep["speculation"], deep["speculation.steps"]) == ("mtp", 3)
    assert deep["pool"] == "amd"
    assert deep["accelerator"] == "mi355x"
    assert deep["layout.gpus"] == 8
    assert deep["max_running_requests"] == 64
    assert deep["workload.input_tokens_max"] == 2000


def test_a_rule_rejects_what_it_says_and_nothing_else(desk):
    space = desk.load(desk.base)
    for config in space.grid():
        found = space.rejection(config)
        assert (found is not None) == (
            config.pool == "nv" and config.get("speculation") == Choice("mtp", (("steps", 3),))
        )
        assert found is None or (found.rule, found.reason) == ("shallow", "too deep there")


@pytest.mark.parametrize(
    ("versions", "warned"),
    [
        ("<0.5.22", {"amd"}), (">=0.5.16,<0.5.17", {"amd"}), (">0.5.16", {"nv"}), ("!=0.5.16", {"nv"}), ("==0.5.*", {"amd", "nv"}),
        ("<0.5.13.post1", set()), (">=0.5.15.post1", {"amd", "nv"}), ("~=0.5.20", {"nv"}),
    ],
)  # fmt: skip
def test_a_known_issue_warns_for_its_engine_versions_alone(desk, versions, warned):
    rule = f"warn: weights == 'fp8'\n    engine: \"{versions}\"\n    source: sglang#1"
    space = desk.space({f"forbid: {FORBID}": rule})
    found = {c.pool: space.warnings(c) for c in space.grid() if c.get("weights") == Choice("fp8")}
    assert {pool for pool, warnings in found.items() if warnings} == warned
    assert all(w.reason == "too deep there (sglang#1)" for warnings in found.values() for w in warnings)
    assert all(space.rejection(c) is None for c in space.grid())


def test_a_bundle_with_its_own_image_brings_its_own_version(desk):
    space = desk.space({"org/M-FP8}": "org/M-FP8, image: own/image:2, engine_version: 0.5.20, env: {A: b}}"})
    own = space.deployment(point(space, pool="amd", weights="fp8"))
    other = space.deployment(point(space, pool="amd", weights="mxfp4"))
    assert (own.image, own.engine_version) == ("own/image:2", "0.5.20")
    assert (other.image, other.engine_version) == ("repo/amd:1", "0.5.16")
    assert own.env == {"SGLANG_USE_AITER": "1", "A": "b"}
    assert other.env == {"SGLANG_USE_AITER": "1"}


def test_a_deployment_merges_pool_bundles_numbers_and_derived_values(desk):
    space = desk.load(desk.base)
    found = space.deployment(point(space, pool="amd", layout="tp8-adp8", weights="mxfp4", speculation="mtp(steps=2)"))
    assert found.flags == {
        "trust-remote-code": True,
        "speculative-num-steps": 2,
        "max-running-requests": 64,
        "mem-fraction-static": 0.8,
        "cuda-graph-max-bs": 8,
    }
    assert type(found.flags["cuda-graph-max-bs"]) is int
    assert (found.model, found.precision, found.accelerator) == ("org/M-MXFP4", "mxfp4", "mi355x")
    assert found.usd_per_hour == 20.0


def test_what_one_deployment_holds_is_not_shared_with_the_next(desk):
    space = desk.load(desk.base)
    config = point(space, pool="amd")
    space.deployment(config).env["X"] = "1"
    space.deployment(config).flags["x"] = 1
    assert "X" not in space.deployment(config).env
    assert "x" not in space.deployment(config).flags


def test_the_name_of_another_choice_never_decides_the_precision(desk):
    space = desk.space(
        {
            "org/M-FP8}": "org/M, precision: bf16}",
            '"off": {}': "nvfp4-kv: {}",
            'speculation: "off"': "speculation: nvfp4-kv",
        }
    )
    assert space.deployment(point(space, weights="fp8", speculation="nvfp4-kv")).precision == "bf16"


def test_an_expression_that_fails_beyond_what_loading_tries_is_still_told_with_its_place(desk, monkeypatch):
    monkeypatch.setattr("tuner.space.evaluation.MOST", 0)
    monkeypatch.setattr("tuner.space.load.MAX_POINTS", 0)
    text = desk.edited({FORBID: "max_running_requests > 100 and weights < 3"})
    with pytest.raises(SpaceError) as caught:
        desk.load(text)
    assert "more than 0" in str(caught.value)
    monkeypatch.setattr("tuner.space.load.MAX_POINTS", 10**6)
    space = desk.load(text)
    with pytest.raises(SpaceError, match=r"f.yaml:39:13: rules.0.forbid: `max_running_requests > 100"):
        space.rejection(point(space, max_running_requests=128))


def test_a_derived_value_that_fails_late_is_told_with_its_place(desk, monkeypatch):
    monkeypatch.setattr("tuner.space.evaluation.MOST", 0)
    space = desk.space({"${max_running_requests / layout.attn_dp}": "${1 / (layout.attn_dp - 1)}"})
    with pytest.raises(SpaceError, match=r"f.yaml:36:22: space.cuda-graph-max-bs: .* division by zero"):
        space.deployment(point(space, layout="tp8"))


def test_a_seed_matches_what_it_fixes_and_leaves_the_rest_open(desk):
    space = desk.space(
        {
            'layout: {tp: 8}, weights: fp8, speculation: "off", max-running-requests: 64, mem-fraction-static: 0.8': "pool: nv, speculation: {mtp: {steps: 2}}"
        }
    )
    (seed,) = seeds_of(space)
    matching = [c for c in space.grid() if seed.matches(c)]
    assert {c.pool for c in matching} == {"nv"}
    assert {c.get("speculation") for c in matching} == {Choice("mtp", (("steps", 2),))}
    assert len({c.layout for c in matching}) == 3
    assert list(space.combinations(space.dimensions, seed)) == matching


def test_a_seed_takes_the_value_of_its_dimension_not_its_own_spelling(desk):
    """128.0 and 128 are one point: fingerprints must not differ."""
    space = desk.space({"requests: 64,": "requests: 64.0,", 'speculation: "off"': "speculation: {mtp: {steps: 2.0}}"})
    (seed,) = seeds_of(space)
    assert type(seed.values["max-running-requests"]) is int
    assert type(dict(seed.values["speculation"].params)["steps"]) is int


def test_a_space_is_found_by_path_then_by_the_name_it_ships_under(tmp_path):
    assert set(SHIPPED) <= set(shipped_spaces())
    assert find_space("nvidia-b200") == find_space("nvidia-b200.yaml") == shipped_spaces()["nvidia-b200.yaml"]
    mine = tmp_path / "nvidia-b200.yaml"
    mine.write_text("version: 1")
    assert find_space(str(mine)) == mine
    with pytest.raises(SpaceError, match=r"nvidia-b20: no such file.*did you mean 'nvidia-b200.yaml'\?"):
        find_space("nvidia-b20")


WORD = st.text(string.ascii_lowercase, min_size=1, max_size=5)
NUMBER = st.one_of(st.integers(-(10**6), 10**6), WORD, st.floats(-1e6, 1e6))
NUMBERS = st.lists(NUMBER, min_size=1, max_size=3, unique_by=lambda v: str(v).removesuffix(".0").removeprefix("-"))
PARAMS = st.dictionaries(WORD, st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), max_size=2)
SMALL = """\
version: 1
name: small
model: {architecture: glm-5.2}
pools: {p: {accelerator: b200, engine: {version: "0.5.23"}, image: i, usd_per_gpu_hour: 1}}
workload: {input_tokens: 9, output_tokens: 9}
objective: {subject_to: {ttft_p95_s: 2}}
space:
  layout: {tp: [4, 8], dp: [1, 2]}
  weights: {choice: {fp8: {model: m}}}
"""


@settings(max_examples=60)
@given(
    st.dictionaries(WORD.map("n-{}".format), NUMBERS, max_size=3),
    st.dictionaries(WORD, PARAMS, min_size=1, max_size=3),
)
def test_any_space_spans_distinct_points_that_survive_json(desk, numbers, bundles):
    lines = [f"  {name}: {{values: {json.dumps(values)}}}" for name, values in numbers.items()]
    lines += ["  c-c:", "    choice:"]
    for name, params in bundles.items():
        spec = {p: {"values": v} for p, v in params.items()}
        lines.append(f"      x{name}: {{params: {json.dumps(spec)}}}")
    space = desk.load(SMALL + "\n".join(lines))
    grid = list(space.grid())
    choices = frozenset(d.name for d in space.dimensions if d.bundles)
    assert len({c.fingerprint for c in grid}) == len(grid) == space.size
    for config in grid[:40]:
        assert ServingConfig.from_json(json.loads(config.canonical), choices) == config
        assert config.describe()
        assert space.deployment(config).usd_per_hour == 8
