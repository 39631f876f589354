"""Pydantic's findings as problems of the file: where, what, and the nearest right name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tuner.errors import Problem
from tuner.space import schema
from tuner.space.document import Document, Path_
from tuner.space.nearest import did_you_mean

_LATER = {
    ("workload", "prompts", "file"): "your own prompts are not supported yet; use {corpus: builtin}",
    ("workload", "prompts", "trace"): "traces are not supported yet; use {corpus: builtin}",
}
_BOOL_WORDS = {"yes", "no", "on", "off", "y", "n"}


def problems_of(error: ValidationError, document: Document) -> list[Problem]:
    """One problem per place: a value that fits none of several types is told once."""
    problems: list[Problem] = []
    seen: set[Path_] = set()
    for detail in error.errors(include_url=False):
        path = _real_path(detail["loc"], document.data)
        if path in seen:
            continue
        seen.add(path)
        problems.append(document.problem(path, _message(detail, path), key=_is_key(detail)))
    return problems


def _is_key(detail: ErrorDetails) -> bool:
    return detail["type"] == "extra_forbidden" or "[key]" in detail["loc"]


def _real_path(loc: tuple[int | str, ...], data: Any) -> Path_:
    """Drop the union tags pydantic puts between keys: keep what the document really holds."""
    path: list[int | str] = []
    here = data
    for step in loc:
        if _has(here, step):
            here = here[step]
        elif step is not loc[-1] or step == "[key]" or not isinstance(here, dict):
            continue
        else:
            here = None  # a missing key: keep its name for the message
        path.append(step)
    return tuple(path)


def _has(here: Any, step: int | str) -> bool:
    if isinstance(here, list):
        return isinstance(step, int) and step < len(here)
    return isinstance(here, dict) and step in here


def _message(detail: ErrorDetails, path: Path_) -> str:
    kind = detail["type"]
    value = detail.get("input")
    if path in _LATER:
        return _LATER[path]
    if kind == "extra_forbidden":
        known = _siblings(detail["loc"])
        return f"unknown key{did_you_mean(str(path[-1]), known)}"
    if kind == "missing":
        return "is missing"
    if isinstance(value, str) and value.lower() in _BOOL_WORDS and "bool" in kind:
        return f"`{value}` is text in YAML 1.2; write true or false"
    if len(path) >= 2 and path[0] == "space" and "bool_type" in kind:
        return "must be a value, {values: [...]}, {int: [a, b]}, {float: [a, b], step: s}, {choice: {...}} or ${...}"
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.replace("Input should be", "must be").replace("String should", "must").replace("Dictionary", "it")
    shown = f", not {value!r}" if isinstance(value, (int, float, str, bool)) and len(str(value)) < 60 else ""
    return f"{text[0].lower()}{text[1:]}{shown}" if not text.startswith("`") else text


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """Keys the schema knows at the place of an unknown one; found by walking the models along the location."""
    models: list[type[BaseModel]] = [schema.SpaceFile]
    for step in loc[:-1]:
        reached = [m for model in models for m in _models_below(model, step)]
        models = reached or models
    return [name for model in models for name in model.model_fields]


_TAGS: dict[int | str, type[BaseModel]] = {
    "values": schema.ValuesSpec,
    "int": schema.IntSpec,
    "float": schema.FloatSpec,
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
