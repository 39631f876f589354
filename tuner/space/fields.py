"""The field types of a space file: strict models, durations, numbers, shares. Knows no section of the file."""

from __future__ import annotations

import re
from typing import Annotated, Any

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DIMENSION = r"^[a-z][-_a-z0-9]*$"
PARAMETER = r"^[a-z][_a-z0-9]*$"
CHOICE = r"^[A-Za-z0-9][-_.+A-Za-z0-9]*$"
FLAG = r"^[A-Za-z][-_.A-Za-z0-9]*$"
VERSION = r"^[0-9]+(\.[0-9]+)+([.a-z0-9]+)?$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h|d)\s*$")
_UNIT_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class Model(BaseModel):
    """Strict: unknown keys are errors, numbers are numbers, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_seconds(value: Any) -> Any:
    """Seconds from a number or from text such as `20m`; anything else is left for the type check."""
    if isinstance(value, str):
        match = _DURATION.match(value)
        if not match:
            raise ValueError("a duration is a number of seconds or text such as 90s, 20m, 24h, 2d")
        return float(match[1]) * _UNIT_S[match[2]]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_number(value: Any) -> Any:
    """Accept an integer where a float is meant; strict mode would not."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def increasing(pair: list[Any]) -> list[Any]:
    """Refuse a range that runs backwards."""
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]} is above the upper end {pair[1]}")
    return pair


def literal(text: str) -> str:
    """Refuse `${...}` where nothing is evaluated: it would be passed on as it stands."""
    if "${" in text:
        raise ValueError("no ${...} here; expressions are for `args`, for dimensions and for rules")
    return text


def engine_version(text: str) -> str:
    """Refuse what cannot be compared with the version ranges of rules."""
    try:
        Version(text)
    except InvalidVersion:
        raise ValueError("a version such as 0.5.16 or 0.5.15.post1") from None
    return text


Seconds = Annotated[
    float,
    Field(gt=0, description="seconds, or text such as 90s, 20m, 24h"),
    BeforeValidator(read_seconds, json_schema_input_type=float | str),
]
Positive = Annotated[float, Field(gt=0), BeforeValidator(read_number)]
NotNegative = Annotated[float, Field(ge=0), BeforeValidator(read_number)]
Share = Annotated[float, Field(ge=0, lt=1), BeforeValidator(read_number)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Plain = Annotated[Text, AfterValidator(literal)]
EngineVersion = Annotated[str, Field(pattern=VERSION), AfterValidator(engine_version)]
FlagValue = bool | int | float | str
PlainValue = bool | int | float | Annotated[str, AfterValidator(literal)]
Flags = dict[Annotated[str, Field(pattern=FLAG)], FlagValue]
Env = dict[Annotated[str, Field(pattern=VARIABLE)], Annotated[str, AfterValidator(literal)]]
