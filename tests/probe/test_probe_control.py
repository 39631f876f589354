from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.loopback_engine import LoopbackEngine

from tuner.probe.control import (
    EngineControl,
    EngineUnreachable,
    effective_settings,
    parse_metrics,
    schedulers,
    total_max_running,
)

DATA = Path(__file__).parent / "data"
INFO = json.loads((DATA / "server_info.json").read_text())


def with_engine(use, **kwargs):
    async def main():
        async with LoopbackEngine(**kwargs) as engine, EngineControl(engine.url) as control:
            return await use(control, engine)

    return asyncio.run(main())


def test_what_a_healthy_engine_answers():
    async def use(control, engine):
        assert await control.healthy()
        assert await control.model_name() == "tiny"
        assert (await control.server_info())["version"] == "0.5.23"
        assert await control.count_tokens(["one two", "three", ""]) == [2, 1, 0]
        assert await control.flush_cache()
        assert (await control.metrics())["sglang:num_retracted_reqs"] == 2.0
        assert not await control.generates()

    with_engine(use)


def test_a_dead_engine_is_unreachable_and_says_which_call():
    async def use(control, engine):
        engine.die()
        assert not await control.healthy()
        for call, name in (
            (control.server_info, "/server_info"),
            (control.model_name, "/v1/models"),
            (control.metrics, "/metrics"),
            (control.flush_cache, "/flush_cache"),
            (lambda: control.count_tokens(["x"]), "/v1/tokenize"),
        ):
            with pytest.raises(EngineUnreachable, match=name):
                await call()

    with_engine(use)


def test_an_answer_of_another_shape_is_unreachable():
    async def use(control, engine):
        engine.answers["/v1/models"] = {"data": []}
        engine.answers["/v1/tokenize"] = {"count": [1]}
        engine.answers["/server_info"] = None
        engine.answers["/get_server_info"] = {"version": "old"}
        with pytest.raises(EngineUnreachable, match="not the expected answer"):
            await control.model_name()
        with pytest.raises(EngineUnreachable, match="1 counts for 2 texts"):
            await control.count_tokens(["x", "y"])
        assert await control.server_info() == {"version": "old"}

    with_engine(use)


@pytest.mark.parametrize(("answer", "healthy"), [({}, True), (None, True), ("gone", False)])
def test_whoever_answers_is_healthy_with_or_without_such_a_path(answer, healthy):
    async def use(control, engine):
        engine.answers["/health"] = answer
        if answer == "gone":
            engine.die()
        return await control.healthy()

    assert with_engine(use) is healthy


def test_refused_flushes_are_seen():
    async def use(control, engine):
        return await control.flush_cache()

    assert with_engine(use, flushes=False) is False


def test_metrics_of_a_real_server():
    metrics = parse_metrics((DATA / "metrics.txt").read_text())
    assert metrics["sglang:num_retracted_reqs"] == 0.0
    assert metrics["sglang:process_cpu_seconds_total"] == pytest.approx(1.0)
    assert "sglang:fwd_occupancy" not in metrics
    assert metrics["sglang:routing_keys_active"] == 0.0


def test_metrics_are_summed_over_ranks():
    text = 'sglang:x{rank="0"} 1.5\nsglang:x{rank="1"} 2\n# sglang:x 9\nother 3\nsglang:y NaN\n'
    assert parse_metrics(text) == {"sglang:x": 3.5}


def test_no_key_of_the_engine_is_kept():
    kept = effective_settings({**INFO, "api_key": "secret", "admin_api_key": "secret", "watermark_key": "secret"})
    assert kept["version"] == "0.5.23"
    assert kept["max_total_num_tokens"] == 65536
    assert "secret" not in json.dumps(kept)


STATE = {"effective_max_running_requests_per_dp": 16}


@pytest.mark.parametrize(
    ("info", "cap", "queues"),
    [
        (INFO, 32, 1),
        ({}, None, 1),
        ({"max_running_requests": None}, None, 1),
        ({"max_running_requests": 64, "dp_size": 2}, 128, 2),
        ({"max_running_requests": 64, "attn_dp_size": 4}, 64, 4),
        ({"attn_dp_size": 4, "internal_states": [STATE] * 4}, 64, 4),
        ({"dp_size": 2, "internal_states": [STATE]}, 32, 2),
        ({"max_running_requests": 7, "internal_states": [{}]}, 7, 1),
    ],
)
def test_the_cap_over_all_schedulers(info, cap, queues):
    assert total_max_running(info) == cap
    assert schedulers(info) == queues
