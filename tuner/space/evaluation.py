"""Every expression of a space tried on all that it can read, so that a mistake shows before anything is deployed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tuner.space.config import Choice
from tuner.space.document import Path_
from tuner.space.expression import Expression, ExpressionError
from tuner.space.space import Space

MOST = 20_000  # combinations per expression; a mistake beyond shows when the point is reached

Evaluate = Callable[[Mapping[str, Any]], object]


def failures(space: Space) -> Iterator[tuple[Path_, str]]:
    """The place of every expression that fails somewhere, and how it first does."""
    for path, evaluate, environments in _expressions(space):
        for names in itertools.islice(environments, MOST):
            try:
                evaluate(names)
            except ExpressionError as exc:
                yield path, str(exc)
                break


def _expressions(space: Space) -> Iterator[tuple[Path_, Evaluate, Iterable[Mapping[str, Any]]]]:
    for rule in space.rules:
        yield rule.path, rule.expression.truth, _environments(space, rule.expression)
    for flag, expression in space.derived.items():
        yield ("space", flag), expression.scalar, _environments(space, expression)
    for pool, template in space.pool_flags.items():
        for flag, expression in template.expressions.items():
            on_pool = (n for n in _environments(space, expression) if n["pool"] == pool)
            yield ("pools", pool, "args", flag), expression.scalar, on_pool
    for (dimension, choice), template in space.bundle_flags.items():
        for flag, expression in template.expressions.items():
            path = ("space", dimension, "choice", choice, "args", flag)
            yield path, expression.scalar, _inside(space, dimension, choice)


def _environments(space: Space, expression: Expression) -> Iterator[dict[str, Any]]:
    """The names under every combination of the dimensions an expression reads."""
    heads = {name.partition(".")[0] for name in expression.names}
    for config in space.combinations(d for d in space.dimensions if d.variable in heads):
        yield space.names(config)


def _inside(space: Space, dimension: str, choice: str) -> Iterator[dict[str, Any]]:
    """The names inside a bundle: those of its point, and its own parameters bare."""
    for config in space.combinations([space.by_name[dimension]]):
        for _, value in config.values:
            if isinstance(value, Choice) and value.name == choice:
                yield space.names(config) | dict(value.params)
