"""Expressions in space files: parsed by a whitelist, never `eval`ed.

Names (dotted where documented), numbers, strings, lists of constants, arithmetic, comparisons, and/or/not/in.
An order comparison with an absent name (a nested parameter whose choice is not taken) is false.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.space.config import Scalar

Names = Mapping[str, Any]
Evaluate = Callable[[Names], Any]

MAX_LENGTH = 1000  # characters
MAX_DEPTH = 50
_TOO_DEEP = "the expression is nested too deeply"
_WHOLE = re.compile(r"^\s*\$\{(?P<body>.*)\}\s*$", re.DOTALL)


def _divide(a: float, b: float) -> float:
    """Whole where two whole numbers divide evenly: an engine's integer flag would not take `16.0`."""
    return a // b if isinstance(a, int) and isinstance(b, int) and b and a % b == 0 else a / b


_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class ExpressionError(ValueError):
    """An expression that cannot be parsed or evaluated; the message is for people."""


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `names` are the (dotted) names it reads."""

    text: str
    names: frozenset[str]
    evaluate: Evaluate

    def __call__(self, names: Names) -> Any:
        """Value under `names`.

        Raises:
            ExpressionError: operands of the wrong type, or division by zero.
        """
        try:
            return self.evaluate(names)
        except (TypeError, ArithmeticError) as exc:
            raise ExpressionError(f"`{self.text}`: {exc}{self._where(names)}") from exc

    def scalar(self, names: Names) -> Scalar:
        """Value under `names`, as something a flag can be set to.

        Raises:
            ExpressionError: as for a call, or the value is absent, a list, or not a finite number.
        """
        value = self(names)
        if not isinstance(value, (bool, int, float, str)):
            what = "has no value here: it reads a parameter of a choice not taken" if value is None else "is a list"
            raise ExpressionError(f"`{self.text}` {what}{self._where(names)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ExpressionError(f"`{self.text}` is {value}, which no flag takes{self._where(names)}")
        return value

    def truth(self, names: Names) -> bool:
        """Value under `names`, as a condition.

        Raises:
            ExpressionError: as for a call, or the value is neither true nor false.
        """
        value = self(names)
        if not isinstance(value, bool):
            raise ExpressionError(f"`{self.text}` is {value!r}, neither true nor false{self._where(names)}")
        return value

    def _where(self, names: Names) -> str:
        read = ", ".join(f"{name} = {names[name]!r}" for name in sorted(self.names))
        return f" (where {read})" if read else ""


def is_expression(value: object) -> bool:
    """Whether a value of the file is a `${...}`."""
    return isinstance(value, str) and "${" in value


def parse_embedded(text: str) -> Expression:
    """Parse `${...}`; the whole text must be one expression."""
    match = _WHOLE.match(text)
    if not match or "${" in match["body"]:
        raise ExpressionError(f"`{text[:60]}`: a derived value is one `${{...}}` and nothing else")
    return parse(match["body"])


def parse(text: str) -> Expression:
    """Parse an expression.

    Raises:
        ExpressionError: a syntax error, or anything outside the whitelist.
    """
    text = text.strip()
    if not text:
        raise ExpressionError("the expression is empty")
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression is longer than {MAX_LENGTH} characters")
    names: set[str] = set()
    try:
        compiled = _compile(_tree(text), names, 0)
    except RecursionError:
        raise ExpressionError(_TOO_DEEP) from None
    return Expression(text, frozenset(names), compiled)


def _tree(text: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's opinion on `1if x` or "\\d" would go to the user's terminal
            return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as exc:
        raise ExpressionError(f"`{text}` is not an expression: {getattr(exc, 'msg', exc)}") from exc


def _compile(node: ast.expr, names: set[str], depth: int) -> Evaluate:
    if depth > MAX_DEPTH:
        raise ExpressionError(_TOO_DEEP)

    def sub(child: ast.expr) -> Evaluate:
        return _compile(child, names, depth + 1)

    if isinstance(node, ast.Constant):
        return _constant(node)
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = _dotted(node)
        names.add(name)
        return lambda env: env[name]
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        return _arithmetic(_ARITHMETIC[type(node.op)], sub(node.left), sub(node.right))
    if isinstance(node, ast.BoolOp):
        return _boolean(isinstance(node.op, ast.And), [sub(v) for v in node.values])
    if isinstance(node, ast.UnaryOp):
        return _unary(node, sub(node.operand))
    if isinstance(node, ast.Compare):
        return _comparison([type(op) for op in node.ops], [sub(c) for c in (node.left, *node.comparators)])
    if isinstance(node, (ast.Tuple, ast.List)):
        items = [sub(item) for item in node.elts]
        return lambda env: tuple(item(env) for item in items)
    raise ExpressionError(
        f"{_what(node)} is not allowed here; use names, numbers, strings, arithmetic, comparisons, and/or/not/in"
    )


def _what(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return f"a call (`{ast.unparse(node)}`)"
    return f"`{ast.unparse(node)}`"


def _constant(node: ast.Constant) -> Evaluate:
    value = node.value
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ExpressionError(f"`{value!r}` is not a number, a string or a boolean")
    return lambda _env: value


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ExpressionError(f"`{ast.unparse(node)}` is not a documented name")


def _arithmetic(apply: Callable[[Any, Any], Any], left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(env: Names) -> Any:
        a, b = left(env), right(env)
        if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
            raise TypeError(f"arithmetic needs numbers, not {a!r} and {b!r}")
        return apply(a, b)

    return evaluate


def _boolean(is_and: bool, parts: list[Evaluate]) -> Evaluate:  # noqa: FBT001 - two callers' worth of one idea
    if is_and:
        return lambda env: all(part(env) for part in parts)
    return lambda env: any(part(env) for part in parts)


def _unary(node: ast.UnaryOp, operand: Evaluate) -> Evaluate:
    if isinstance(node.op, ast.Not):
        return lambda env: not operand(env)
    if isinstance(node.op, ast.USub):
        return lambda env: -operand(env)
    raise ExpressionError(f"`{ast.unparse(node)}` is not allowed here")


def _comparison(ops: list[type[ast.cmpop]], operands: list[Evaluate]) -> Evaluate:
    tests = [_test(op) for op in ops]

    def evaluate(env: Names) -> bool:
        values = [operand(env) for operand in operands]
        return all(test(values[i], values[i + 1]) for i, test in enumerate(tests))

    return evaluate


def _test(op: type[ast.cmpop]) -> Callable[[Any, Any], bool]:
    if op is ast.Eq:
        return operator.eq
    if op is ast.NotEq:
        return operator.ne
    if op is ast.In:
        return lambda a, b: a in b
    if op is ast.NotIn:
        return lambda a, b: a not in b
    if op in _ORDER:
        order = _ORDER[op]
        return lambda a, b: a is not None and b is not None and order(a, b)
    raise ExpressionError("`is` is not allowed; use ==")
