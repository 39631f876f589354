from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tuner.probe.events import RequestRecord
from tuner.probe.measurement import Measurement
from tuner.probe.outcome import Outcome, TtftSample
from tuner.probe.summary import achieved_cached_share, measurement


def a_record(index: int = 0, **kwargs) -> RequestRecord:
    fields = {
        "level": 1, "scheduled_s": 10.0, "sent_s": 10.1, "first_token_s": 11.0, "done_s": 21.0, "input_tokens": 1000,
        "output_tokens": 101, "cached_tokens": 600, "chunks": 101, "max_chunk_gap_s": 0.2,
    }  # fmt: skip
    return RequestRecord(index=index, **(fields | kwargs))


def an_outcome(**kwargs) -> Outcome:
    fields = {
        "state": "measured", "reason": "", "capacity_low_req_per_s": 2.0, "capacity_high_req_per_s": 2.1,
        "ttft": tuple(TtftSample(i, 0.01 * (i + 1), 0.01 * i) for i in range(100)),
        "records": tuple(a_record(i) for i in range(50)), "requests": 400, "errors": {"reset": 1, "http_500": 1},
    }  # fmt: skip
    return Outcome(**(fields | kwargs))


def test_the_figures_of_the_rate_that_held():
    figures = measurement(an_outcome(), 0.6, 0.2)
    assert figures == Measurement(
        capacity_req_per_s=2.0,
        capacity_high_req_per_s=2.1,
        output_tokens_per_s=202.0,
        input_tokens_per_s=2000.0,
        cached_tokens_per_s=1200.0,
        ttft_p50_s=pytest.approx(0.50),
        ttft_p95_s=pytest.approx(0.95),
        ttft_p99_s=pytest.approx(0.99),
        ttft_p95_low_s=pytest.approx(0.90),
        ttft_p95_high_s=pytest.approx(1.00),
        ttft_from_send_p95_s=pytest.approx(0.94),
        tpot_p50_ms=pytest.approx(100.0),
        tpot_p95_ms=pytest.approx(100.0),
        e2e_p95_s=11.0,
        chunk_gap_p95_ms=200.0,
        error_rate=0.005,
        offered_cached_share=0.6,
        achieved_cached_share=0.6,
        samples=100,
    )


def test_a_failed_request_is_never_in_the_figures_as_a_fast_one():
    failed = a_record(99, error="reset", output_tokens=0, cached_tokens=0, done_s=10.2, first_token_s=None)
    with_failed = an_outcome(records=(*an_outcome().records, failed))
    assert measurement(with_failed, 0.6) == measurement(an_outcome(), 0.6)


def test_requests_without_a_token_count_as_infinitely_slow():
    some = an_outcome(ttft=(*an_outcome().ttft, *[TtftSample(0, None, None)] * 3))
    figures = measurement(some, 0.6)
    assert figures.ttft_p95_s == pytest.approx(0.98)
    assert figures.ttft_p99_s == pytest.approx(1.0)
    assert figures.ttft_p95_high_s is None
    json.dumps(figures.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    "outcome",
    [
        an_outcome(state="pruned"),
        an_outcome(capacity_low_req_per_s=None),
        an_outcome(records=()),
        an_outcome(records=(a_record(error="reset"),)),
        an_outcome(ttft=()),
        an_outcome(ttft=(TtftSample(0, None, None),) * 20),
    ],
)
def test_without_a_sample_there_are_no_figures(outcome):
    assert measurement(outcome, 0.6) is None


def test_answers_of_one_token_have_no_time_per_token():
    figures = measurement(an_outcome(records=(a_record(output_tokens=1, chunks=1),)), 0.0)
    assert (figures.tpot_p50_ms, figures.chunk_gap_p95_ms) == (None, None)


def test_cached_share_is_of_all_tokens():
    records = [a_record(input_tokens=100, cached_tokens=0), a_record(input_tokens=300, cached_tokens=300)]
    assert achieved_cached_share(records) == 0.75
    assert achieved_cached_share([replace(r, error="reset") for r in records]) == 0.0
    assert not math.isnan(achieved_cached_share([]))
