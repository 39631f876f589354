"""Expressions: a whitelist, never `eval`; nothing but ExpressionError leaves them."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.space.expression import ExpressionError, parse, parse_embedded

NAMES = {"tp": 8, "steps": None, "pool": "amd", "layout.attn_dp": 4, "share": 0.5, "flag": True}

VALUES = {
    "1 + 2 * 3": 7, "-tp + 1": -7, "7 // 2": 3, "7 % 4": 3, "7 / 2": 3.5, "tp / layout.attn_dp": 2,
    "tp / share": 16.0, "not flag": False, "tp == 8": True, "tp != 8": False, "1 < tp <= 8": True, "1 < tp < 8": False,
    "pool == 'amd'": True, "pool in ['amd', 'nv']": True, "pool not in ('nv',)": True, "'m' in pool": True,
    "steps > 2": False, "steps < 2": False, "steps >= 0": False, "steps == None": True, "steps in [1, 2]": False,
    "flag and tp > 4": True, "tp > 100 or share < 1": True, "tp > 100 or steps > 1": False,
    "'amd' < 'nv'": True, "  tp  ": 8, "True": True, "0x10": 16, "1_000": 1000,
}  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_value(text):
    value = parse(text)(NAMES)
    assert value == VALUES[text]
    assert type(value) is type(VALUES[text])


@pytest.mark.parametrize(
    "text",
    [
        "f(1)", "__import__('os').system('true')", "().__class__", "pool.__class__", "pool._x", "pool[0]", "[x for x in pool]",
        "lambda: 1", "1 if tp else 2", "2 ** 9999999", "1 << 99", "~tp", "+tp", "tp is 8", "tp is not None", "f'{tp}'",
        "b'x'", "1j", "...", "{1: 2}", "{1}", "tp := 3", "(yield)", "await tp", "*tp", "1 @ 2", "a.b().c", "'x'.upper",
        "", "   ", "1 +", "1 2", "tp = 8", "import os", "tp; pool", "\0", "tp\n== 8", "(" * 300, "[" * 99 + "]" * 99,
        "-" * 600 + "1", "not " * 200 + "tp", "1" + "**1" * 300, "x" + ".a" * 400 + "()", "f" + "()" * 450,
        "1+" * 300 + "1", "1" * 1001, "9" * 1001,
    ],
)  # fmt: skip
def test_what_is_not_on_the_list_is_refused_with_a_short_reason(text):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pool < 3", "'<' not supported between instances of 'str' and 'int' (where pool = 'amd')"),
        ("pool + 1 > 2", "arithmetic needs numbers, not 'amd' and 1"),
        ("steps + 1", "arithmetic needs numbers, not None and 1 (where steps = None)"),
        ("[1] * 1000000000", "arithmetic needs numbers"),
        ("'%99999999d' % tp", "arithmetic needs numbers"),
        ("-pool", "bad operand type for unary -"),
        ("1 / (tp - 8)", "division by zero (where tp = 8)"),
        ("tp % 0", "by zero"),
        ("tp // 0.0", "by zero"),
        (f"{'9' * 400} / 7", "too large"),
        (f"{'9' * 400} * 1.5", "too large"),
        ("1 in tp", "not iterable"),
        ("tp in pool", "requires string"),
    ],
)
def test_what_cannot_be_evaluated_names_the_expression_and_what_it_read(text, words):
    with pytest.raises(ExpressionError) as caught:
        parse(text)(NAMES)
    assert f"`{text}`: " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["steps", "[1, 2]", "1e999", "1e308 * 10", "1e999 - 1e999"])
def test_a_flag_takes_a_finite_scalar_and_nothing_else(text):
    with pytest.raises(ExpressionError):
        parse(text).scalar(NAMES)


@pytest.mark.parametrize("text", ["tp", "pool", "steps", "share * 2", "'x'", "1 + 1"])
def test_a_condition_is_true_or_false_and_nothing_else(text):
    with pytest.raises(ExpressionError, match="neither true nor false"):
        parse(text).truth(NAMES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${}", "is empty"),
        ("${ }", "is empty"),
        ("a${tp}", "one `${...}` and nothing else"),
        ("${tp} b", "one `${...}` and nothing else"),
        ("${tp}${tp}", "one `${...}` and nothing else"),
        ("${${tp}}", "one `${...}` and nothing else"),
        ("${tp", "one `${...}` and nothing else"),
        ("${" + "1+" * 9999 + "1}", "longer than 1000 characters"),
        ("x${" + "1" * 99999, "one `${...}` and nothing else"),
    ],
)
def test_a_derived_value_is_one_expression_and_nothing_around_it(text, words):
    with pytest.raises(ExpressionError) as caught:
        parse_embedded(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_derived_value_may_hold_braces_in_its_strings():
    assert parse_embedded(" ${'}' + '' == '}' or pool == '}'} ").names == {"pool"}
    assert parse_embedded("${'}'}")({}) == "}"


def test_python_says_nothing_about_odd_expressions():
    """`filterwarnings = error` would turn a SyntaxWarning of the parser into a failure here."""
    assert parse("tp in [1,2]or tp>7")(NAMES) is True
    assert parse(r"pool == '\d'")(NAMES) is False
    assert parse("9or 1 == 1")(NAMES) is True


@given(st.text(alphabet="tpool.s[](){}'\"+-*/%<>=!&|~^,:;0159eE_ \n\t\\#@notandrifx", max_size=40))
def test_any_text_is_an_expression_or_an_expression_error(text):
    try:
        parse(text)(dict.fromkeys(parse(text).names, 3))
    except ExpressionError:
        return


@given(st.recursive(st.sampled_from(["tp", "pool", "steps", "share", "1", "2.5", "'x'", "0", "[1]"]),
    lambda x: st.tuples(x, st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "in", "and", "or", "!="]), x).map(
        lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=8))  # fmt: skip
def test_any_well_formed_expression_has_a_value_or_an_expression_error(text):
    try:
        parse(text).scalar(NAMES)
    except ExpressionError:
        return
