"""The file a workload takes its requests from, and whether the two go together. Knows the space file and no engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuner.errors import Problem
from tuner.space.document import Document
from tuner.space.schema import WorkloadSpec
from tuner.space.traffic import Traffic, TrafficError, read_traffic, resolve

_FROM_TRACE = ("input_tokens", "output_tokens", "cached_fraction", "prefix_groups")
_MISSING = "is missing"
_FROM_FILE = ("cached_fraction", "prefix_groups")

_Found = Iterator[tuple[str, str]]
"""(key of the workload, what is wrong with it)."""


def open_traffic(document: Document, workload: WorkloadSpec, folder: Path) -> tuple[Traffic | None, list[Problem]]:
    """The content of the workload's file, None without one; and every problem of it."""
    prompts = workload.prompts
    if (name := prompts.trace or prompts.file) is None:
        there = set(document.data["workload"])  # what is there and could not be read has been complained about
        if "prompts" in there - workload.model_fields_set:
            return None, []
        found = [(key, text) for key, text in _without_file(workload) if text != _MISSING or key not in there]
        return None, [document.problem(("workload", key), text) for key, text in found]
    try:
        traffic = read_traffic(
            resolve(name, folder), "trace" if prompts.trace else "file", name=name, block_tokens=prompts.block_tokens
        )
    except TrafficError as error:
        return None, [Problem(name, error.line, 1, error.message)]
    problems = _with_trace(workload, traffic) if prompts.trace else _with_file(workload, traffic)
    return traffic, [document.problem(("workload", key), text) for key, text in problems]


def _without_file(workload: WorkloadSpec) -> _Found:
    for key in ("input_tokens", "output_tokens"):
        if getattr(workload, key) is None:
            yield key, _MISSING
    if workload.arrivals == "trace":
        yield "arrivals", "trace needs `prompts: {trace: FILE}`, whose times they follow"


def _with_trace(workload: WorkloadSpec, traffic: Traffic) -> _Found:
    for key in _FROM_TRACE:
        if key in workload.model_fields_set:
            yield key, "is the trace's own; leave it out"
    yield from _times(workload, traffic)


def _with_file(workload: WorkloadSpec, traffic: Traffic) -> _Found:
    for key in _FROM_FILE:
        if key in workload.model_fields_set:
            yield key, "is that of your prompts; leave it out"
    if workload.output_tokens is None and traffic.output_tokens is None:
        yield "output_tokens", "is missing, and not every line of the prompts has `output_tokens`"
    if traffic.chat and workload.endpoint != "chat":
        yield "endpoint", "must be chat: the prompts have messages"
    yield from _times(workload, traffic)


def _times(workload: WorkloadSpec, traffic: Traffic) -> _Found:
    if workload.arrivals == "trace" and not traffic.timed:
        yield "arrivals", f"{traffic.name} has no timestamps that go on, so arrivals cannot follow them; use poisson"
