"""What holds of a diagnosis whatever is missing from the objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.runtime.kubernetes.diagnosis import diagnose
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.json"))


def snapshots() -> list[dict[str, Any]]:
    """One of each sample, so that every shape is there and none costs much."""
    return [next(iter(json.loads(path.read_text()).values())) for path in SAMPLES[::3]]


def fields(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a document as (holder, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from fields(item)


def without(document: Any, draw: Callable[..., Any]) -> Any:
    """A copy with some places emptied or missing."""
    copy = json.loads(json.dumps(document))
    places = list(fields(copy))
    for index in draw(st.lists(st.integers(0, len(places) - 1), max_size=12)):
        holder, key = places[index]
        if isinstance(holder, list):
            holder[key] = draw(st.sampled_from([None, {}]))
        elif draw(st.booleans()):
            holder.pop(key, None)
        else:
            holder[key] = draw(st.sampled_from([None, "", [], {}, 0]))
    return copy


CAPTURED = snapshots()


@st.composite
def damaged(draw):
    return without(draw(st.sampled_from(CAPTURED)), draw)


def may_have_ended(pod: Any) -> bool:
    """By the pod's own phase, or by a container that has terminated."""
    status = (pod or {}).get("status") or {}
    containers = [c for c in status.get("containerStatuses") or [] if c]
    ended = any(((c.get("state") or {}).get("terminated")) for c in containers)
    return status.get("phase") in ("Succeeded", "Failed") or ended


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    found=damaged(),
    after_s=st.integers(-100, 100_000),
    container=st.sampled_from(["trial", "server"]),
    wait_s=st.sampled_from([None, 600.0]),
    proven=st.booleans(),
)
def test_a_diagnosis_never_raises_and_never_takes_a_living_pod_for_finished(found, after_s, container, wait_s, proven):
    now = datetime.fromisoformat("2026-11-22T13:30:00Z") + timedelta(seconds=after_s)
    expected = Expectation("p", "amd.com/gpu", 8, container=container, autoscale_wait_s=wait_s, proven=proven)
    pod = found.get("pod")

    verdict = diagnose(
        Snapshot(found.get("job") or {}, pod, found.get("events") or [], found.get("nodes") or None, now), expected
    )

    assert verdict.seconds_queued >= 0
    assert (verdict.otherwise is not None) == (verdict.kind == "finished")
    if verdict.kind == "finished":
        assert may_have_ended(pod)
    if verdict.kind in ("waiting", "running"):
        assert verdict.stage
        assert not verdict.message
    else:
        assert verdict.message.count(" - ") >= 1
        assert verdict.failure_kind
    if proven:
        assert verdict.kind != "unusable"
