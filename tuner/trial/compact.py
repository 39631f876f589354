"""A result in about 2 KiB of ASCII, for a termination message: verdict and figures first, evidence as far as it fits.

A kubelet keeps the last 4096 bytes of a message, shares 12 KiB among all containers of a pod, and writes texts of its
own there: the reader believes only what is whole and checks. `compact` and `read_compact` are pure; `MessageFile`
writes in place. Python 3.10, standard library.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tuner.probe.measurement import Level
from tuner.trial.records import finite
from tuner.trial.result import Failure, TrialResult

SIZE_BYTES = 2048
# Full figures are in the records; of a message six digits are enough.
_DIGITS = 6
_MESSAGE_CHARS = 600
_TEXT_CHARS = 120
_EFFECTIVE = ("fingerprint", "version", "max_total_num_tokens", "max_running_requests_per_scheduler")

# What is left when even that is too long: what an external command has to tell.
_VERDICT = frozenset(
    [
        "id",
        "state",
        "capacity_req_per_s",
        "ttft_p95_s",
        "output_tokens_per_s",
        "bound_req_per_s",
        "failure",
        "simulated",
    ]
)

_HEAD = re.compile(r'\{"tuner_result":1,"crc32":"([0-9a-f]{8})","result":')


def compact(result: TrialResult, size_bytes: int = SIZE_BYTES) -> str:
    """The result in at most `size_bytes` of ASCII.

    State, figures and failure always; levels from the last one back, then the end of the failure's log, while there
    is room.
    """
    document = _essentials(result)
    text = _wrapped(document)
    for shorter in (300, 120, 0):
        if len(text) <= size_bytes:
            break
        text = _wrapped(_with_message(document, shorter))
    document = _levels(result, document, size_bytes) if len(text) <= size_bytes else document
    text = _with_tail(result, document, size_bytes) or text
    return text if len(text) <= size_bytes else _wrapped({k: v for k, v in document.items() if k in _VERDICT})


def read_compact(text: str) -> TrialResult | None:
    """The result a message holds, or None: not ours, cut, or damaged.

    Text after it is ignored: a writer that was killed between its two steps leaves the end of the message before.
    """
    head = _HEAD.search(text)
    if head is None:
        return None
    try:
        document, end = json.JSONDecoder().raw_decode(text, head.end())
    except ValueError:
        return None
    if f"{zlib.crc32(text[head.end() : end].encode()):08x}" != head[1]:
        return None
    try:
        return TrialResult.from_json(_unfolded(document))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _wrapped(document: Mapping[str, Any]) -> str:
    inner = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return f'{{"tuner_result":1,"crc32":"{zlib.crc32(inner.encode()):08x}","result":{inner}}}'


def _essentials(result: TrialResult) -> dict[str, Any]:
    document = {
        **result.as_json(),
        "levels": len(result.levels),
        "effective": {name: result.effective[name] for name in _EFFECTIVE if name in result.effective},
        "failure": _short_failure(result.failure, _MESSAGE_CHARS),
        "client": {k: v for k, v in result.client.items() if isinstance(v, (int, float))},
        "node": result.node[:_TEXT_CHARS],
    }
    return {key: value for key, value in finite(_rounded(document)).items() if not _is_nothing(value)}


def _is_nothing(value: Any) -> bool:
    """What the reader assumes anyway; a figure of 0 says something."""
    return value is None or value is False or (isinstance(value, (str, dict)) and not value)


def _short_failure(failure: Failure | None, chars: int) -> dict[str, Any] | None:
    if failure is None:
        return None
    message = failure.message if len(failure.message) <= chars else f"{failure.message[:chars]}..."
    return replace(failure, message=message, log_tail="").as_json()


def _with_message(document: dict[str, Any], chars: int) -> dict[str, Any]:
    """Without the client's figures, and with a shorter message."""
    document.pop("client", None)
    if failure := document.get("failure"):
        failure["message"] = f"{failure['message'][:chars]}..."
    return document


def _levels(result: TrialResult, document: dict[str, Any], size_bytes: int) -> dict[str, Any]:
    """With as many of the last levels as fit, as rows of values; `levels` alone stays their number."""
    rows: list[list[Any]] = []
    for level in reversed(result.levels):
        row = finite(_rounded(list(asdict(level).values())))
        if len(_wrapped({**document, "rows": [row, *rows]})) > size_bytes:
            break
        rows.insert(0, row)
    return {**document, "rows": rows} if rows else document


def _with_tail(result: TrialResult, document: dict[str, Any], size_bytes: int) -> str:
    """With as much of the log's end as fits; "" if there is none."""
    tail = result.failure.log_tail if result.failure else ""
    low, high = 0, len(tail)
    best = _wrapped(document)
    while low <= high and tail:
        keep = (low + high) // 2
        failure = {**document.get("failure", {}), "log_tail": tail[len(tail) - keep :]}
        text = _wrapped({**document, "failure": failure})
        if len(text) <= size_bytes:
            best, low = text, keep + 1
        else:
            high = keep - 1
    return best if len(best) <= size_bytes else ""


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _unfolded(document: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(Level)]
    rows = document.pop("rows", [])
    document["levels"] = [dict(zip(names, row)) for row in rows]  # noqa: B905 - `from_json` refuses a wrong length
    return document


class MessageFile:
    """A message written in place: it is a mounted file that can be neither replaced nor renamed."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: it cannot be written.
        """
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, text: str) -> None:
        data = text.encode("ascii", errors="replace")
        os.pwrite(self._handle, data, 0)
        os.ftruncate(self._handle, len(data))
