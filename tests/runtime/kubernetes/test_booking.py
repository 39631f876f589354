"""What a pod adds to a result: held time without the queue, node, digest, and when a digest is another one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support.trials import a_spec

from tuner.runtime.kubernetes.booking import Pins, booked, digest_of, held_s
from tuner.runtime.kubernetes.ending import result_of
from tuner.runtime.kubernetes.verdict import Verdict
from tuner.trial.result import TrialResult

NOW = datetime(2026, 11, 22, 12, 10, 0, tzinfo=UTC)
SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-22T12:05:00Z"}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-11-22T12:00:00Z"}


def a_pod(*, node="node-1", conditions=(SCHEDULED,), state=None, image_id="repo/engine@sha256:aa"):
    status = {
        "name": "trial",
        "imageID": image_id,
        "state": state or {"running": {"startedAt": "2026-11-22T12:06:00Z"}},
    }
    other = {"name": "a-side-car", "imageID": "sha256:other", "state": {}}
    return {
        "metadata": {"creationTimestamp": "2026-11-22T12:00:00Z"},
        "spec": {"nodeName": node},
        "status": {"conditions": list(conditions), "containerStatuses": [other, status]},
    }


ENDED = {"terminated": {"startedAt": "2026-11-22T12:06:00Z", "finishedAt": "2026-11-22T12:07:30Z"}}


@pytest.mark.parametrize(
    ("pod", "expected_s"),
    [
        (a_pod(state=ENDED), 150.0),  # from its node's choice; the five minutes in the queue are free
        (a_pod(), 300.0),
        (a_pod(node="", conditions=(UNSCHEDULED,)), 0.0),
        (a_pod(conditions=()), 0.0),
        (None, 0.0),
    ],
)
def test_gpus_are_charged_from_the_choice_of_a_node_to_the_containers_end(pod, expected_s):
    assert held_s(pod, NOW) == expected_s


def test_the_longer_of_the_runners_own_time_and_the_pods_is_booked():
    spec = a_spec(gpus=8)
    assert booked(TrialResult("t", "measured", gpu_seconds=10.0), spec, a_pod(state=ENDED), NOW).gpu_seconds == 1200.0
    assert booked(TrialResult("t", "measured", gpu_seconds=9999.0), spec, a_pod(state=ENDED), NOW).gpu_seconds == 9999.0
    found = booked(TrialResult("t", "measured", node="own"), spec, a_pod(state=ENDED), NOW)
    assert (found.node, found.image_digest) == ("node-1", "sha256:aa")
    assert booked(TrialResult("t", "measured", node="own"), spec, None, NOW).node == "own"


@pytest.mark.parametrize(
    ("image_id", "digest"),
    [
        ("repo/engine@sha256:aa", "sha256:aa"),
        ("docker-pullable://repo/engine@sha256:bb", "sha256:bb"),
        ("sha256:cc", "sha256:cc"),
        ("docker://sha256:dd", "sha256:dd"),
        ("", ""),
        ("repo/engine:1", ""),
    ],
)
def test_the_digest_is_read_from_every_spelling_of_it(image_id, digest):
    assert digest_of(a_pod(image_id=image_id)) == digest


def test_the_first_digest_of_an_image_pins_it():
    pins = Pins()
    assert pins.differs("engine:1", a_pod(image_id="")) == ""
    assert pins.differs("engine:1", a_pod(image_id="sha256:aa")) == ""
    assert pins.differs("engine:2", a_pod(image_id="sha256:bb")) == ""
    assert "node-1 runs another image under the same tag" in pins.differs("engine:1", a_pod(image_id="sha256:bb"))
    assert pins.differs("engine:1", a_pod(image_id="sha256:aa")) == ""


def test_without_a_document_of_its_own_the_verdict_is_the_failure_and_keeps_what_the_image_printed():
    verdict = Verdict("finished", "ended", "host_oom", "the limit was hit", otherwise="configuration")
    result, ran = result_of(a_spec(), verdict, a_pod(state=ENDED), "no such library\ntuner-record 1 garbled", NOW)
    assert (result.state, result.failure.failure_class, result.failure.kind) == ("failed", "configuration", "host_oom")
    assert not ran
    assert result.failure.log_tail == "no such library"
    lost, _ = result_of(a_spec(), Verdict("infrastructure", "lost", "evicted", "why"), None, None, NOW)
    assert (lost.failure.failure_class, lost.gpu_seconds) == ("infrastructure", 0.0)
