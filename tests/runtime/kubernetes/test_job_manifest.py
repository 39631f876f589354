"""The Job of a trial: golden files of the shipped spaces, the API's own strict models, and what every Job promises."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.targets import STUDY_UID, TUNER_IMAGE, a_target
from support.trials import a_spec

from tuner.errors import UsageError
from tuner.export.chart import chart_defaults
from tuner.export.document import dump
from tuner.launch import pod as engine_pod
from tuner.launch.spaces import open_space
from tuner.runtime.deadlines import longest_s
from tuner.runtime.kubernetes import job, names
from tuner.runtime.kubernetes.job import deadline_s, gpus_requested, job_manifest
from tuner.runtime.kubernetes.target import target_of
from tuner.space.config import ServingConfig
from tuner.space.load import seeds_of
from tuner.study.assemble import SpecMaker, Where
from tuner.trial.spec import Confirm, Deadlines, TrialSpec

GOLDEN = Path(__file__).parents[2] / "golden"
SPACES = {"mi355x": "amd-mi355x.yaml", "b200": "nvidia-b200.yaml"}


def shipped(pool):
    """The baseline of a shipped space as its first trial, and the pool it runs on."""
    space = open_space(SPACES[pool])
    (seed,) = [seed for seed in seeds_of(space) if seed.name == "baseline"]
    config = ServingConfig(pool, seed.layout, tuple(sorted(seed.values.items())))
    make = SpecMaker(space, space.name, Where(simulated=False), Deadlines())
    spec = make(config, f"{space.name}-1-{config.fingerprint}", 1, 7, None, None)
    spec = replace(spec, context={**spec.context, "study_uid": STUDY_UID})
    target = target_of(pool, space.spec.pools[pool], namespace="tuning", context=None, tuner_image=TUNER_IMAGE)
    return spec, target


def of(spec=None, **pool):
    return job_manifest(spec or a_spec(), a_target(**pool), STUDY_UID)


def pod_of(document):
    return document["spec"]["template"]["spec"]


def container_of(document):
    (container,) = pod_of(document)["containers"]
    return container


def by_name(items):
    return {item["name"]: item for item in items}


FULL = {
    "node_selector": {"gpu": "yes"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "image_pull_secrets": ["login"],
    "priority_class": "low",
    "model_cache": {"pvc": "models"},
    "compile_cache": {"host_path": "/var/cache/kernels"},
    "files": {"config_map": "prompts"},
    "queue": "night",
    "namespace": "other",
    "pod_patch": {"spec": {"hostIPC": True, "runtimeClassName": "nvidia"}},
}


@pytest.mark.parametrize("pool", SPACES)
def test_a_trial_of_the_shipped_space_is_the_golden_job(pool):
    """When it changes on purpose: UPDATE_GOLDEN=1 pytest THIS_FILE, and read the difference."""
    path = GOLDEN / f"job-{pool}.yaml"
    text = dump(job_manifest(*shipped(pool), STUDY_UID))
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.fixture(scope="module")
def strict():
    """Refuses what the API would not know or would take for another type."""
    from kubernetes.client import V1Job

    return V1Job.model_validate


@pytest.mark.parametrize("pool", SPACES)
def test_shipped_jobs_are_valid_in_the_clients_strict_models(strict, pool):
    strict(job_manifest(*shipped(pool), STUDY_UID))


@pytest.mark.parametrize("files", [{"config_map": "c"}, {"secret": "s"}, {"pvc": "p"}, {"host_path": "/h"}])
def test_a_job_with_everything_a_pool_can_say_is_valid_too(strict, files):
    spec = a_spec(context={"avoid_nodes": ["node-1", "node-2"], "study_uid": STUDY_UID})
    strict(of(spec, **{**FULL, "files": files}))


def test_the_models_are_strict(strict):
    with pytest.raises(ValueError, match="containres"):
        strict(of(pod_patch={"spec": {"containres": []}}))


# --- what every Job promises


def test_a_job_never_starts_a_second_pod_and_outlives_its_controller():
    spec = of()["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]
    assert spec["ttlSecondsAfterFinished"] == 7 * 86400
    assert spec["template"]["metadata"]["finalizers"] == [names.FINALIZER]
    assert "activeDeadlineSeconds" not in spec, "a deadline of the Job deletes the pod with its result"


def test_the_pods_deadline_is_beyond_the_runners_own_and_every_pull_we_wait_for():
    spec = a_spec(deadlines=Deadlines(100.0, 10.0, 200.0, 5.0, 50.0), confirm=Confirm(1.0, 900.0))
    assert longest_s(spec) > 100 + 10 + 900 + 5 + 50
    assert deadline_s(spec) == pod_of(of(spec))["activeDeadlineSeconds"] > longest_s(spec)


def test_the_specification_travels_in_an_annotation_and_comes_back_whole():
    spec = a_spec()
    document = of(spec)
    metadata = document["spec"]["template"]["metadata"]
    assert TrialSpec.from_json(json.loads(metadata["annotations"][names.ANNOTATION_SPEC])) == spec
    assert metadata["annotations"][names.ANNOTATION_SPEC_SHA256] == names.spec_sha256(spec)
    assert document["metadata"]["annotations"] == {names.ANNOTATION_SPEC_SHA256: names.spec_sha256(spec)}
    (item,) = by_name(pod_of(document)["volumes"])["spec"]["downwardAPI"]["items"]
    assert item["fieldRef"]["fieldPath"] == f"metadata.annotations['{names.ANNOTATION_SPEC}']"
    asked = container_of(document)["args"]
    assert asked[asked.index("--spec") + 1] == f"{job.SPEC_PATH}/{item['path']}"


def test_job_and_pod_are_found_by_study_trial_and_attempt():
    document = of(a_spec(attempt=3))
    for labels in (document["metadata"]["labels"], document["spec"]["template"]["metadata"]["labels"]):
        assert labels[names.LABEL_STUDY] == STUDY_UID
        assert names.selector(STUDY_UID) == f"{names.LABEL_STUDY}={STUDY_UID}"
        assert (labels[names.LABEL_TRIAL], labels[names.LABEL_ATTEMPT]) == (a_spec().id, "3")
        assert labels[names.LABEL_POOL] == "here"


def test_the_serving_image_is_unmodified_and_its_own_python_runs_the_runner_in_isolation():
    document = of()
    container = container_of(document)
    assert container["image"] == "registry.example/sglang:v1"
    assert container["command"] == ["python3", "-I", "-S", "-B", "/opt/sglang-tuner/bundle/launch.py"]
    mounts = by_name(container["volumeMounts"])
    assert mounts["bundle"] == {"name": "bundle", "mountPath": "/opt/sglang-tuner/bundle", "readOnly": True}
    (init,) = pod_of(document)["initContainers"]
    assert init["image"] == TUNER_IMAGE
    assert init["securityContext"]["runAsNonRoot"] is True
    assert init["volumeMounts"][0]["name"] == "bundle"


def test_the_image_of_the_trial_goes_before_the_pools():
    """A bundle of the space may bring its own image, and a tag is pinned to a digest on the way."""
    assert container_of(of(a_spec(image="other@sha256:" + "a" * 64)))["image"].startswith("other@")


def test_the_result_is_a_termination_message_the_kubelet_keeps():
    container = container_of(of())
    args = container["args"]
    assert container["terminationMessagePath"] == args[args.index("--termination-message") + 1]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert "--records" in args
    assert pod_of(of())["terminationGracePeriodSeconds"] > 25 + 5, "the runner's own time to stop and to write"


def test_no_token_no_service_variables_and_no_rights_that_are_not_needed():
    for pool in ({"accelerator": "mi355x"}, {"accelerator": "b200"}):
        pod = pod_of(of(**pool))
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert "privileged" not in json.dumps(pod)
        assert "hostIPC" not in pod


def test_security_context_and_gpus_follow_the_vendor():
    amd, nvidia = of(accelerator="mi355x"), of(accelerator="b200")
    assert pod_of(amd)["securityContext"]["seccompProfile"]["type"] == "Unconfined"
    assert container_of(amd)["securityContext"] == {"capabilities": {"add": ["SYS_PTRACE"]}}
    assert pod_of(nvidia)["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert container_of(nvidia)["securityContext"] == {"allowPrivilegeEscalation": False}
    assert "amd.com/gpu" in container_of(amd)["resources"]["limits"]
    assert "nvidia.com/gpu" in container_of(nvidia)["resources"]["limits"]


@pytest.mark.parametrize(
    ("pool", "gpus"),
    [({"exclusive": True}, 8), ({"exclusive": True, "gpus_per_node": 4}, 4), ({"exclusive": False}, 2)],
)
def test_an_exclusive_trial_holds_every_gpu_of_its_node(pool, gpus):
    spec = a_spec(gpus=2)
    resources = container_of(of(spec, **pool))["resources"]
    assert resources["requests"]["amd.com/gpu"] == resources["limits"]["amd.com/gpu"] == str(gpus)
    assert gpus_requested(spec, a_target(**pool)) == gpus
    assert resources["limits"]["memory"] == f"{256 * gpus}Gi"
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"]
    apart = pod_of(of(spec, **pool)).get("affinity", {}).get("podAntiAffinity")
    assert bool(apart) == pool["exclusive"]


def test_a_retry_prefers_another_node_and_takes_the_same_if_there_is_none():
    affinity = pod_of(of(a_spec(context={"avoid_nodes": ["a", "b"]})))["affinity"]["nodeAffinity"]
    assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [field["values"] for field in term["preference"]["matchFields"]] == [["a"], ["b"]]
    assert "nodeAffinity" not in pod_of(of(exclusive=True))["affinity"]


def test_a_trial_that_is_wanted_on_a_node_prefers_it_and_may_avoid_others_too():
    spec = a_spec(context={"avoid_nodes": ["a"], "node": "b"})
    terms = pod_of(of(spec))["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    (avoided,), (wanted,) = (term["preference"]["matchFields"] for term in terms)
    assert (avoided["operator"], avoided["values"]) == ("NotIn", ["a"])
    assert (wanted["operator"], wanted["values"]) == ("In", ["b"])


def test_the_runner_is_told_where_the_users_files_are():
    args = container_of(of(files={"config_map": "prompts"}))["args"]
    assert args[args.index("--files") + 1] == job.FILES_PATH
    assert "--files" not in container_of(of())["args"]


def test_a_queued_job_waits_suspended_for_kueue():
    document = of(queue="night")
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
    assert document["spec"]["suspend"] is True
    assert "suspend" not in of()["spec"]


def test_a_pool_says_where_its_pods_may_run_and_what_pulls_their_images():
    document = of(**FULL)
    pod = pod_of(document)
    assert document["metadata"]["namespace"] == "other"
    assert pod["nodeSelector"] == {"gpu": "yes"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert pod["imagePullSecrets"] == [{"name": "login"}]
    assert pod["priorityClassName"] == "low"
    assert (pod["hostIPC"], pod["runtimeClassName"]) == (True, "nvidia")


# --- caches and files


def test_caches_are_mounted_and_named_in_the_environment():
    document = of(model_cache={"pvc": "models"}, compile_cache={"host_path": "/var/kernels"})
    volumes, mounts = by_name(pod_of(document)["volumes"]), by_name(container_of(document)["volumeMounts"])
    assert volumes["model-cache"]["persistentVolumeClaim"] == {"claimName": "models"}
    assert mounts["model-cache"]["readOnly"] is True
    assert volumes["compile-cache"]["hostPath"] == {"path": "/var/kernels", "type": "DirectoryOrCreate"}
    env = {item["name"]: item["value"] for item in container_of(document)["env"]}
    assert env["HF_HOME"] == mounts["model-cache"]["mountPath"]
    assert env["TRITON_CACHE_DIR"].startswith(mounts["compile-cache"]["mountPath"])
    assert "env" not in container_of(of())


def test_kernels_of_another_image_or_accelerator_lie_apart():
    def folder(spec, **pool):
        document = of(spec, compile_cache={"pvc": "kernels"}, **pool)
        return by_name(container_of(document)["volumeMounts"])["compile-cache"]["subPath"]

    one, two = (a_spec(image=f"sglang@sha256:{digit * 64}") for digit in "12")
    found = [folder(one), folder(two), folder(one, accelerator="mi325x"), folder(a_spec(image="sglang:tag"))]
    assert len(set(found)) == 4
    assert folder(one) == "1" * 12 + "-mi355x"
    assert folder(replace(one, image="mirror/" + one.image)) == folder(one), "the same digest is the same image"


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ({"config_map": "c"}, {"configMap": {"name": "c"}}),
        ({"secret": "s"}, {"secret": {"secretName": "s"}}),
        ({"pvc": "p"}, {"persistentVolumeClaim": {"claimName": "p"}}),
        ({"host_path": "/h"}, {"hostPath": {"path": "/h", "type": "Directory"}}),
    ],
)
def test_the_users_files_are_mounted_read_only_wherever_they_lie(files, source):
    document = of(files=files)
    assert by_name(pod_of(document)["volumes"])["files"] == {"name": "files", **source}
    assert by_name(container_of(document)["volumeMounts"])["files"] == {
        "name": "files",
        "mountPath": job.FILES_PATH,
        "readOnly": True,
    }


def test_a_measured_pod_and_an_exported_one_agree_on_their_plumbing():
    chart = chart_defaults()
    document = of(model_cache={"pvc": "models"}, compile_cache={"pvc": "kernels"})
    mounts = by_name(container_of(document)["volumeMounts"])
    assert mounts["model-cache"]["mountPath"] == chart["modelCache"]["mountPath"]
    assert mounts["compile-cache"]["mountPath"] == chart["compileCache"]["mountPath"]
    assert dict(engine_pod.COMPILE_CACHE_FOLDERS) == chart["compileCache"]["env"]
    assert by_name(pod_of(document)["volumes"])["shm"]["emptyDir"] == {
        "medium": "Memory",
        "sizeLimit": chart["shmSize"],
    }
    requests = container_of(document)["resources"]["requests"]
    assert requests["cpu"] == chart["resources"]["cpuRequest"]
    assert requests["memory"] == chart["resources"]["memoryRequest"]


# --- what must not be


@pytest.mark.parametrize("name", ["HF_TOKEN", "API_KEY", "DB_PASSWORD"])
def test_a_secret_of_the_environment_is_in_no_job(name):
    with pytest.raises(UsageError, match=name) as refused:
        of(a_spec(env={name: "veryveryhidden"}))
    assert "veryveryhidden" not in str(refused.value)


def test_a_secret_on_the_command_line_is_in_no_job():
    with pytest.raises(UsageError, match="--api-key") as refused:
        of(a_spec("--api-key=veryveryhidden"))
    assert "veryveryhidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("patch", "what"),
    [
        ({"spec": {"restartPolicy": "OnFailure"}}, "restartPolicy"),
        ({"spec": {"containers": [{"name": "trial", "image": "mine"}]}}, "image of container trial"),
        ({"spec": {"containers": [{"name": "trial", "command": ["sleep"]}]}}, "command of container trial"),
        ({"spec": {"containers": [{"name": "trial", "args": None}]}}, "args of container trial"),
        ({"spec": {"containers": [{"name": "trial", "$patch": "delete"}]}}, "container trial"),
        ({"spec": {"initContainers": None}}, "container tuner"),
        ({"spec": {"volumes": [{"name": "bundle", "$patch": "delete"}]}}, "volume bundle"),
        ({"spec": {"volumes": [{"name": "spec", "emptyDir": {}}]}}, "volume spec"),
        (
            {
                "spec": {
                    "containers": [{"name": "trial", "volumeMounts": [{"mountPath": job.WORK_PATH, "name": "shm"}]}]
                }
            },
            "mount work of container trial",
        ),
        ({"metadata": {"finalizers": None}}, "the finalizer"),
        ({"metadata": {"labels": {names.LABEL_STUDY: "another"}}}, f"labels {names.LABEL_STUDY}"),
        ({"metadata": None}, "labels"),
    ],
)
def test_a_patch_may_not_take_away_what_the_trial_depends_on(patch, what):
    with pytest.raises(UsageError, match=r"pools\.here\.pod_patch changes") as refused:
        of(pod_patch=patch)
    assert what in str(refused.value)


def test_a_patch_covers_the_rest():
    patch = {
        "metadata": {
            "labels": {"team": "x"},
            "annotations": {"sidecar.istio.io/inject": "false"},
            "finalizers": ["mine"],
        },
        "spec": {
            "containers": [
                {
                    "name": "trial",
                    "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": None, "rdma/hca": "1"}},
                },
                {"name": "sidecar", "image": "side"},
            ],
            "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "128Gi"}}, {"name": "more", "emptyDir": {}}],
        },
    }
    document = of(pod_patch=patch)
    containers, volumes = by_name(pod_of(document)["containers"]), by_name(pod_of(document)["volumes"])
    assert set(containers) == {"trial", "sidecar"}
    assert containers["trial"]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "hub"
    assert containers["trial"]["resources"]["requests"] == {"amd.com/gpu": "8", "cpu": "1", "memory": "64Gi"}
    assert containers["trial"]["resources"]["limits"] == {"amd.com/gpu": "8", "rdma/hca": "1"}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "128Gi"}
    assert "more" in volumes
    metadata = document["spec"]["template"]["metadata"]
    assert metadata["finalizers"] == [names.FINALIZER, "mine"]
    assert metadata["labels"]["team"] == "x"
    assert metadata["labels"][names.LABEL_STUDY] == STUDY_UID
