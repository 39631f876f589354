"""The start-up resolution against 76 runs of sglang 0.5.23's own, and its rules one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import UsageError
from tuner.launch.argv import render
from tuner.launch.dialect import dialect
from tuner.launch.platform import platform
from tuner.launch.quantization import weights_precision
from tuner.launch.resolve import StartUpError, parse_argv, resolve, settings_of
from tuner.model.settings import EngineSettings

CASES = json.loads((Path(__file__).parent / "data" / "resolution-cases.json").read_text())["platforms"]
RUNS = [
    pytest.param(where, case, id=f"{where} {case['argv']}")
    for where, cases in zip(("mi355x", "b200"), CASES.values(), strict=True)
    for case in cases
]
GPUS = {"mi355x": platform("mi355x", 286.5), "b200": platform("b200", 179.0)}
KV_NAMES = {"bf16": "bfloat16", "fp8": "fp8_e4m3"}


def resolve_line(line, where, **options):
    return resolve(parse_argv(["--model-path", "zai-org/GLM-5.2", *line.split()]), where, **options)


@pytest.mark.parametrize(("where", "case"), [run for run in RUNS if run.values[1]["outcome"] == "error"])
def test_what_sglang_refused_is_refused(where, case):
    with pytest.raises(StartUpError) as caught:
        resolve_line(case["argv"], GPUS[where])
    assert caught.value.rule
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(("where", "case"), [run for run in RUNS if run.values[1]["outcome"] == "ok"])
def test_what_sglang_accepted_resolves_to_the_same_values(where, case):
    settings, expected = resolve_line(case["argv"], GPUS[where]), case["resolved"]
    assert settings.mem_fraction == pytest.approx(expected["mem_fraction_static"], abs=5e-4)
    assert settings.schedule_conservativeness == pytest.approx(expected["schedule_conservativeness"])
    ours = {
        "tp_size": settings.tp,
        "dp_size": settings.dp,
        "attn_dp_size": settings.attn_dp,
        "ep_size": settings.ep,
        "chunked_prefill_size": settings.chunked_prefill_tokens,
        "max_prefill_tokens": settings.max_prefill_tokens,
        "max_running_requests": settings.max_running_requests,
        "page_size": settings.page_size,
        "kv_cache_dtype": KV_NAMES[settings.kv_dtype],
        "speculative_num_steps": settings.speculation_steps or None,
        "speculative_num_draft_tokens": settings.draft_tokens or None,
        "graph_decode_max_bs": settings.decode_graph_max_batch,
    }
    assert ours == {name: expected[name] for name in ours}


@pytest.mark.parametrize(
    ("line", "where", "rule"),
    [
        ("--tp 0", "b200", "sizes-positive"),
        ("--tp 2 --ep 4", "b200", "ep-within-tp"),
        ("--tp 8 --attn-dp-size 8 --chunked-prefill-size 4160", "mi355x", "chunk-in-pages"),
        ("--tp 8 --speculative-algorithm NOPE", "b200", "speculative-algorithm"),
        ("--tp 8 --attn-dp-size 2 --speculative-algorithm STANDALONE", "b200", "speculation-attention-dp"),
        ("--tp 4 --dsa-decode-backend triton", "b200", "dsa-triton-rocm"),
        ("--tp 4 --dsa-decode-backend tilelang", "b200", "dsa-tilelang-pair"),
        ("--tp 4 --nnodes 3", "b200", "nodes-divide-tp"),
        ("--tp 8 --attn-dp-size 4 --attn-cp-size 4", "b200", "context-parallel-divides-tp"),
        ("--tp 8 --ep 4 --moe-dp-size 4", "b200", "moe-dp-fills-tp"),
        ("--tp 8 --ep 2 --moe-dp-size 2", "b200", "moe-dp-fills-tp"),
        ("--tp 8 --moe-runner-backend flashinfer_cutlass --quantization fp8", "b200", "moe-runner-quantization"),
        ("--tp 8 --ep 4 --moe-runner-backend flashinfer_cutlass", "b200", "moe-runner-ep"),
        ("--tp 8 --quantization nvfp4_online", "mi355x", "quantization-rocm"),
    ],
)
def test_each_rule_of_the_engine_has_a_name(line, where, rule):
    with pytest.raises(StartUpError) as caught:
        resolve_line(line, GPUS[where])
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("--tp 4 --dsa-decode-backend triton", "mi355x"),
        ("--tp 4 --dsa-decode-backend tilelang --dsa-prefill-backend tilelang", "b200"),
        ("--tp 4 --dsa-decode-backend tilelang --kv-cache-dtype bf16", "b200"),
        ("--tp 8 --attn-dp-size 2 --enable-two-batch-overlap", "b200"),
        ("--tp 4 --enable-priority-scheduling --schedule-policy lof --retraction-policy priority", "b200"),
        ("--tp 8 --moe-dense-tp-size 1", "b200"),
        ("--tp 8 --moe-runner-backend flashinfer_cutlass --quantization modelopt_fp4", "b200"),
        ("--tp 8 --moe-runner-backend triton", "b200"),
        ("--tp 8 --attn-dp-size 8 --moe-a2a-backend flashinfer --moe-runner-backend flashinfer_trtllm", "b200"),
    ],
)
def test_neighbours_of_the_rules_pass(line, where):
    assert resolve_line(line, GPUS[where]).tp in (4, 8)


def test_mori_reads_its_limit_from_the_environment():
    line = "--tp 4 --moe-a2a-backend mori --chunked-prefill-size 8192"
    with pytest.raises(StartUpError):
        resolve_line(line, GPUS["mi355x"])
    settings = resolve_line(line, GPUS["mi355x"], env={"SGLANG_MORI_NUM_MAX_DISPATCH_TOKENS_PER_RANK": "8192"})
    assert settings.ep == 4


def test_a_small_chunk_with_mori_leaves_only_the_floor():
    """The measured 0.965 on a faked MI355X that our own rule exists for."""
    settings = resolve_line("--tp 4 --moe-a2a-backend mori --chunked-prefill-size 4096", GPUS["mi355x"])
    assert settings.mem_fraction == pytest.approx(0.965)


@pytest.mark.parametrize(
    ("line", "env", "fraction"),
    [
        ("--attention-backend aiter --mem-fraction-static 0.8", {}, 0.68),
        ("--attention-backend aiter --mem-fraction-static 0.8 --context-length 8192", {}, 0.8),
        (
            "--attention-backend aiter --mem-fraction-static 0.8",
            {"SGLANG_AITER_HONOR_EXPLICIT_MEM_FRACTION": "1"},
            0.8,
        ),
        ("--tp 8 --disable-prefill-cuda-graph", {}, 0.908),
        ("--tp 8 --disable-decode-cuda-graph", {}, 0.906),
    ],
)
def test_memory_fraction_beyond_the_recorded_runs(line, env, fraction):
    assert resolve_line(line, GPUS["mi355x"], env=env).mem_fraction == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("line", "cap"),
    [
        ("--tp 8 --max-running-requests 64 --cuda-graph-max-bs-decode 100", 100),
        ("--tp 8 --cuda-graph-bs-decode 1 2 48", 48),
        ("--tp 8 --cuda-graph-backend-decode disabled", 0),
        ("--tp 8 --disable-cuda-graph", 0),
    ],
)
def test_a_given_decode_graph_cap_stands(line, cap):
    assert resolve_line(line, GPUS["b200"]).decode_graph_max_batch == cap


@pytest.mark.parametrize(("tp", "cap"), [(2, 256), (8, 512)])
def test_smaller_gpus_get_smaller_defaults(tp, cap):
    settings = resolve_line(f"--tp {tp}", platform("h200", 141.0))
    assert (settings.chunked_prefill_tokens, settings.decode_graph_max_batch, settings.kv_dtype) == (8192, cap, "bf16")


def test_a_model_without_dsa_keeps_its_page_size_and_dtype():
    where = platform("b200", 179.0, dsa=False)
    settings = resolve_line("--tp 8 --kv-cache-dtype fp8_e5m2 --page-size 16", where)
    assert (settings.page_size, settings.kv_dtype) == (16, "fp8")
    assert resolve_line("--tp 8", where).kv_dtype == "bf16"
    tree = "--tp 8 --speculative-algorithm EAGLE --speculative-num-steps 3 --speculative-eagle-topk 4"
    assert resolve_line(f"{tree} --speculative-num-draft-tokens 8", where).draft_tokens == 8
    assert resolve_line("--tp 8 --speculative-algorithm NGRAM", where).draft_tokens == 12


@pytest.mark.parametrize(
    ("flag", "model", "precision"),
    [
        (None, "amd/GLM-5.2-MXFP4", "mxfp4"),
        (None, "amd/GLM-5.2-Quark-MXFP4-AttnFP8", "mxfp4"),
        (None, "/models/glm-5.2-nvfp4/", "nvfp4"),
        (None, "zai-org/GLM-5.2-FP8", "fp8"),
        (None, "zai-org/GLM-5.2", "bf16"),
        ("modelopt_fp4", "/models/glm", "nvfp4"),
        ("quark_mxfp4", "zai-org/GLM-5.2-FP8", "mxfp4"),
        ("fp8", "zai-org/GLM-5.2", "fp8"),
        ("quark", "amd/GLM-5.2-MXFP4", "mxfp4"),
    ],
)
def test_precision_is_inferred_from_the_flag_and_the_name(flag, model, precision):
    assert weights_precision(flag, model) == precision


@pytest.mark.parametrize(
    ("flag", "model", "clashes"),
    [
        ("fp8", "nvidia/GLM-5.2-NVFP4", True),
        ("modelopt_fp4", "zai-org/GLM-5.2-FP8", False),
        ("quark_mxfp4", "zai-org/GLM-5.2-FP8", False),
        ("modelopt_fp8", "nvidia/GLM-FP8", False),
        ("fp8", "zai-org/GLM-5.2", False),
    ],
)
def test_a_flag_that_contradicts_the_checkpoint_is_refused(flag, model, clashes):
    where = GPUS["mi355x" if flag == "quark_mxfp4" else "b200"]
    flags = {"model-path": model, "tp-size": 8, "quantization": flag}
    if not clashes:
        assert resolve(flags, where).tp == 8
        return
    with pytest.raises(StartUpError) as caught:
        resolve(flags, where)
    assert caught.value.rule == "quantization-checkpoint"


def test_an_nvfp4_checkpoint_without_a_flag_is_refused_on_rocm():
    with pytest.raises(StartUpError, match="modelopt_fp4 quantization is currently not supported in ROCm"):
        resolve({"model-path": "nvidia/GLM-5.2-NVFP4"}, GPUS["mi355x"])


@pytest.mark.parametrize(
    ("flags", "field", "value"),
    [
        ({}, "routing", "round-robin"),
        ({"load-balance-method": "total_tokens"}, "routing", "least-requests"),
        ({"load-balance-method": "round_robin"}, "routing", "round-robin"),
        ({}, "overlap", True),
        ({"disable-overlap-schedule": True}, "overlap", False),
    ],
)
def test_scheduling_flags_reach_the_settings(flags, field, value):
    found = resolve({"model-path": "zai-org/GLM-5.2-FP8", **flags}, GPUS["b200"])
    assert getattr(found, field) == value


def test_a_stated_precision_wins_over_names():
    assert resolve({"model-path": "/models/v7"}, GPUS["b200"], precision="nvfp4").precision == "nvfp4"


def test_an_unknown_accelerator_is_a_usage_error():
    with pytest.raises(UsageError, match="known are b200"):
        platform("tpu", 32)


VERSIONS = ("0.5.10.post1", "0.5.12.post1", "0.5.13.post1", "0.5.14", "0.5.16", "0.5.18", "0.5.20", "0.5.22", "0.5.23")


@st.composite
def deployments(draw, make):
    """Deployments a space file may span, valid or not for their engine."""
    maybe = lambda values: st.one_of(st.none(), values)  # noqa: E731 - local shorthand
    attn_dp = draw(st.sampled_from((1, 2, 4, 8)))
    flags = {
        "kv_cache_dtype": draw(maybe(st.sampled_from(("auto", "bf16", "fp8_e4m3", "fp8_e5m2")))),
        "mem_fraction_static": draw(maybe(st.floats(0.5, 0.95))),
        "chunked_prefill_size": draw(maybe(st.sampled_from((-1, 1000, 4160, 8192, 32768)))),
        "max_running_requests": draw(maybe(st.integers(1, 512))),
        "cuda_graph_max_bs": draw(maybe(st.integers(1, 512))),
        "disable_decode_cuda_graph": draw(st.booleans()) or None if attn_dp < 4 else None,
        "attention_backend": draw(maybe(st.sampled_from(("dsa", "aiter", "triton")))),
        "dsa_prefill_backend": draw(maybe(st.just("tilelang"))),
        "schedule_conservativeness": draw(maybe(st.floats(0.0, 2.0))),
        "context_length": draw(maybe(st.sampled_from((8192, 131072)))),
        "stream_interval": draw(maybe(st.integers(1, 50))),
        "disable_radix_cache": draw(maybe(st.booleans())),
        "enable_mixed_chunk": draw(maybe(st.booleans())),
        "page_size": draw(maybe(st.sampled_from((1, 64)))),
        "moe_a2a_backend": draw(maybe(st.sampled_from(("deepep", "mori")))),
    }
    if draw(st.booleans()):
        steps = draw(st.integers(1, 8))
        flags |= {"speculative_algorithm": "EAGLE", "speculative_num_steps": steps}
    version = draw(st.sampled_from(VERSIONS))
    if version < "0.5.14":
        flags["disable_decode_cuda_graph"] = None
    dp = draw(st.sampled_from((1, 2))) if attn_dp == 1 else 1
    only = draw(st.sampled_from(((), (), ("model", "tp"))))
    return make(version=version, tp=8, dp=dp, attn_dp=attn_dp, ep=draw(st.sampled_from((1, 8))), only=only, **flags)


def outcome(call) -> EngineSettings | str:
    try:
        return call()
    except StartUpError as error:
        return error.rule


@given(data=st.data(), where=st.sampled_from(sorted(GPUS)))
def test_every_rendered_line_parses_back_to_the_same_settings(a_deployment, data, where):
    """In every dialect: what the enumeration judged is what the engine will read."""
    deployment = data.draw(deployments(a_deployment))
    flags = parse_argv(render(deployment).args, dialect(deployment.engine_version))
    again = outcome(lambda: resolve(flags, GPUS[where], env=deployment.env, precision="fp8"))
    assert again == outcome(lambda: settings_of(deployment, GPUS[where]))
