"""Pydantic's findings as problems of the file: where, what, and the nearest right name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tuner.errors import Problem
from tuner.space import numeric, schema
from tuner.space.document import Document, Path_
from tuner.space.fields import CHOICE, DIMENSION, FLAG, NAME, PARAMETER, VARIABLE, VERSION
from tuner.space.nearest import did_you_mean

_WANTED_VALUE = "must be a value, {values: [...]}, {int: [a, b]}, {float: [a, b], step: s}, {choice: {...}} or ${...}"
_BOOL_WORDS = {"yes", "no", "on", "off", "y", "n"}
_PATTERNS = {
    NAME: "a name has lower-case letters, digits and hyphens between them",
    DIMENSION: "a dimension's name has lower-case letters, digits, - and _, and starts with a letter",
    PARAMETER: "a parameter's name has lower-case letters, digits and _, and starts with a letter",
    CHOICE: "a choice's name has letters, digits and -_.+, and starts with a letter or digit",
    FLAG: "a flag is written without its leading dashes, and has letters, digits, - and _",
    VERSION: "a version such as 0.5.16 or 0.5.15.post1",
    VARIABLE: "a variable's name has letters, digits and _, and starts with no digit",
}
_MAPPING = "a mapping of keys to values"
_SHAPES = {"dict_type": _MAPPING, "model_type": _MAPPING, "list_type": "a list"}
_UNREFERRED = ("workload", "objective", "budget", "confirm", "rules")
_KINDS = (("values", "int", "float", "choice"), ("uniform", "lognormal"))


def problems_of(error: ValidationError, document: Document) -> list[Problem]:
    """One problem per place: a value that fits none of several types is told once."""
    details = sorted(error.errors(include_url=False), key=lambda d: d["type"] != "value_error")  # ours say most
    unknown = {d["loc"][:-1] for d in details if d["type"] == "extra_forbidden"}
    problems: dict[Path_, Problem] = {}
    for detail in details:
        if detail["type"] == "missing" and detail["loc"][-2:-1] == detail["loc"][-1:] and detail["loc"][:-1] in unknown:
            continue  # `{valeus: [...]}`: the misspelt key is told, with the right one
        path = _real_path(detail, document.data)
        if path not in problems:
            problems[path] = document.problem(path, _message(detail, path, document.data), key=_is_key(detail))
    return list(problems.values())


def faulty_paths(error: ValidationError, document: Document) -> list[Path_]:
    """What can be left out without a follow-up mistake elsewhere: unknown keys, and values nothing refers to."""
    details = error.errors(include_url=False)
    paths = [(d["type"] == "extra_forbidden", _real_path(d, document.data)) for d in details if d["type"] != "missing"]
    return [path for is_extra, path in paths if is_extra or (path and path[0] in _UNREFERRED)]


def _is_key(detail: ErrorDetails) -> bool:
    names_dimension = detail["type"] == "string_pattern_mismatch" and detail["ctx"]["pattern"] == DIMENSION
    return detail["type"] == "extra_forbidden" or "[key]" in detail["loc"] or names_dimension


def _real_path(detail: ErrorDetails, data: Any) -> Path_:
    """Drop the union tags pydantic puts between keys: keep what the document really holds."""
    loc = _untagged([step for step in detail["loc"] if step != "[key]"])
    if detail["type"] == "missing":
        return (*_longest(loc[:-1], data), loc[-1])
    return _longest(loc, data)


def _untagged(loc: list[int | str]) -> list[int | str]:
    """Drop the tags of our own unions, whose places are known: a tag may read like the key below it."""
    if loc[0] == "space" and loc[1:2] != ["layout"]:
        loc = loc[:2] + loc[3:]  # space.<dimension>.<tag>
        if loc[4:5] == ["params"]:
            loc = loc[:6] + loc[7:]  # space.<dimension>.choice.<name>.params.<parameter>.<tag>
    if loc[0] == "workload" and loc[1:2] in (["input_tokens"], ["output_tokens"]):
        loc = loc[:2] + loc[3:]
    return loc


def _longest(loc: list[int | str], data: Any) -> Path_:
    """The longest way through the document that takes the steps in order: a plain union's tag is no key."""
    if not loc:
        return ()
    skipped = _longest(loc[1:], data)
    taken = (loc[0], *_longest(loc[1:], data[loc[0]])) if _has(data, loc[0]) else ()
    return taken if len(taken) > len(skipped) else skipped


def _has(here: Any, step: int | str) -> bool:
    if isinstance(here, list):
        return isinstance(step, int) and step < len(here)
    return isinstance(here, dict) and step in here


def _message(detail: ErrorDetails, path: Path_, data: Any) -> str:
    kind = detail["type"]
    value = detail.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{did_you_mean(str(path[-1]), _known(detail['loc'], _at(data, path[:-1])))}"
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        return f"{_PATTERNS[detail['ctx']['pattern']]}, not {_shown(value)}"
    if isinstance(value, str) and value.lower() in _BOOL_WORDS and kind == "bool_type":
        return f"`{value}` is text in YAML 1.2; write true or false"
    if kind == "bool_type" and detail["loc"][-1] == "bool":  # first of the types a flag may have
        return _WANTED_VALUE if path[0] == "space" and len(path) == 2 else "must be a number, text, true or false"
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return f"must be text; put {str(value).lower()} in quotes"
    if kind in _SHAPES:
        return f"must be {_SHAPES[kind]}" + ("" if isinstance(value, (dict, list)) else f", not {_shown(value)}")
    text = detail["msg"].removeprefix("Value error, ")
    text = text.replace("Input should be", "must be").replace("String should", "must").replace("List should", "must")
    text = text.replace("Dictionary should", "must")
    shown = f", not {_shown(value)}" if isinstance(value, (int, float, str)) and kind != "value_error" else ""
    return f"{text[0].lower()}{text[1:]}{shown}"


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}..."


def _at(data: Any, path: Path_) -> Any:
    for step in path:
        data = data[step]
    return data


def _known(loc: tuple[int | str, ...], mapping: Any) -> list[str]:
    """Keys that may stand beside an unknown one: those of its kind, or all kinds when it tells none."""
    for kinds in _KINDS:
        if len(loc) > 1 and loc[-2] in kinds and loc[-2] not in mapping:
            return list(kinds)
    return _siblings(loc)


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """Keys the schema knows at the place of an unknown one; found by walking the models along the location."""
    models: list[type[BaseModel]] = [schema.SpaceFile]
    for step in loc[:-1]:
        reached = [m for model in models for m in _models_below(model, step)]
        models = reached or models
    return [name for model in models for name in model.model_fields]


_TAGS: dict[int | str, type[BaseModel]] = {
    "values": numeric.ValuesSpec,
    "int": numeric.IntSpec,
    "float": numeric.FloatSpec,
    "choice": schema.ChoiceSpec,
    "uniform": schema.Uniform,
    "lognormal": schema.Lognormal,
}


def _models_below(model: type[BaseModel], step: int | str) -> list[type[BaseModel]]:
    if isinstance(step, int):
        return [model]
    if step in model.model_fields:
        return _models_in(model.model_fields[step].annotation)
    return [_TAGS[step]] if step in _TAGS else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]
