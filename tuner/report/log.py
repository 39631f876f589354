"""A running search as JSON lines on stderr, for log collectors: one short stable event name and its fields."""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from typing import Any, TextIO

import structlog

from tuner.space.config import ServingConfig
from tuner.study.events import Event


class JsonLog:
    """Logs every event of a search. `TrialEnded` becomes `trial.ended`, with the fields of the event."""

    def __init__(self, stream: TextIO, **context: Any) -> None:
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        render = structlog.processors.JSONRenderer(sort_keys=True)
        self._log = structlog.wrap_logger(structlog.WriteLogger(stream), processors=[stamp, render], **context)

    def __call__(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", ".", type(event).__name__).lower()
        fields = {f.name: _plain(getattr(event, f.name)) for f in dataclasses.fields(event)}
        with suppress(BrokenPipeError):  # a search outlives whoever read its progress
            self._log.msg(name, **fields)


def _plain(value: Any) -> Any:
    if isinstance(value, ServingConfig):
        return value.as_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value
