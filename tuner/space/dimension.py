"""Dimensions of a space with all their values expanded: a number line, or a set of named bundles."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.space.config import Choice, Scalar
from tuner.space.expression import Expression, is_expression, parse_embedded
from tuner.space.numeric import expand
from tuner.space.schema import Bundle, ChoiceSpec, SpaceSection


@dataclass(frozen=True)
class Template:
    """Flags of a bundle or a pool: constants, and expressions to be evaluated for each point."""

    constants: Mapping[str, Scalar] = field(default_factory=dict)
    expressions: Mapping[str, Expression] = field(default_factory=dict)

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> Template:
        """Split flags into constants and expressions.

        Raises:
            ExpressionError: a `${...}` that cannot be parsed.
        """
        derived = {k: parse_embedded(v) for k, v in flags.items() if is_expression(v)}
        return cls({k: v for k, v in flags.items() if k not in derived}, derived)


@dataclass(frozen=True)
class Dimension:
    """One dimension: its values in order; `bundles` by name when it is a choice."""

    name: str
    values: tuple[Scalar | Choice, ...]
    bundles: Mapping[str, Bundle] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """Its name inside expressions: hyphens become underscores."""
        return self.name.replace("-", "_")

    def labels(self) -> tuple[Scalar, ...]:
        """The values as a study stores them: numbers as they are, choices by label."""
        return tuple(v.label if isinstance(v, Choice) else v for v in self.values)


def dimensions_of(section: SpaceSection) -> tuple[tuple[Dimension, ...], dict[str, str]]:
    """Expand every dimension but the layout; derived ones (`${...}`) come back apart, as text."""
    found: list[Dimension] = []
    derived: dict[str, str] = {}
    for name, spec in (section.__pydantic_extra__ or {}).items():
        if isinstance(spec, ChoiceSpec):
            values = tuple(c for key, bundle in spec.choice.items() for c in _choices(key, bundle))
            found.append(Dimension(name, values, dict(spec.choice)))
        elif is_expression(spec):
            derived[name] = str(spec)
        else:
            found.append(Dimension(name, expand(spec)))
    return tuple(found), derived


def _choices(name: str, bundle: Bundle) -> list[Choice]:
    params = {key: expand(spec) for key, spec in sorted(bundle.params.items())}
    return [Choice(name, tuple(zip(params, values, strict=True))) for values in itertools.product(*params.values())]
