from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tuner.trial.records import LINE_BYTES, Reading, Record, RecordFile, _line, lines_of, read_file, read_records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
KINDS = st.sampled_from(["begin", "stage", "level", "result"])


@given(st.lists(st.tuples(KINDS, VALUES), max_size=8), st.integers(80, 200), st.randoms(use_true_random=False))
def test_records_come_back_whole_in_any_order_among_other_lines(written, line_bytes, rng):
    """Also doubled, behind a log's time stamp, and in several parts."""
    lines = []
    for number, (kind, value) in enumerate(written, 1):
        lines += [f"2026-01-01T00:00:00.1Z stdout F {line}\n" for line in lines_of(number, kind, value, line_bytes)]
    lines += [*lines[:3], "noise", "tuner-record 1 1/1 zz {}", ""]
    rng.shuffle(lines)
    reading = read_records(lines)
    assert [(record.kind, record.value) for record in reading.records] == written
    assert [record.number for record in reading.records] == list(range(1, len(written) + 1))
    assert reading.missing == ()


@given(st.text(max_size=200), st.integers(0, 400), st.characters())
@example("", 28, "\ud800")  # half a character, as a decoder of broken bytes may leave it
def test_a_damaged_line_is_never_a_record_with_other_content(text, place, other):
    (line,) = lines_of(1, "stage", text, 10_000)
    damaged = line[: place % len(line)] + other + line[place % len(line) + 1 :]
    assert read_records([damaged]).records in ((), (Record(1, "stage", text),))


def test_lines_are_ascii_short_and_numbers_that_are_not_finite_become_null():
    lines = lines_of(7, "result", {"log": "\u20ac" * 20_000, "p95": math.inf, "list": (math.nan, 1.0)})
    assert len(lines) > 1
    assert all(line.isascii() and len(line) <= LINE_BYTES < 16 * 1024 for line in lines)
    (record,) = read_records(lines).records
    assert record.value == {"log": "\u20ac" * 20_000, "p95": None, "list": [None, 1.0]}


def test_what_is_missing_is_told_and_the_rest_is_read():
    lines = [line for number in range(1, 5) for line in lines_of(number, "level", {"n": number, "pad": "x" * 300}, 150)]
    random.Random(1).shuffle(lines)
    lines = [line for line in lines if not line.startswith(("tuner-record 2 2/", "tuner-record 3 "))]
    reading = read_records(lines)
    assert [value["n"] for value in reading.all("level")] == [1, 4]
    assert reading.missing == (2, 3)
    assert reading.last("level")["n"] == 4
    assert reading.last("result") is None


def test_parts_of_two_records_with_one_number_are_never_mixed():
    """Two attempts in one log: the first that begins counts."""
    short, long = lines_of(1, "stage", "a"), lines_of(1, "stage", "b" * 300, 150)
    assert read_records([*short, *long]).records == (Record(1, "stage", "a"),)


@pytest.mark.parametrize("document", ["[]", "1", '{"a":1,"b":2}', "{"])
def test_a_line_that_checks_but_is_no_record_is_missing(document):
    assert read_records([_line(1, 1, 1, document)]) == Reading((), (1,))


def test_a_file_torn_in_its_last_line_keeps_the_records_before(tmp_path):
    path = tmp_path / "records"
    with RecordFile(path) as file:
        file.write("begin", {"id": "t-1"})
        file.write("level", {"level": 0})
        file.write("level", {"level": 1})
    text = path.read_text()
    assert read_file(path).all("level") == [{"level": 0}, {"level": 1}]
    assert path.stat().st_mode & 0o077 == 0
    path.write_text(text[:-9])
    assert read_file(path).all("level") == [{"level": 0}]
    assert read_file(path).last("begin") == {"id": "t-1"}
    RecordFile(path).close()
    assert read_file(path).records == (), "a second attempt begins anew"
    assert read_file(tmp_path / "none") == Reading((), ())
