"""Mutated space files: whatever a slip of the hand makes of them, nothing but SpaceError leaves, each problem one line."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SHIPPED = tuple((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
JUNK = (
    "", " ", "\t", "\n", "\r", ":", "-", "?", "#", "&a", "*a", "!x ", "|", ">", "'", '"', "%", "@", "`", "{", "}", "[", "]", ",",
    "{}", "[]", "~", "null", "true", "off", "0", "-1", "1e-3", "1e999", ".nan", ".inf", "007", "0x", "12:30", "9" * 30, "9" * 5000,
    "${}", "${tp}", "${steps", "${1/0}", "${[1]*9}", "(", "not ", "<<: *a", "---\n", "...\n", "é", "\u2028", "\x85", "\x00", "\ud800",
    "\\", "<", "==", "pool", "layout.tp", "speculation.steps", "steps", "choice", "values", "int", "float", "tp",
    "!!int ", "!!python/object:x ", '"\\UFFFFFFFF"', "[" * 60, "{a: " * 60,
)  # fmt: skip


@st.composite
def mutations(draw, text: str):
    """Up to four slips: lines deleted, doubled, swapped or moved in; characters deleted, doubled, replaced."""
    for _ in range(draw(st.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [""]
        i, j = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        slip = draw(st.sampled_from(("cut", "double", "swap", "indent", "junk", "junk", "junk", "drop", "word")))
        if slip == "cut":
            del lines[i]
        elif slip == "double":
            lines.insert(j, lines[i])
        elif slip == "swap":
            lines[i], lines[j] = lines[j], lines[i]
        elif slip == "indent":
            lines[i] = " " * draw(st.integers(0, 6)) + lines[i].lstrip(" ")
        else:
            lines[i] = draw(slips_in_a_line(lines[i], slip))
        text = "".join(lines)
    return text


@st.composite
def slips_in_a_line(draw, line: str, slip: str):
    at = draw(st.integers(0, len(line)))
    if slip == "drop":
        return line[:at] + line[at + draw(st.integers(1, 5)) :]
    junk = draw(st.sampled_from(JUNK))
    if slip == "junk":
        return line[:at] + junk + line[at:]
    words = line.split(" ")
    words[draw(st.integers(0, len(words) - 1))] = junk
    return " ".join(words)


@settings(max_examples=250)
@given(st.data())
def test_a_mutated_small_space_loads_or_tells_its_problems(desk, data):
    desk.problems(data.draw(mutations(desk.base)))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
@settings(max_examples=60)
@given(data=st.data())
def test_a_mutated_shipped_space_loads_or_tells_its_problems(desk, path, data):
    desk.problems(data.draw(mutations(path.read_text(encoding="utf-8"))))


@given(st.binary(max_size=60))
def test_any_bytes_load_or_tell_their_problems(desk, raw):
    desk.problems(raw.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode("utf-8"))


@settings(max_examples=60)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=3), max_leaves=6), st.data())  # fmt: skip
def test_any_value_in_any_place_loads_or_tells_its_problems(desk, value, data):
    """One value of the file is replaced by something of any shape."""
    import yaml

    document = yaml.safe_load(desk.base.replace('"off"', "'off'"))
    holder, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(holder[key], dict) and holder[key] and data.draw(st.booleans()):
        holder = holder[key]
        key = data.draw(st.sampled_from(sorted(holder)))
    holder[key] = value
    desk.problems(yaml.safe_dump(document, allow_unicode=True))
