"""Reading YAML: what plain scalars mean, and files that are broken, hostile or no space file at all."""

from __future__ import annotations

import os

import pytest

from tuner.errors import SpaceError
from tuner.space import document as reading
from tuner.space.document import parse_document, read_document

SCALARS = {
    "off": "off", "no": "no", "yes": "yes", "on": "on", "y": "y", "NO": "NO",
    "true": True, "False": False, "null": None, "~": None, "": None,
    "1e-3": 0.001, "1E5": 1e5, "1.5e+2": 150.0, ".5": 0.5, "5.": 5.0, "-0.0": -0.0,
    "12:30:00": "12:30:00", "1:30": "1:30", "0o17": 15, "0x1F": 31, "0b11": "0b11",
    "1_000": 1000, "+3": 3, "-7": -7, "0": 0, "0.5.16": "0.5.16", "2026-07-28": "2026-07-28",
    "'010'": "010", '"1"': "1", "!!str 5": "5", "!!int 5": 5, "!!float 5": 5.0, "=": "=", "größe": "größe",
}  # fmt: skip


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_read_by_yaml_1_2_so_the_traps_of_1_1_cannot_bite(text):
    document = parse_document(f"a: {text}\n", "f")
    assert document.problems == []
    assert document.data == {"a": SCALARS[text]}
    assert type(document.data["a"]) is type(SCALARS[text])


def test_words_that_yaml_1_1_takes_for_booleans_are_keys():
    assert parse_document("{off: 1, no: 2, y: 3}", "f").data == {"off": 1, "no": 2, "y": 3}


BROKEN = {
    "nothing": ("", 0, 0, "is empty"),
    "comments only": ("# nothing\n\n", 0, 0, "is empty"),
    "a list": ("- a\n", 1, 1, "must be a mapping"),
    "a word": ("hello\n", 1, 1, "must be a mapping"),
    "only a marker": ("---\n", 1, 1, "must be a mapping"),
    "a tab": ("a:\n\tb: 1\n", 2, 1, "cannot start any token"),
    "two documents": (
        "a: 1\n---\nb: 2\n",
        2,
        1,
        "expected a single document in the stream, but found another document",
    ),
    "an unclosed bracket": ("a: [1, 2\nb: 3\n", 2, 2, "not valid YAML: while parsing a flow sequence"),
    "an undefined alias": ("a: *b\n", 1, 4, "found undefined alias"),
    "a control character": ("a: 1\nbc: x\x07y\n", 2, 6, "the character U+0007 is not allowed"),
    "an escape beyond Unicode": ('a: "\\UFFFFFFFF"\n', 0, 0, "not valid YAML"),
    "brackets without end": ("a: " + "[" * 5000, 1, 43, "nested more than 40 levels deep"),
    "braces without end": ("{a: " * 5000, 1, 158, "nested more than 40 levels deep"),
    "indents without end": ("\n".join(f"{' ' * i}a:" for i in range(300)), 40, 40, "nested more than 40 levels deep"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_text_that_is_no_mapping_is_one_error_at_its_place(case):
    text, line, column, words = BROKEN[case]
    with pytest.raises(SpaceError) as caught:
        parse_document(text, "f")
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message
    assert "\n" not in str(caught.value)


FLAWED = {
    "duplicate key": ("a: 1\nb: 2\na: 3\n", 3, 1, "a: duplicate key `a` (first on line 1)"),
    "duplicate below": ("a:\n  b: 1\n  b: 2\n", 3, 3, "a.b: duplicate key `b` (first on line 2)"),
    "python object": ("a: !!python/object:os.system {}\n", 1, 4, "the tag !!python/object:os.system is not allowed"),
    "python call": ("a: !!python/object/apply:os.system ['true']\n", 1, 4, "is not allowed"),
    "custom scalar": ("a: !include b.yaml\n", 1, 4, "a: the tag !include is not allowed"),
    "custom mapping": ("a: !mine {b: 1}\n", 1, 4, "the tag !mine is not allowed"),
    "set": ("a: !!set {b, c}\n", 1, 4, "the tag !!set is not allowed"),
    "binary": ("a: !!binary aGk=\n", 1, 4, "the tag !!binary is not allowed"),
    "boolean of a word": ("a: !!bool maybe\n", 1, 4, "the tag !!bool is not allowed"),
    "integer of a word": ("a: !!int five\n", 1, 4, "`five` is not a number"),
    "text of a list": ("a: !!str [b]\n", 1, 4, "is not allowed"),
    "null of a list": ("a: !!null [b]\n", 1, 4, "is not allowed"),
    "tagged recursion": ("a: &x !mine [*x, *x]\n", 1, 4, "the tag !mine is not allowed"),
    "leading zero": ("a: 010\n", 1, 4, "`010` has a leading zero"),
    "leading zero, underscored": ("a: -0_7\n", 1, 4, "has a leading zero"),
    "alias of itself": ("a: &x [1, *x]\n", 1, 4, "a.1: an alias that contains itself"),
    "mapping of itself": ("a: &x\n  b: *x\n", 2, 3, "a.b: an alias that contains itself"),
    "merge of itself": ("a: &x\n  <<: *x\n", 2, 3, "an alias that contains itself"),
    "merge of a list": ("a: &x {b: 1}\nc: {<<: [*x]}\n", 2, 5, "c: `<<` takes one mapping"),
    "merge twice": ("a: &x {b: 1}\nc:\n  <<: *x\n  <<: *x\n", 4, 3, "c: duplicate key `<<`"),
    "half a pair": ('a: "\\ud800"\n', 1, 4, "half a surrogate pair"),
    "half a pair in a key": ('"\\ud800": 1\n', 1, 1, "half a surrogate pair"),
}


@pytest.mark.parametrize("case", FLAWED)
def test_a_flaw_that_leaves_the_rest_readable_is_kept_with_its_place(case):
    text, line, column, words = FLAWED[case]
    (problem,) = parse_document(text, "f").problems
    assert (problem.line, problem.column) == (line, column)
    assert words in problem.message


def test_a_merge_gives_way_to_own_values_and_their_places():
    document = parse_document("a: &x {b: 1, c: 2}\nd:\n  b: 3\n  <<: *x\n", "f")
    assert document.data["d"] == {"b": 3, "c": 2}
    assert document.place(("d",)) == (3, 3)
    assert document.place(("d", "b")) == (3, 6)
    assert document.place(("d", "c")) == (1, 17)


def test_an_alias_bomb_is_refused_before_it_expands():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SpaceError, match="expands to more than 20000 values"):
        parse_document("\n".join(lines), "f")


def test_aliases_cannot_nest_deeper_than_the_text():
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))]
    document = parse_document("\n".join(lines), "f")
    assert document.problems
    assert all("nested more than 40 levels deep" in p.message for p in document.problems)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_and_a_byte_order_mark_keep_the_places(tmp_path, newline):
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + newline.join(["a: 1", "b:", "  c: 010", ""]).encode())
    document = read_document(path)
    assert document.data["a"] == 1
    assert [(p.line, p.column) for p in document.problems] == [(3, 6)]


