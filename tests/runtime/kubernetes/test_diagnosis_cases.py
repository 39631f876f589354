"""What no sample shows: inventories, autoscalers, queues, registries that are busy, mounts, and lost nodes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.cluster_objects import (
    T0,
    a_condition,
    a_job,
    a_node,
    a_pod,
    an_event,
    at_s,
    terminated,
    unschedulable,
)

from tuner.runtime.kubernetes.diagnosis import diagnose
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot, Verdict

EXPECTED = Expectation("mi355x", "amd.com/gpu", 8)
PROVEN = replace(EXPECTED, proven=True)
BUSY = "0/1 nodes are available: 1 Insufficient amd.com/gpu. preemption: 1 No preemption victims found."
NEVER = "0/1 nodes are available: 1 Insufficient amd.com/gpu. preemption: 1 Preemption is not helpful for scheduling."


def verdict(
    pod: Any = None,
    *,
    job: Any = None,
    events: Any = (),
    nodes: Any = None,
    after_s: float = 90,
    expected: Expectation = EXPECTED,
) -> Verdict:
    return diagnose(Snapshot(job or a_job(), pod, events, nodes, T0 + timedelta(seconds=after_s)), expected)


def pending(message: str = NEVER, **fields: Any) -> dict[str, Any]:
    return a_pod(node="", conditions=[unschedulable(message)], **fields)


def waits(reason: str, message: str = "", **fields: Any) -> dict[str, Any]:
    return a_pod({"waiting": {"reason": reason, "message": message}}, **fields)


# --- nodes

TAINT = {"key": "gpu", "value": "amd", "effect": "NoSchedule"}
DRAINED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("nodes", "kind", "said"),
    [
        pytest.param([], "unusable", "none of 0 nodes advertises amd.com/gpu", id="no nodes"),
        pytest.param([a_node(gpus=0)], "unusable", "none of 1 nodes advertises amd.com/gpu", id="no GPUs"),
        pytest.param([a_node(gpus=4)], "unusable", "1 with 4 of the 8 amd.com/gpu asked for", id="small node"),
        pytest.param([a_node(taints=[TAINT])], "unusable", "with taint gpu=amd:NoSchedule", id="taint"),
        pytest.param([a_node()], "waiting", "waiting for a free node (1 could hold it)", id="taken"),
        pytest.param([a_node(cordoned=True)], "waiting", "come back: 1 cordoned", id="cordoned"),
        pytest.param([a_node(taints=[DRAINED])], "waiting", "come back: 1 with taint node.kub", id="drained"),
        pytest.param([a_node(ready="Unknown")], "waiting", "come back: 1 not ready", id="not ready"),
        pytest.param([a_node(healthy=7)], "waiting", "come back: 1 with 7 healthy of the 8", id="broken GPU"),
        pytest.param([a_node(cordoned=True), a_node("b")], "waiting", "(1 could hold it)", id="another is up"),
    ],
)
def test_the_nodes_decide_whether_a_pod_ever_fits(nodes, kind, said):
    found = verdict(pending(), nodes=nodes)

    assert found.kind == kind
    assert said in (found.message or found.stage)


def test_the_schedulers_words_do_not_decide_when_nodes_may_be_read():
    assert verdict(pending(NEVER), nodes=[a_node()]).kind == "waiting"
    assert verdict(pending(BUSY), nodes=[a_node(gpus=4)]).kind == "unusable"


def test_a_node_may_take_its_time_to_come_back_but_not_for_ever():
    found = verdict(pending(), nodes=[a_node(cordoned=True)], after_s=2000)

    assert (found.kind, found.failure_kind) == ("infrastructure", "nodes_not_ready")
    assert "uncordon" in found.message


def test_without_permission_the_schedulers_words_decide_and_it_is_said():
    busy, never = verdict(pending(BUSY)), verdict(pending(NEVER))

    assert (busy.kind, never.kind) == ("waiting", "unusable")
    assert "nodes may not be read" in busy.stage
    assert "nodes may not be read" in never.message


def test_without_permission_a_cordoned_node_is_waited_for():
    text = "0/1 nodes are available: 1 node(s) were unschedulable. preemption: 1 Preemption is not helpful."

    assert verdict(pending(text), after_s=900).kind == "waiting"


def test_a_trial_too_large_for_the_nodes_leaves_smaller_ones_their_chance():
    small = replace(EXPECTED, smallest_gpus=4)
    found = verdict(pending(), nodes=[a_node(gpus=4)], expected=small)

    assert (found.kind, found.failure_kind, found.retry_elsewhere) == ("infrastructure", "no_such_node", False)


def test_once_a_trial_has_run_a_missing_node_is_an_outage_not_a_mistake():
    assert verdict(pending(), nodes=[], expected=PROVEN).kind == "infrastructure"


def test_never_is_not_said_in_the_first_seconds():
    assert verdict(pending(), nodes=[], after_s=10).kind == "waiting"


@pytest.mark.parametrize("condition", [[], [a_condition("PodScheduled", "False", "SchedulingGated")]])
def test_a_pod_the_scheduler_has_not_spoken_of_waits(condition):
    assert verdict(a_pod(node="", conditions=condition), after_s=9000).kind == "waiting"


# --- autoscaler

SCALED = replace(EXPECTED, autoscale_wait_s=900)
UP = an_event("TriggeredScaleUp", "pod triggered scale-up: [{gpu 0->1 (max: 4)}]", 20)
NO = an_event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 node(s) didn't match node selector", 20)
FULL = an_event("NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", 20)


@pytest.mark.parametrize(
    ("events", "expected", "after_s", "kind", "said"),
    [
        pytest.param([], SCALED, 300, "waiting", "autoscaler to add a node", id="says nothing yet"),
        pytest.param([UP], SCALED, 600, "waiting", "triggered scale-up", id="scales up"),
        pytest.param([UP], SCALED, 901, "infrastructure", "no node came in 900 s", id="no node in time"),
        pytest.param([UP], EXPECTED, 600, "waiting", "triggered scale-up", id="scales though not said"),
        pytest.param([NO], SCALED, 60, "waiting", "didn't trigger", id="a first no"),
        pytest.param([NO], SCALED, 180, "unusable", "no node group for a trial", id="no group"),
        pytest.param([NO], replace(SCALED, proven=True), 180, "infrastructure", "no node group", id="group gone"),
        pytest.param([FULL], SCALED, 600, "waiting", "max node group size", id="group full"),
        pytest.param([NO, UP], SCALED, 180, "waiting", "triggered scale-up", id="yes after a no"),
    ],
)
@pytest.mark.parametrize("nodes", [[], None, [a_node(cordoned=True)]])
def test_an_autoscaled_pool_waits_as_long_as_it_may(events, expected, after_s, kind, said, nodes):
    found = verdict(pending(), events=events, nodes=nodes, expected=expected, after_s=after_s)
    if nodes and kind != "waiting":  # a node that comes back is waited for longer than the autoscaler
        assert found.kind == "waiting"
    else:
        assert (found.kind, said in (found.message or found.stage)) == (kind, True)


# --- before there is a pod


def test_a_queued_job_waits_and_is_not_charged():
    found = verdict(
        job=a_job([a_condition("Suspended", "True", "JobSuspended")], suspend=True),
        events=[an_event("CreatedWorkload", "Created Workload: ns/job-x")],
        expected=replace(EXPECTED, queue="gpu-queue"),
        after_s=7200,
    )

    assert (found.kind, found.stage, found.seconds_queued) == ("waiting", "queued by Kueue in gpu-queue", 7200)


def test_a_queue_that_does_not_take_the_job_up_is_named():
    found = verdict(job=a_job(suspend=True), expected=replace(EXPECTED, queue="typo"), after_s=120)

    assert found.kind == "waiting"
    assert "LocalQueue typo" in found.stage


GPUS = "requests.amd.com/gpu"
REFUSED = 'Error creating: pods "x" is forbidden: '


@pytest.mark.parametrize(
    ("message", "kind", "failure_kind"),
    [
        (f"exceeded quota: q, requested: {GPUS}=8, used: {GPUS}=8, limited: {GPUS}=8", "waiting", ""),
        (f"exceeded quota: q, requested: {GPUS}=8, used: {GPUS}=0, limited: {GPUS}=4", "unusable", "quota"),
        ("exceeded quota: q, requested: memory=2Ti,pods=1, used: memory=0,pods=0, limited: memory=1Ti,pods=9",
         "unusable", "quota"),
        ("failed quota: q: must specify limits.memory for: trial", "unusable", "quota"),
        ("maximum memory usage per Container is 1Ti, but limit is 2Ti", "unusable", "limit_range"),
        ('violates PodSecurity "restricted:latest": hostIPC', "unusable", "pod_security"),
        ("no PriorityClass with name high was found", "unusable", "priority_class"),
        ('admission webhook "p.example" denied the request: no hostPath', "unusable", "policy"),
        ('Internal error occurred: failed calling webhook "p.example": connection refused', "waiting", ""),
        ("something new", "unusable", "pod_refused"),
    ],
)  # fmt: skip
def test_a_refused_pod_ends_at_once_with_the_reason(message, kind, failure_kind):
    found = verdict(events=[an_event("FailedCreate", REFUSED + message)], after_s=3)

    assert (found.kind, found.failure_kind) == (kind, failure_kind)
    assert message.split(":")[0] in (found.message or found.stage)


def test_a_pod_that_never_comes_is_given_up():
    assert verdict(after_s=60).kind == "waiting"
    assert verdict(after_s=700).failure_kind == "no_pod"


@pytest.mark.parametrize(("reason", "kind"), [("BackoffLimitExceeded", "pod_gone"), ("DeadlineExceeded", "deadline")])
def test_a_failed_job_without_its_pod_has_lost_the_result(reason, kind):
    found = verdict(job=a_job([a_condition("Failed", "True", reason)]))

    assert (found.kind, found.failure_kind) == ("infrastructure", kind)


# --- images

MISSING = 'failed to resolve reference "reg/engine:1": reg/engine:1: not found'
DENIED = "pull access denied, repository does not exist or may require authorization"
THROTTLED = "unexpected status from HEAD request to https://reg/v2/engine: 429 Too Many Requests"
DOWN = "received unexpected HTTP status: 503 Service Unavailable"
UNKNOWN_HOST = "dial tcp: lookup reg: no such host"


@pytest.mark.parametrize(
    ("message", "after_s", "kind"),
    [
        (MISSING, 3, "unusable"),
        (DENIED, 3, "unusable"),
        (THROTTLED, 600, "waiting"),
        (THROTTLED, 1000, "infrastructure"),
        (DOWN, 600, "waiting"),
        (UNKNOWN_HOST, 20, "waiting"),
        (UNKNOWN_HOST, 60, "unusable"),
        ("no space left on device", 60, "waiting"),
    ],
)
@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff"])
def test_an_image_that_cannot_exist_ends_at_once_and_a_busy_registry_is_given_time(message, after_s, kind, reason):
    assert verdict(waits(reason, message), after_s=after_s).kind == kind


def test_a_missing_image_names_image_pool_and_cause():
    found = verdict(
        waits("ImagePullBackOff", 'Back-off pulling image "engine:1"'),
        events=[
            an_event("Failed", f'Failed to pull image "engine:1": {MISSING}', 4),
            an_event("Failed", "Error: ErrImagePull", 5),
            an_event("FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (regcred)", 3),
        ],
    )

    assert "image engine:1 cannot be pulled - pool mi355x" in found.message
    assert "regcred" in found.message


def test_an_image_name_is_not_taken_for_the_cause():
    image = "reg/not-found-denied:1"
    pod = waits(
        "ErrImagePull", f'Head "https://reg": failed to pull "{image}": i/o timeout', container={"image": image}
    )

    assert verdict(pod, after_s=20).kind == "waiting"


def test_an_image_of_the_configuration_does_not_end_the_search():
    found = verdict(waits("ErrImagePull", MISSING), expected=replace(EXPECTED, own_image=True))

    assert (found.kind, found.failure_kind) == ("infrastructure", "image_pull")


# --- volumes and containers


@pytest.mark.parametrize(
    ("reason", "message", "after_s", "kind", "said"),
    [
        ("FailedMount", 'secret "hf" not found', 5, "waiting", "mounting"),
        ("FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "hf" not found', 30, "unusable", "secret hf"),
        ("FailedMount", 'configmap "prompts" not found', 30, "unusable", "configmap prompts"),
        ("FailedMount", 'persistentvolumeclaim "w" not found', 30, "unusable", "persistentvolumeclaim w"),
        ("FailedMount", "references non-existent secret key: token", 30, "unusable", "a key is missing"),
        ("FailedMount", "hostPath type check failed: /models is not a directory", 30, "infrastructure", "gpu-0"),
        ("FailedMount", "mount.nfs: Connection timed out", 60, "waiting", "mounting"),
        ("FailedAttachVolume", "Multi-Attach error for volume", 700, "infrastructure", "Multi-Attach"),
        ("FailedCreatePodSandBox", "failed to set up sandbox network", 700, "infrastructure", "sandbox"),
    ],
)
def test_a_volume_that_is_missing_ends_in_seconds_and_a_slow_one_is_given_time(reason, message, after_s, kind, said):
    found = verdict(waits("ContainerCreating"), events=[an_event(reason, message, 2)], after_s=after_s)

    assert found.kind == kind
    assert said in (found.message or found.stage)


def test_a_mount_that_succeeded_in_the_end_is_forgotten():
    events = [an_event("FailedMount", 'secret "hf" not found', 2), an_event("Pulling", "Pulling image", 30)]

    assert verdict(waits("PodInitializing"), events=events).stage == "Pulling image"


def test_a_large_image_may_take_long_but_not_for_ever():
    pulling = [an_event("Pulling", 'Pulling image "engine:1"', 2)]

    assert verdict(waits("ContainerCreating"), events=pulling, after_s=3000).kind == "waiting"
    assert verdict(waits("ContainerCreating"), events=pulling, after_s=4000).failure_kind == "start"


def test_containers_that_never_start_are_given_up():
    assert verdict(waits("ContainerCreating"), after_s=300).stage == "creating its containers"
    assert verdict(waits("ContainerCreating"), after_s=700).failure_kind == "start"


@pytest.mark.parametrize(
    ("reason", "message", "kind", "failure_kind"),
    [
        ("CreateContainerConfigError", "couldn't find key token in Secret ns/hf", "unusable", "container_config"),
        ("CreateContainerError", "context deadline exceeded", "infrastructure", "container_create"),
        ("RunContainerError", "device not found", "infrastructure", "container_create"),
    ],
)
def test_a_container_that_cannot_be_made(reason, message, kind, failure_kind):
    found = verdict(waits(reason, message), after_s=30)

    assert (found.kind, found.failure_kind) == (kind, failure_kind)
    assert message in found.message


def test_an_unbound_claim_is_given_time_to_be_provisioned():
    pod = pending("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")

    assert verdict(pod, nodes=[a_node()], after_s=100).kind == "waiting"
    assert verdict(pod, nodes=[a_node()], after_s=400).failure_kind == "volume_unbound"


# --- the end


def ended(state: Any, phase: str = "Failed", **fields: Any) -> dict[str, Any]:
    return a_pod(state, phase=phase, **fields)


def init(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    end = {"exitCode": code, "reason": reason, "message": message}
    return {"initContainerStatuses": [{"name": "tuner", "state": {"terminated": end}}]}


@pytest.mark.parametrize(
    ("pod", "kind", "failure_kind", "otherwise"),
    [
        pytest.param(ended(terminated(137, "OOMKilled")), "finished", "host_oom", "configuration", id="OOM"),
        pytest.param(
            ended(terminated(0, "OOMKilled"), "Succeeded"), "finished", "host_oom", "configuration", id="child OOM"
        ),
        pytest.param(ended(terminated(75)), "finished", "interrupted", "infrastructure", id="SIGTERM"),
        pytest.param(ended(terminated(143)), "finished", "interrupted", "infrastructure", id="SIGTERM unhandled"),
        pytest.param(ended(terminated(137)), "finished", "killed", "infrastructure", id="SIGKILL"),
        pytest.param(
            ended(terminated(137, "ContainerStatusUnknown")), "finished", "node_lost", "infrastructure", id="unknown"
        ),
        pytest.param(ended(terminated(1)), "finished", "runner_died", "infrastructure", id="runner died late"),
        pytest.param(
            ended(terminated(1, ran_s=2)), "finished", "runner_not_started", "unusable", id="runner never came up"
        ),
        pytest.param(
            ended(terminated(1, message='{"tuner_result":1,"crc32":"0', ran_s=2)),
            "finished", "runner_died", "infrastructure", id="spoke",
        ),
        pytest.param(
            ended({}, status=init(1, message="No space left on device")), "infrastructure", "init_failed", None,
            id="init container",
        ),
        pytest.param(
            ended({}, status={"reason": "OutOfamd.com/gpu"}), "infrastructure", "admission_refused", None, id="OutOfgpu"
        ),
        pytest.param(
            ended({}, status={"reason": "UnexpectedAdmissionError"}), "infrastructure", "admission_refused", None,
            id="device plugin",
        ),
        pytest.param(
            ended(terminated(75), status={"reason": "Terminated", "message": "imminent node shutdown"}),
            "finished", "node_shutdown", "infrastructure", id="node shutdown",
        ),
        pytest.param(
            ended(terminated(75), status={"reason": "Evicted", "message": "low on resource: memory"}),
            "finished", "evicted", "infrastructure", id="node pressure",
        ),
        pytest.param(
            ended(terminated(75), conditions=[a_condition("DisruptionTarget", "True", "DeletionByTaintManager")]),
            "finished", "node_lost", "infrastructure", id="taint",
        ),
        pytest.param(
            ended(terminated(75), conditions=[a_condition("DisruptionTarget", "True", "SomethingNew")]),
            "finished", "disrupted", "infrastructure", id="new disruption",
        ),
        pytest.param(ended({}), "infrastructure", "pod_failed", None, id="nothing said"),
    ],
)  # fmt: skip
def test_a_pod_that_ended_says_what_to_conclude_without_a_result(pod, kind, failure_kind, otherwise):
    found = verdict(pod, after_s=2000)

    assert (found.kind, found.failure_kind, found.otherwise) == (kind, failure_kind, otherwise)


NO_PYTHON = 'runc create failed: exec: "python3": executable file not found in $PATH'


@pytest.mark.parametrize(
    ("message", "expected", "kind", "failure_kind"),
    [
        (NO_PYTHON, EXPECTED, "unusable", "bad_command"),
        (NO_PYTHON, replace(EXPECTED, own_image=True), "configuration", "bad_command"),
        (NO_PYTHON, PROVEN, "infrastructure", "bad_command"),
        ("nvidia-container-cli: device error: unknown device", EXPECTED, "infrastructure", "start_error"),
    ],
)
def test_a_program_that_cannot_be_started_is_the_images_fault_and_a_device_is_the_nodes(
    message, expected, kind, failure_kind
):
    end = {"exitCode": 128, "reason": "StartError", "message": message, "startedAt": "1970-01-01T00:00:00Z"}
    found = verdict(ended({"terminated": end}), expected=expected)

    assert (found.kind, found.failure_kind) == (kind, failure_kind)
    assert message in found.message


def test_the_pods_reason_comes_before_its_disruption_and_that_before_the_exit_code():
    disrupted = [a_condition("DisruptionTarget", "True", "PreemptionByScheduler")]

    assert verdict(ended(terminated(137), conditions=disrupted)).failure_kind == "preempted"
    found = verdict(ended(terminated(137), conditions=disrupted, status={"reason": "Evicted"}))
    assert found.failure_kind == "evicted"


def test_a_runner_that_cannot_start_quotes_its_log():
    words = "Traceback\n/lib/libc.so.6: version `GLIBC_2.34' not found\n"
    found = verdict(ended(terminated(1, message=words, ran_s=2)))

    assert (found.failure_kind, found.otherwise) == ("runner_not_started", "unusable")
    assert "exit 1: /lib/libc.so.6: version `GLIBC_2.34' not found" in found.message


def test_without_permission_another_trials_node_is_waited_for():
    text = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. 1 Preemption is not helpful."

    assert verdict(pending(text), after_s=900).kind == "waiting"


def test_a_side_car_that_goes_on_does_not_hide_the_end():
    pod = a_pod(terminated(0, "Completed", ran_s=600), phase="Running")

    assert verdict(pod, after_s=662).kind == "running"
    assert verdict(pod, after_s=700).kind == "finished"


# --- lost nodes

RUNNING = {"running": {"startedAt": at_s(40)}}


@pytest.mark.parametrize("ready", ["Unknown", "False"])
def test_a_silent_node_is_given_a_minute(ready):
    node = a_node(ready=ready, since_s=600)
    pod = a_pod(RUNNING, phase="Running")

    assert verdict(pod, nodes=[node], after_s=650).stage == "node gpu-0 has not answered for 50 s"
    assert verdict(pod, nodes=[node], after_s=670).failure_kind == "node_lost"


def test_without_permission_the_pods_own_ready_condition_tells_of_a_silent_node():
    conditions = [a_condition("Ready", "False", since_s=600), a_condition("ContainersReady", "True")]
    pod = a_pod(RUNNING, phase="Running", conditions=conditions)

    assert verdict(pod, after_s=630).kind == "running"
    assert verdict(pod, after_s=670).failure_kind == "node_lost"


def test_a_node_that_was_removed_is_lost():
    conditions = [a_condition("Ready", "False", since_s=600), a_condition("ContainersReady", "True")]
    pod = a_pod(RUNNING, phase="Running", conditions=conditions)

    assert verdict(pod, nodes=[a_node("other")], after_s=670).failure_kind == "node_lost"
    assert verdict(a_pod(RUNNING, phase="Running"), nodes=[a_node("other")], after_s=670).kind == "running"


def test_a_pod_that_does_not_end_when_told_to_is_lost():
    pod = a_pod(RUNNING, phase="Running", metadata={"deletionTimestamp": at_s(700)})

    assert verdict(pod, nodes=[a_node()], after_s=740).stage == "being ended: it was deleted"
    assert verdict(pod, nodes=[a_node()], after_s=800).failure_kind == "node_lost"


def test_a_job_that_is_failing_shows_while_its_pod_still_runs():
    job = a_job([a_condition("FailureTarget", "True", "DeadlineExceeded")])

    assert verdict(a_pod(RUNNING, phase="Running"), job=job).stage == "being ended: DeadlineExceeded"


def test_a_container_that_was_started_again_is_not_believed():
    found = verdict(a_pod(RUNNING, phase="Running", container={"restartCount": 2}))

    assert (found.kind, found.failure_kind) == ("infrastructure", "restarted")


def test_queue_wait_is_told_apart():
    assert verdict(a_pod(RUNNING, phase="Running"), after_s=900).seconds_queued == 40
    assert verdict(pending(BUSY), after_s=900).seconds_queued == 900
