"""What must hold whatever the constants: memory, load, and the speed of light."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.curves import LoadCurve

from tuner.model.capacity import predict
from tuner.model.catalogue import accelerator, architecture
from tuner.model.memory import plan_memory
from tuner.model.settings import EngineSettings
from tuner.model.steps import RooflineSteps
from tuner.space.workload import Length, Limits, Workload

GLM = architecture("glm-5.2")
TRAFFIC = Workload(Length.fixed(20_000), Length.fixed(1000), cached_fraction=0.6)
CONTEXT = TRAFFIC.max_context_tokens

configurations = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([2, 4, 8]),
        "dp": st.sampled_from([1, 2]),
        "precision": st.sampled_from(["fp8", "mxfp4", "nvfp4", "bf16"]),
        "kv_dtype": st.sampled_from(["fp8", "bf16"]),
        "max_running_requests": st.sampled_from([8, 64, 256]),
        "mem_fraction": st.sampled_from([0.7, 0.8, 0.9]),
        "chunked_prefill_tokens": st.sampled_from([2048, 8192, 32_768]),
        "speculation_steps": st.sampled_from([0, 3]),
    }
)


@given(configurations, st.sampled_from(["mi355x", "b200", "h200"]), st.floats(1.0, 3.0))
def test_more_hbm_never_fits_less(configuration, name, factor):
    settings, acc = EngineSettings(**configuration), accelerator(name)
    more = replace(acc, hbm_bytes=round(acc.hbm_bytes * factor))
    small, large = (plan_memory(GLM, a, settings, CONTEXT) for a in (acc, more))
    assert large.fits or not small.fits
    assert large.margin_gib >= small.margin_gib - 1e-6
    assert large.kv_capacity_tokens >= small.kv_capacity_tokens
    limits = Limits(ttft_p95_s=5.0)
    rates = [predict(GLM, a, settings, TRAFFIC, limits).capacity_req_per_s for a in (acc, more)]
    assert rates[1] >= rates[0] * 0.99  # within the resolution of the search over the batch


@given(configurations, st.floats(0.05, 3.0), st.floats(1.01, 3.0))
def test_a_higher_rate_never_lowers_a_latency(configuration, rate, factor):
    settings = EngineSettings(**(configuration | {"precision": "mxfp4"}))
    curve = LoadCurve(RooflineSteps(GLM, accelerator("mi355x"), settings), settings, TRAFFIC, kv_tokens=2_000_000)
    calm, busy = curve.at_rate(rate), curve.at_rate(rate * factor)
    for name in ("rate", "ttft_p50_s", "ttft_p95_s", "tpot_s", "tpot_p95_s", "e2e_p95_s"):
        assert getattr(busy, name) >= getattr(calm, name) * 0.995  # the median step may fill a little better


@pytest.mark.parametrize("name", ["mi355x", "b200", "h200"])
@given(batch=st.integers(1, 512), context=st.floats(100, 100_000))
def test_no_step_is_faster_than_reading_and_multiplying_allow(name, batch, context):
    """Data sheet peaks and the parameters a token really needs."""
    acc, settings = accelerator(name), EngineSettings(tp=8, precision="fp8", kv_dtype="fp8")
    steps = RooflineSteps(GLM, acc, settings)
    flops = 2 * GLM.active_params / (8 * acc.flops("fp8"))
    read = GLM.active_rest_params / (8 * acc.hbm_bytes_per_s)
    assert steps.decode_s(batch, context) > max(batch * flops, read)
    assert steps.prefill_s(batch, context) > max(batch * flops, read)