def test_a_place_falls_back_to_the_nearest_thing_that_stands_in_the_file():
    document = parse_document("a:\n  b: {c: 1}\n", "f")
    assert document.place(("a", "b", "missing")) == (2, 6)
    assert document.place(("a", "b", "c"), key=True) == (2, 7)
    assert document.place(("z",)) == (1, 1)


FILES = {
    "missing": (None, "no such file"),
    "empty": (b"", "is empty"),
    "binary": (b"\x00\x01\x02", "is a binary file"),
    "gzip": (b"\x1f\x8b\x08\x00abc", "is not UTF-8 text (byte 1)"),
    "utf-16": ("a: 1".encode("utf-16"), "is not UTF-8 text"),
    "latin-1": ("a: größe".encode("latin-1"), "is not UTF-8 text (byte 5)"),
    "too large": (b"# " + b"x" * (1 << 18), "is larger than"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_text_is_one_line_with_its_name(tmp_path, case):
    content, words = FILES[case]
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpaceError) as caught:
        read_document(path, shown_as="mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")
    assert words in str(caught.value)


def test_a_folder_a_loop_of_links_and_a_path_through_a_file_are_errors(tmp_path):
    (tmp_path / "file").write_text("a: 1")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "loop", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(SpaceError, match="cannot be read: "):
            read_document(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_an_error(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("a: 1")
    path.chmod(0)
    with pytest.raises(SpaceError, match="cannot be read: Permission denied"):
        read_document(path)


def test_an_endless_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "f").symlink_to("/dev/zero")
    with pytest.raises(SpaceError, match="is larger than"):
        read_document(tmp_path / "f")


def test_the_densest_file_allowed_is_read_in_bounded_work():
    text = "a: [" + "1," * (reading.MAX_BYTES // 2 - 10) + "]"
    assert len(text) < reading.MAX_BYTES
    with pytest.raises(SpaceError, match="expands to more than"):
        parse_document(text, "f")
