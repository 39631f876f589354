"""What a trial's container left behind -> its TrialResult. Pure; knows no pod and no cluster.

Two sources, both believed only where their checksums hold: the termination message (about 2 KiB, checkpointed at every
phase) and the numbered records of the log (everything, as far as the log was kept).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tuner.probe.measurement import Level
from tuner.trial.compact import read_compact
from tuner.trial.records import Reading, read_records
from tuner.trial.result import Failure, TrialResult
from tuner.trial.spec import TrialSpec

CHECKPOINT = "interrupted"
"""The failure kind of a result that was written in case the runner were killed, or because it was told to stop."""


def harvest(
    spec: TrialSpec, *, message: str | None, log: str | None, node: str = "", image_digest: str = ""
) -> TrialResult | None:
    """The trial's own result; None if neither text carries one, or anything, of this attempt.

    A trial that was killed leaves a `failed` result of class `infrastructure` with the levels it had finished: see
    `is_checkpoint`. `node` and `image_digest` are what the cluster says; the container cannot know them.
    """
    reading = of_this_attempt(spec, read_records((log or "").splitlines()))
    result = _from_records(spec, reading) or _from_message(spec, message, reading) or _from_levels(spec, reading)
    if result is None:
        return None
    return replace(result, node=node or result.node, image_digest=image_digest or result.image_digest)


def is_checkpoint(result: TrialResult) -> bool:
    """Whether the runner did not get to its end: why not is for whoever sees the pod to say."""
    return result.failure is not None and result.failure.kind == CHECKPOINT


def of_this_attempt(spec: TrialSpec, reading: Reading) -> Reading:
    """The records, unless their first one says that they are another trial's. A rotated log has lost its first one."""
    begin = reading.last("begin")
    same = begin is None or (begin.get("id"), begin.get("attempt")) == (spec.id, spec.attempt)
    return reading if same else Reading((), ())


def _from_records(spec: TrialSpec, reading: Reading) -> TrialResult | None:
    result = _result(reading.last("result"))
    return result if result is not None and result.id == spec.id else None


def _result(document: Any) -> TrialResult | None:
    try:
        return TrialResult.from_json(document)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _from_message(spec: TrialSpec, message: str | None, reading: Reading) -> TrialResult | None:
    """The message holds as many of the last levels as had room; the log may still have them all, in full figures."""
    result = read_compact(message or "")
    if result is None or result.id != spec.id:
        return None
    levels = _levels(reading)
    return replace(result, levels=levels) if len(levels) >= len(result.levels) else result


def _from_levels(spec: TrialSpec, reading: Reading) -> TrialResult | None:
    if not reading.records:
        return None
    why = f"the runner left no result - {spec.id}: its log ends before one - the trial is repeated"
    return TrialResult(
        spec.id,
        "failed",
        failure=Failure("infrastructure", CHECKPOINT, why),
        levels=_levels(reading),
        simulated=spec.simulated,
    )


def _levels(reading: Reading) -> tuple[Level, ...]:
    return tuple(_known_levels(reading.all("level")))


def _known_levels(documents: Iterable[Mapping[str, Any]]) -> Iterable[Level]:
    for document in documents:
        try:
            yield Level(**document)
        except TypeError:  # another version's: better one level less than no result
            continue
