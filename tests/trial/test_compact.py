from __future__ import annotations

import math
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe.measurement import Level, Measurement
from tuner.trial.compact import SIZE_BYTES, MessageFile, compact, read_compact
from tuner.trial.result import Failure, TrialResult

LEVEL = Level(0, "open", 2.0, None, 0.0, 60.123456789, 120, 3, 0, 0.1, 0.2, 5.0, 6.0, 80.0, "holds")
LEVELS = tuple(replace(LEVEL, level=n, rate_req_per_s=1.0 + n) for n in range(30))
FIGURES = Measurement(
    2.0, 2.1, 80.0, 320.0, 0.0, 0.1, 0.2, 0.3, 0.15, 0.25, 0.2, 5.0, 6.0, 1.0, 7.0, 0.0, 0.6, 0.59, 1200
)
MEASURED = TrialResult(
    "study-0017-abcdef012345-1",
    "measured",
    capacity_req_per_s=2.0,
    ttft_p95_s=0.123456789,
    output_tokens_per_s=80.0,
    levels=LEVELS,
    measurement=FIGURES,
    effective={"fingerprint": "0123456789ab", "version": "0.5.23", "huge": "x" * 9000},
    start_up_s=312.5,
    gpu_seconds=9000.0,
    node="node-1.example",
    client={"send_lag_p99_ms": 0.1, "warnings": ["w" * 9000]},
    simulated=True,
    versions={"tuner": "0.1.0", "engine": "0.5.23"},
)
TAIL = "".join(f"line {n} of the engine's log\n" for n in range(200))
FAILED = TrialResult(
    "t",
    "failed",
    failure=Failure("configuration", "oom_kv", "the KV cache does not fit", TAIL, recognised=False),
    levels=LEVELS[:1],
)


def test_a_measured_trial_comes_back_with_all_its_figures_and_its_last_levels():
    text = compact(MEASURED)
    assert text.isascii()
    assert len(text) <= SIZE_BYTES == 2048
    back = read_compact(text)
    assert back is not None
    assert replace(back, levels=(), effective={}, client={}) == replace(
        MEASURED, ttft_p95_s=0.123457, levels=(), effective={}, client={}
    )
    assert back.effective == {"fingerprint": "0123456789ab", "version": "0.5.23"}
    assert back.client == {"send_lag_p99_ms": 0.1}
    assert len(back.levels) >= 3
    assert [level.level for level in back.levels] == list(range(30 - len(back.levels), 30))


def test_a_failed_trial_keeps_its_reason_its_level_and_the_end_of_the_log():
    back = read_compact(compact(FAILED))
    assert back is not None
    assert (back.state, back.failure.kind, back.failure.recognised) == ("failed", "oom_kv", False)
    assert back.levels[0].rate_req_per_s == 1.0
    assert back.failure.log_tail.endswith("line 199 of the engine's log\n")
    assert 500 < len(back.failure.log_tail) < SIZE_BYTES


@pytest.mark.parametrize(
    "result",
    [
        replace(FAILED, failure=Failure("infrastructure", "crash", "\u20ac" * 5000, "\U0001f600" * 5000)),
        replace(MEASURED, node="n" * 3000, measurement=None),
        replace(MEASURED, versions={"engine": "v" * 1700}),
        TrialResult("t", "infeasible", bound_req_per_s=0.0, ttft_p95_s=math.inf),
        TrialResult("t", "pruned", bound_req_per_s=math.nan),
    ],
)
def test_verdicts_survive_whatever_their_texts_are(result):
    text = compact(result)
    assert len(text) <= SIZE_BYTES
    assert text.isascii()
    back = read_compact(text)
    assert back is not None
    assert (back.id, back.state) == (result.id, result.state)
    if result.state == "infeasible":
        assert (back.bound_req_per_s, back.ttft_p95_s) == (0.0, None)


@given(st.text(max_size=5000), st.text(max_size=5000), st.integers(0, 30))
def test_it_always_fits_and_reads_back(message, tail, levels):
    result = replace(FAILED, failure=Failure("configuration", "crash", message, tail), levels=LEVELS[:levels])
    text = compact(result)
    assert len(text) <= SIZE_BYTES
    back = read_compact(text)
    assert back is not None
    assert back.failure.kind == "crash"
    assert tail.endswith(back.failure.log_tail)


@given(st.integers(0, 2048), st.characters(max_codepoint=127))
def test_a_cut_or_damaged_message_is_never_another_result(place, other):
    text = compact(MEASURED)
    whole = read_compact(text)
    damaged = text[:place] + other + text[place + 1 :]
    assert read_compact(damaged) in (None, whole)
    assert read_compact(text[:place]) in (None, whole)
    assert read_compact(text[place:]) in (None, whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The container could not be located when the pod was terminated",
        '{"tuner_result":1,"crc32":"00000000","result":{}}',
        '{"tuner_result":1,"crc32":"a3830348","result":{}}',
    ],
)
def test_what_is_not_ours_is_nobodys_result(text):
    assert read_compact(text) is None


def test_a_message_is_written_in_place_and_shrinks(tmp_path):
    """Also where the writer was killed before it cut the longer message of before."""
    path = tmp_path / "message"
    path.write_text("x")
    inode = path.stat().st_ino
    file = MessageFile(path)
    longer, shorter = compact(MEASURED), compact(TrialResult("t", "pruned"))
    file.write(longer)
    assert path.read_text() == longer
    file.write(shorter)
    assert path.read_text() == shorter
    assert path.stat().st_ino == inode
    assert read_compact(shorter + longer[len(shorter) :]) == TrialResult("t", "pruned")
    os.close(file._handle)
