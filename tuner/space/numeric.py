"""Numeric dimensions and parameters of a space file: lists and ranges, and all their values in order."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, Tag, model_validator

from tuner.space.fields import FlagValue, Model, PlainValue, Positive, increasing, read_number
from tuner.space.nearest import nearest

MAX_VALUES = 1000
_Int = int  # the fields below are called `int` and `float`, as users write them
_Float = float


def _no_repeats(values: list[Any]) -> list[Any]:
    """Refuse a repeated value. 1, 1.0 and true count as one: Python and a study's storage cannot tell them apart."""
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"the value {value!r} stands twice")
    return values


def _few(count: float) -> None:
    if count > MAX_VALUES:
        raise ValueError(f"has more than {MAX_VALUES} values; take a larger `step`, or `log: true`")


class ValuesSpec(Model):
    """A list of values."""

    values: Annotated[list[PlainValue], Field(min_length=1, max_length=MAX_VALUES), AfterValidator(_no_repeats)]


class IntSpec(Model):
    """Whole numbers from a to b, every `step` or every doubling (`log`)."""

    int: Annotated[list[_Int], Field(min_length=2, max_length=2), AfterValidator(increasing)]
    step: Annotated[_Int, Field(ge=1)] | None = None
    log: bool = False

    @model_validator(mode="after")
    def _stepped(self) -> IntSpec:
        if self.log and self.step is not None:
            raise ValueError("give `step`, or `log: true` for doublings, not both")
        if self.log and self.int[0] <= 0:
            raise ValueError("a `log` range starts above 0")
        if not self.log:
            _few((self.int[1] - self.int[0]) // (self.step or 1) + 1)
        return self


class FloatSpec(Model):
    """Numbers from a to b, every `step` or every doubling (`log`)."""

    float: Annotated[
        list[Annotated[_Float, BeforeValidator(read_number)]],
        Field(min_length=2, max_length=2),
        AfterValidator(increasing),
    ]
    step: Positive | None = None
    log: bool = False

    @model_validator(mode="after")
    def _stepped(self) -> FloatSpec:
        if (self.step is None) != self.log:
            raise ValueError("give `step`, or `log: true` for doublings, not both")
        if self.log and self.float[0] <= 0:
            raise ValueError("a `log` range starts above 0")
        if self.step is not None:
            _few((self.float[1] - self.float[0]) / self.step)
        return self


def kind_of(value: Any, kinds: tuple[str, ...], scalar: str) -> str:
    """How a value is written: by the key that says it, or the key most like it; `scalar` when it has no keys."""
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, BaseModel) else None
    if keys is None:
        return scalar
    found = [kind for kind in kinds if kind in keys] or [near for key in keys if (near := nearest(key, kinds))]
    return found[0] if found else kinds[0]


def _param_kind(value: Any) -> str:
    return kind_of(value, ("values", "int", "float"), "scalar")


Numeric = Annotated[ValuesSpec, Tag("values")] | Annotated[IntSpec, Tag("int")] | Annotated[FloatSpec, Tag("float")]
ParamSpec = Annotated[Numeric | Annotated[PlainValue, Tag("scalar")], Discriminator(_param_kind)]


def expand(spec: ValuesSpec | IntSpec | FloatSpec | FlagValue) -> tuple[FlagValue, ...]:
    """All values of a numeric dimension, in order; a scalar is one value."""
    if isinstance(spec, ValuesSpec):
        return tuple(spec.values)
    if isinstance(spec, IntSpec):
        low, high = spec.int
        if spec.log:
            return tuple(_doublings(low, high))
        return tuple(range(low, high + 1, spec.step or 1))
    if isinstance(spec, FloatSpec):
        low_f, high_f = spec.float
        if spec.step is None:
            return tuple(_doublings(low_f, high_f))
        return tuple(_steps(Decimal(repr(low_f)), Decimal(repr(high_f)), Decimal(repr(spec.step))))
    return (spec,)


def _steps(low: Decimal, high: Decimal, step: Decimal) -> Iterator[float]:
    """In decimals, as they are written: 0.78 + 3 x 0.02 is 0.84, and the upper end is never lost to rounding."""
    for i in range(int((high - low) / step) + 1):
        yield float(low + i * step)


def _doublings(low: float, high: float) -> list[Any]:
    out = []
    value = low
    while value <= high and value > 0:
        out.append(value)
        value *= 2
    return out
