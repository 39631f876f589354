"""Loads held on the simulated engine: books that balance, and agreement with the closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.model.capacity import predict, step_table
from tuner.model.catalogue import accelerator, architecture
from tuner.model.load import LoadCurves
from tuner.model.memory import plan_memory
from tuner.model.standard import standard_settings
from tuner.runtime.steady import Laboratory, Load
from tuner.space.workload import Length, Limits, Workload

ARCH, ACC = architecture("glm-5.2"), accelerator("mi355x")
CHAT = Workload(Length.fixed(2000), Length.fixed(100), cached_fraction=0.5, prefix_groups=8)


def laboratory(workload=CHAT, **changes) -> Laboratory:
    chosen = {"precision": "mxfp4", "tp": 4, "dp": 2, "speculation_steps": 3} | changes
    return Laboratory(ARCH, ACC, standard_settings(ARCH, ACC, **chosen), workload)


def closed_form(lab: Laboratory) -> LoadCurves:
    plan = plan_memory(ARCH, ACC, lab.settings, lab.workload.max_context_tokens)
    return LoadCurves(step_table(ARCH, ACC, [lab.settings]), [lab.settings], lab.workload, [plan.kv_capacity_tokens])


@pytest.mark.parametrize("concurrency", [1, 4, 32, 96])
def test_a_closed_loop_serves_what_the_closed_form_says(concurrency):
    lab = laboratory(dp=1)
    seen, said = lab.hold(Load(concurrency=concurrency)), closed_form(lab).closed(concurrency)
    assert seen.rate_req_per_s == pytest.approx(float(said.rate[0]), rel=0.10)
    assert seen.tpot_s == pytest.approx(float(said.tpot_s[0]), rel=0.12)
    assert seen.output_tokens_per_s == pytest.approx(100 * seen.rate_req_per_s)
    assert not seen.overloaded


def test_an_open_loop_serves_what_it_is_asked_and_its_latency_is_the_closed_forms():
    lab = laboratory()
    seen, said = lab.hold(Load(rate_req_per_s=6.0), runs=4), closed_form(lab).at_rate(6.0)
    assert seen.rate_req_per_s == pytest.approx(6.0, rel=0.06)
    assert seen.ttft_p50_s == pytest.approx(float(said.ttft_p50_s[0]), rel=0.15)
    assert seen.cached_fraction == pytest.approx(0.5, abs=0.03)
    assert (seen.seeds, seen.requests) == (4, 1600)


@pytest.mark.parametrize("chunk", [512, 8192])
def test_mixed_chunks_are_worth_what_the_closed_form_says(chunk):
    """A long prompt stalls decode; mixed in, every one of its chunks brings each running request a token."""
    traffic = Workload(Length.fixed(4000), Length.fixed(100))
    plain = laboratory(traffic, dp=1, speculation_steps=0, concurrency=32)
    plain = replace(plain, settings=replace(plain.settings, chunked_prefill_tokens=chunk))
    mixed = replace(plain, settings=replace(plain.settings, mixed_chunk=True))
    seen = [lab.hold(Load(concurrency=32)).rate_req_per_s for lab in (plain, mixed)]
    said = [float(closed_form(lab).closed(32).rate[0]) for lab in (plain, mixed)]
    assert seen[1] > seen[0]
    assert said == pytest.approx(seen, rel=0.12)


def test_what_cannot_be_served_is_called_overloaded():
    lab = laboratory()
    most = float(closed_form(lab).at(closed_form(lab).batch_cap).rate[0])
    assert lab.hold(Load(rate_req_per_s=2 * most)).overloaded
    assert not lab.hold(Load(rate_req_per_s=0.7 * most), runs=2).overloaded


def test_the_capacity_of_the_reference_traffic_is_the_closed_forms():
    """Wafer: TTFT p95 passes 2.2 s at 2.4 req/s and 5 s somewhere above."""
    traffic = Workload(Length.fixed(20_000), Length.fixed(1000), cached_fraction=0.6)
    lab, limits = laboratory(traffic, max_context_tokens=21_000), Limits(ttft_p95_s=5.0)
    found = lab.capacity(limits)
    assert found == lab.capacity(limits)
    assert 2.3 <= found <= 2.9
    assert found == pytest.approx(predict(ARCH, ACC, lab.settings, traffic, limits).capacity_req_per_s, rel=0.1)


@settings(max_examples=6)
@given(st.floats(1.0, 8.0), st.floats(1.2, 1.6))
def test_a_higher_rate_never_lowers_p95_in_expectation(rate, factor):
    """The same gaps, scaled: two percent are left to the noise of the steps."""
    lab = laboratory()
    calm, busy = (lab.hold(Load(rate_req_per_s=r), runs=3).ttft_p95_s for r in (rate, rate * factor))
    assert busy >= 0.98 * calm


@settings(max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([Load(concurrency=7), Load(rate_req_per_s=3.0)]))
def test_the_same_seed_gives_the_same_result(seed, load):
    assert laboratory().hold(load, seed, runs=1) == laboratory().hold(load, seed, runs=1)
