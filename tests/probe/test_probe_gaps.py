from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.probe.connection import _size_line
from tuner.probe.gaps import FOLDED_AT_ONCE, GAP_SLOTS_PER_S, ChunkTimes, gap_quantile_s


@pytest.mark.parametrize(
    ("gaps", "q", "expected"),
    [({}, 0.95, None), ({200: 1}, 0.5, 0.010025), ({0: 95, 200: 5}, 0.95, 0.000025), ({0: 94, 200: 6}, 0.95, 0.010025)],
)
def test_quantiles_of_counted_gaps(gaps, q, expected):
    assert gap_quantile_s(gaps, q) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(0, 1), max_size=40), st.lists(st.integers(0, 39), max_size=5))
def test_whenever_gaps_are_counted_none_is_lost_or_counted_twice(steps_s, folded_after):
    at_s, times = 0.0, []
    counted: Counter[int] = Counter()
    chunks = ChunkTimes(counted)
    for number, step_s in enumerate(steps_s):
        at_s += step_s
        times.append(at_s)
        chunks.waiting.append(at_s)
        if number in folded_after:
            chunks.fold()
    gaps_s = [b - a for a, b in pairwise(times)]
    assert (len(chunks), chunks.last_s) == (len(times), times[-1] if times else None)
    assert chunks.max_gap_s == max(gaps_s, default=0.0)
    assert counted == Counter(int(gap_s * GAP_SLOTS_PER_S) for gap_s in gaps_s)
    assert len(chunks.waiting) <= 1


def test_answers_of_a_level_count_into_one_place():
    counted: Counter[int] = Counter()
    for _ in range(3):
        chunks = ChunkTimes(counted)
        chunks.waiting += [1.0, 1.5]
        chunks.fold()
    assert counted == {GAP_SLOTS_PER_S // 2: 3}
    assert FOLDED_AT_ONCE < 1000  # a thousand took 0.2 ms: no answer may hold up the others for longer


@pytest.mark.parametrize("event_bytes", [1, 15, 16, 255, 256, 270, 4095, 4096, 70_000])
def test_the_size_a_whole_chunk_of_this_length_announces(event_bytes):
    whole = b"%x\r\n%s\r\n" % (event_bytes, bytes(event_bytes))
    assert whole.startswith(_size_line(len(whole)))
