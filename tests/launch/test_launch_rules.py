"""Our own rules: which of sglang's accepted lines we still do not deploy, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.launch.argv import measured_flags
from tuner.launch.platform import platform
from tuner.launch.resolve import parse_argv, settings_of
from tuner.launch.rules import RULES, check, start_up_check
from tuner.model.settings import EngineSettings
from tuner.space.deployment import Rejection

CASES = json.loads((Path(__file__).parent / "data" / "resolution-cases.json").read_text())["platforms"]
GPUS = {"mi355x": platform("mi355x", 286.5), "b200": platform("b200", 179.0)}
ACCEPTED = [
    pytest.param(where, case["argv"], id=f"{where} {case['argv']}")
    for where, cases in zip(GPUS, CASES.values(), strict=True)
    for case in cases
    if case["outcome"] == "ok"
]
LAYOUT = ("model-path", "tp-size", "dp-size", "attn-dp-size", "ep-size", "enable-dp-attention")
MTP = "--tp 4 --speculative-algorithm EAGLE --speculative-num-steps 3 --speculative-eagle-topk 1"

# Lines that sglang 0.5.23 accepted and a rule of ours keeps from being deployed.
REJECTED_BY_US = {
    ("mi355x", f"{MTP} --speculative-num-draft-tokens 8"): "draft-tokens",
    ("b200", f"{MTP} --speculative-num-draft-tokens 8"): "draft-tokens",
    ("mi355x", f"{MTP} --speculative-num-draft-tokens 4 --enable-mixed-chunk"): "idle-switch",
    ("b200", f"{MTP} --speculative-num-draft-tokens 4 --enable-mixed-chunk"): "idle-switch",
    ("mi355x", "--tp 8 --ep 3"): "expert-count",
    ("b200", "--tp 8 --ep 3"): "expert-count",
    ("mi355x", "--tp 3"): "tensor-width",
    ("b200", "--tp 3"): "tensor-width",
    ("mi355x", "--tp 4 --mem-fraction-static 1.2"): "mem-fraction",
    ("b200", "--tp 4 --mem-fraction-static 1.2"): "mem-fraction",
    ("mi355x", "--tp 4 --page-size 1"): "page-size",
    ("b200", "--tp 4 --page-size 1"): "page-size",
    ("mi355x", "--tp 4 --page-size 128"): "page-size",
    ("b200", "--tp 4 --page-size 128"): "page-size",
    ("mi355x", "--tp 8 --enable-dp-lm-head"): "idle-switch",
    ("b200", "--tp 8 --enable-dp-lm-head"): "idle-switch",
    ("mi355x", "--tp 8 --attn-dp-size 8 --max-running-requests 4"): "running-per-rank",
    ("b200", "--tp 8 --attn-dp-size 8 --max-running-requests 4"): "running-per-rank",
    ("b200", "--tp 4 --quantization quark_mxfp4"): "hardware-precision",
    ("b200", "--tp 4 --attention-backend aiter"): "aiter-rocm",
}


def deployment_of(make, line):
    """A recorded command line as a seed that names exactly its flags."""
    given = parse_argv(["--model-path", "zai-org/GLM-5.2", *line.split()])
    attn_dp, dp = given.get("attn-dp-size", 1), given.get("dp-size", 1)
    if given.get("enable-dp-attention"):
        attn_dp, dp = dp, 1
    flags = {name.replace("-", "_"): value for name, value in given.items() if name not in LAYOUT}
    quantized = {"fp8": "fp8", "quark_mxfp4": "mxfp4", "modelopt_fp4": "nvfp4"}.get(given.get("quantization"), "bf16")
    return make(
        tp=given["tp-size"],
        dp=dp,
        attn_dp=attn_dp,
        ep=given.get("ep-size", 1),
        model="zai-org/GLM-5.2",
        precision=quantized,
        only=("model", "tp", "dp", "attn_dp", "ep", *given),
        bare=True,
        **flags,
    )


@pytest.mark.parametrize(("where", "line"), ACCEPTED)
def test_what_sglang_accepted_is_deployed_unless_a_named_rule_of_ours_says_no(a_deployment, where, line):
    answer = start_up_check(deployment_of(a_deployment, line), GPUS[where])
    expected = REJECTED_BY_US.get((where, line))
    assert (answer.rule if isinstance(answer, Rejection) else None) == expected


def test_every_listed_line_is_among_the_recorded_ones():
    assert set(REJECTED_BY_US) <= {tuple(run.values) for run in ACCEPTED}


@pytest.mark.parametrize(
    ("where", "change", "rule"),
    [
        ("mi355x", {}, None),
        ("mi355x", {"tp": 16}, "tensor-width"),
        ("mi355x", {"ep": 2}, "expert-width"),
        ("mi355x", {"ep": 8}, None),
        ("mi355x", {"mem_fraction_static": 0.49}, "mem-fraction"),
        ("mi355x", {"mem_fraction_static": 0.96}, "mem-fraction"),
        ("mi355x", {"mem_fraction_static": 0.95}, None),
        ("mi355x", {"attn_dp": 8, "max_running_requests": 7}, "running-per-rank"),
        ("mi355x", {"attn_dp": 8, "max_running_requests": 8}, None),
        ("mi355x", {"attn_dp": 8, "chunked_prefill_size": 4160}, "sglang-chunk-in-pages"),
        ("mi355x", {"attn_dp": 8, "chunked_prefill_size": 4100}, "chunk-multiple"),
        ("mi355x", {"attn_dp": 8, "chunked_prefill_size": 4096}, None),
        ("mi355x", {"chunked_prefill_size": -1}, None),
        ("mi355x", {"model": "amd/GLM-5.2-MXFP4", "precision": "mxfp4"}, None),
        ("mi300x", {"model": "amd/GLM-5.2-MXFP4", "precision": "mxfp4"}, "hardware-precision"),
        ("mi325x", {"model": "amd/GLM-5.2-MXFP4", "precision": "mxfp4"}, "hardware-precision"),
        ("h200", {"model": "nvidia/GLM-5.2-NVFP4", "precision": "nvfp4"}, "hardware-precision"),
        ("b200", {"model": "amd/GLM-5.2-MXFP4", "precision": "mxfp4"}, "hardware-precision"),
        ("b300", {"model": "nvidia/GLM-5.2-NVFP4", "precision": "nvfp4"}, None),
        ("mi355x", {"model": "nvidia/GLM-5.2-NVFP4", "precision": "nvfp4"}, "sglang-quantization-rocm"),
        ("b200", {"moe_runner_backend": "aiter"}, "aiter-rocm"),
        ("mi355x", {"moe_runner_backend": "aiter"}, None),
        ("mi355x", {"speculative_algorithm": "DFLASH"}, "speculation-modelled"),
        ("mi355x", {"speculative_algorithm": "EAGLE"}, "speculation-triple"),
        ("mi355x", {"speculative_num_steps": 3}, "speculation-triple"),
        ("mi355x", {"speculative_algorithm": "EAGLE", "speculative_num_steps": 0}, "speculation-triple"),
        ("mi355x", {"speculative_algorithm": "EAGLE", "speculative_num_steps": 3}, None),
        (
            "mi355x",
            {"speculative_algorithm": "EAGLE", "speculative_num_steps": 3, "speculative_num_draft_tokens": 6},
            "draft-tokens",
        ),
        ("mi355x", {"mem_fraction_static": None}, "explicit"),
        ("mi355x", {"kv_cache_dtype": "auto"}, "explicit"),
        ("mi355x", {"mem_fraction_static": None, "only": ("model", "tp")}, None),
        ("mi355x", {"attn_dp": 2, "enable_dp_lm_head": True}, None),
        ("mi355x", {"dp": 2, "attn_dp": 2}, "sglang-dp-with-attention-dp"),
    ],
)
def test_one_rule_decides(a_deployment, where, change, rule):
    hbm_gib = {"mi355x": 286.5, "b200": 179.0, "b300": 268.0, "h200": 141.0, "mi300x": 192.0, "mi325x": 256.0}[where]
    answer = start_up_check(a_deployment(**change), platform(where, hbm_gib))
    assert (answer.rule if isinstance(answer, Rejection) else None) == rule


@pytest.mark.parametrize(("heads", "experts", "rule"), [(12, 256, "attention-heads"), (64, 100, "expert-count")])
def test_heads_and_experts_divide_evenly(a_deployment, heads, experts, rule):
    where = platform("b200", 179.0, attention_heads=heads, routed_experts=experts)
    answer = start_up_check(a_deployment(ep=8), where)
    assert isinstance(answer, Rejection)
    assert answer.rule == rule


def test_a_dense_model_has_no_experts_to_divide(a_deployment):
    assert isinstance(start_up_check(a_deployment(), platform("b200", 179.0, routed_experts=0)), EngineSettings)


def test_four_bit_kv_caches_are_not_modelled(a_deployment):
    where = platform("b200", 179.0, dsa=False)
    answer = start_up_check(a_deployment(kv_cache_dtype="nvfp4"), where)
    assert isinstance(answer, Rejection)
    assert answer.rule == "kv-modelled"


def test_a_rejection_names_what_is_wrong_why_and_who_says_so(a_deployment, mi355x):
    answer = check(a_deployment(mem_fraction_static=1.2), settings_of(a_deployment(), mi355x), mi355x)
    assert answer is None  # judged by the settings given
    deployment = a_deployment(mem_fraction_static=1.2)
    answer = check(deployment, settings_of(deployment, mi355x), mi355x)
    assert answer is not None
    assert answer.reason == (
        "mem-fraction-static 1.2 (given) is outside 0.5 to 0.95: sglang does not check the range; too high leaves no "
        "room for drafts and transients (argument resolution run: 1.2 passes, chunk 4096 resolves to 0.965)"
    )


def test_an_accepted_point_answers_with_its_settings(a_deployment, b200):
    deployment = a_deployment(attn_dp=8, ep=8)
    answer = start_up_check(deployment, b200)
    assert answer == settings_of(deployment, b200)
    assert measured_flags(deployment)["attn-dp-size"] == 8


def test_rule_ids_are_unique_and_every_rule_says_why():
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.why and rule.source for rule in RULES)
