"""The chart under real Helm: what it renders, what it refuses, and that measured arguments reach the container."""

from __future__ import annotations

import copy
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuner.export.chart import chart_path
from tuner.export.helm import helm_values, to_yaml
from tuner.export.target import Target, Volume

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
NUMBER_LIKE = st.sampled_from(
    ["1048576", "1e3", "0o17", "0x1F", "1_000", ".5", "-1", "12:30:00", "y", "no", "off", "null", "~", "true", "", "="]
)
HELM_LIKE = st.sampled_from(
    ["{{ .Values }}", "$(HOME)", "$$", "$", "$$(A)", '{"a": "$x"}', "- x", "# x", "a\n b\n", "<&>"]
)


def kubernetes_expands(text: str, env: dict[str, str]) -> str:
    """Kubernetes' expansion of command, args and env: `$(NAME)` is replaced if known, `$$` is one `$`."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replace, text)


def container(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def arguments(objects):
    """What the process gets after Kubernetes has had its way with the strings."""
    return [kubernetes_expands(text, {"HOME": "/root", "A": "b"}) for text in container(objects)["args"]]


@pytest.fixture
def exported(a_winner, a_target):
    return helm_values(a_winner(), a_target())


def test_exported_values_render_to_objects_the_strict_models_accept(helm, exported):
    """Kubernetes' own generated models refuse unknown keys and wrong types."""
    from kubernetes import client

    objects = helm.objects(exported)
    assert sorted(objects) == ["Deployment", "Service"]
    client.V1Deployment.model_validate(objects["Deployment"])
    client.V1Service.model_validate(objects["Service"])


def test_smallest_values_render_to_a_valid_deployment(helm):
    """No caches, no selectors, no provenance, a replica count of 0."""
    from kubernetes import client

    values = {"image": "a/b:c", "replicas": 0, "launch": {"program": ["python3"], "args": ["--tp-size=8"]}}
    deployment = helm.objects(values)["Deployment"]
    client.V1Deployment.model_validate(deployment)
    assert deployment["spec"]["replicas"] == 0
    assert "annotations" not in deployment["metadata"]


def test_lint_finds_nothing_but_the_missing_icon(helm, exported):
    report = helm.library.lint(chart_path(), exported, strict=True)
    assert report["errors"] == []
    assert [m["error"] for m in report["messages"]] == ["icon is recommended"]


def test_big_whole_numbers_stay_whole_numbers_everywhere(helm, exported):
    """Helm writes 1048576 as 1.048576e+06 where a template prints a number."""
    exported["securityContext"]["pod"]["runAsUser"] = 1000660000
    objects = helm.objects(exported)
    args = container(objects)["args"]
    assert args[args.index("--context-length") + 1] == "1048576"
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert pod["tolerations"][0]["tolerationSeconds"] == 3000000
    assert pod["securityContext"]["runAsUser"] == 1000660000


@settings(max_examples=50, deadline=None)
@given(args=st.lists(TEXT | NUMBER_LIKE | HELM_LIKE, min_size=1, max_size=8))
@example(args=["$(HOME)", "$$(HOME)", "\x7f\x85\u2028\ufeff", "\U0001f600", "a\r\nb", "\t"])
def test_measured_args_reach_the_container_byte_for_byte(helm, a_winner, a_target, args):
    """Values YAML -> Go's parser -> schema -> template -> Go's parser -> Kubernetes' expansion."""
    target = a_target()
    values = helm.values(to_yaml(helm_values(a_winner(args=tuple(args)), target)))
    got = arguments(helm.objects(values))
    assert got[: len(args)] == args
    assert got[len(args) :] == values["launch"]["plumbing"]


@settings(max_examples=50, deadline=None)
@given(env=st.dictionaries(st.from_regex(r"[A-Z_]{1,8}_X", fullmatch=True), TEXT | NUMBER_LIKE | HELM_LIKE, max_size=4))
def test_environment_reaches_the_container_byte_for_byte(helm, a_winner, a_target, env):
    values = helm.values(to_yaml(helm_values(a_winner(env=env), a_target(model_cache=None, compile_cache=None))))
    got = {e["name"]: kubernetes_expands(e["value"], env) for e in container(helm.objects(values))["env"][: len(env)]}
    assert got == env


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("lunch", {}, "additional properties 'lunch' not allowed"),
        ("launch.arg", [], "additional properties 'arg' not allowed"),
        ("gpu.counts", 8, "additional properties 'counts' not allowed"),
        ("probes.startup.timeoutSecond", 30, "additional properties 'timeoutSecond' not allowed"),
        ("securityContext.pod.runAsUsr", 0, "additional properties 'runAsUsr' not allowed"),
        ("launch.args", ["--tp-size", 8], "got number, want string"),
        ("launch.args", "--tp-size 8", "got string, want array"),
        ("launch.args", [], "minItems"),
        ("launch.program", [], "minItems"),
        ("env.A", 1, "got number, want string"),
        ("env.SGLANG_SIMULATE_GPU", "1", "SGLANG_SIMULATE_GPU"),
        ("gpu.count", 16, "maximum: got 16, want 8"),
        ("gpu.count", 0, "minimum"),
        ("terminationGracePeriodSeconds", 60, "minimum: got 60, want 120"),
        ("probes.liveness.timeoutSeconds", 1, "minimum"),
        ("image", "", "minLength"),
        ("modelCache", {"pvc": "a", "hostPath": "/b", "mountPath": "/models"}, "not"),
        ("secretEnv.HF_TOKEN", "hf_abc", "got string, want object"),
        ("probes", None, "missing property 'probes'"),
    ],
)
def test_schema_refuses_and_names_the_place(helm, exported, path, value, words):
    values = copy.deepcopy(exported)
    *parents, last = path.split(".")
    place = values
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    with pytest.raises(helm.library.HelmValuesError, match=re.escape(words)):
        helm.objects(values)


def test_plumbing_that_listens_on_another_port_is_refused(helm, exported):
    """The Service and the probes would look where nobody answers."""
    exported["port"] = 3000
    with pytest.raises(helm.library.HelmRenderError, match=r"launch\.plumbing does not hold --port 3000"):
        helm.objects(exported)


def test_plumbing_may_spell_the_port_with_an_equals_sign(helm, exported):
    exported["launch"]["plumbing"] = ["--host=::", "--port=30000"]
    assert container(helm.objects(exported))["args"][-2:] == ["--host=::", "--port=30000"]


def test_probes_outlast_loading_and_the_slow_health_check(helm, exported):
    objects = helm.objects(exported)
    probes = {kind: container(objects)[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
    assert all(p["httpGet"] == {"path": "/health", "port": "http"} for p in probes.values())
    assert all(p["timeoutSeconds"] >= 30 for p in probes.values())
    startup_s = probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"]
    assert startup_s == 90 * 60
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] >= 300
    spec = objects["Deployment"]["spec"]
    assert spec["progressDeadlineSeconds"] > startup_s
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 120


def test_pod_holds_no_token_no_service_variables_and_is_not_pid_1(helm, exported):
    pod = helm.objects(exported)["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["shareProcessNamespace"] is True


@pytest.mark.parametrize("key", ["requests", "limits"])
def test_gpus_are_requested_and_limited_alike(helm, exported, key):
    assert container(helm.objects(exported))["resources"][key]["amd.com/gpu"] == "8"


def test_cpu_is_requested_and_never_limited(helm, a_winner, a_target):
    values = helm_values(a_winner(), a_target(cpu_request="48", memory_limit="1Ti"))
    resources = container(helm.objects(values))["resources"]
    assert resources["requests"] == {"amd.com/gpu": "8", "cpu": "48", "memory": "64Gi"}
    assert resources["limits"] == {"amd.com/gpu": "8", "memory": "1Ti"}


def test_model_cache_is_mounted_read_only_and_the_hub_is_left_alone(helm, exported):
    pod = helm.objects(exported)["Deployment"]["spec"]["template"]["spec"]
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
    assert mounts["model-cache"] == {"name": "model-cache", "mountPath": "/models", "readOnly": True}
    assert mounts["compile-cache"]["subPath"] == "0123456789ab"
    assert mounts["shm"]["mountPath"] == "/dev/shm"
    assert (env["HF_HOME"], env["HF_HUB_OFFLINE"]) == ("/models", "1")
    assert env["TRITON_CACHE_DIR"] == "/compile-cache/triton"


def test_measured_environment_wins_over_what_the_caches_set(helm, a_winner, a_target):
    """Also an empty value: it is what was measured."""
    values = helm_values(a_winner(env={"HF_HUB_OFFLINE": "", "TRITON_CACHE_DIR": "/t"}), a_target())
    env = [(e["name"], e.get("value")) for e in container(helm.objects(values))["env"]]
    assert ("HF_HUB_OFFLINE", "") in env
    assert ("TRITON_CACHE_DIR", "/t") in env
    assert len(env) == len(dict(env))


def test_secret_is_a_reference(helm, exported):
    env = {e["name"]: e for e in container(helm.objects(exported))["env"]}
    assert env["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hugging-face", "key": "token"}}


def test_provenance_is_readable_on_the_deployment_and_never_restarts_pods(helm, exported):
    deployment = helm.objects(exported)["Deployment"]
    annotations = deployment["metadata"]["annotations"]
    assert annotations["sglang-tuner/study"] == "glm52-mi355x"
    assert annotations["sglang-tuner/trial"] == "17"
    assert annotations["sglang-tuner/simulated"] == "false"
    assert "annotations" not in deployment["spec"]["template"]["metadata"]


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({}, []),
        ({"simulated": True}, ["SIMULATED"]),
        ({"confirmed": False}, ["UNCONFIRMED"]),
        ({"confirmed": False, "refuted": True}, ["REFUTED"]),
    ],
)
def test_notes_warn_of_what_is_not_a_confirmed_measurement(helm, a_winner, a_target, changes, warnings):
    notes = helm.notes(helm_values(a_winner(**changes), a_target()))
    assert [word for word in ("SIMULATED", "UNCONFIRMED", "REFUTED") if re.search(rf"\b{word}\b", notes)] == warnings
    assert "http://demo.prod:30000/v1/models" in notes


def test_users_labels_and_annotations_reach_the_pod(helm, exported):
    """And leave the selector alone, which cannot be changed afterwards."""
    mine = {"podLabels": {"team": "x"}, "podAnnotations": {"a": "1"}}
    spec = helm.objects(exported | mine)["Deployment"]["spec"]
    template = spec["template"]
    assert "team" not in spec["selector"]["matchLabels"]
    assert template["metadata"]["labels"]["team"] == "x"
    assert template["metadata"]["annotations"] == {"a": "1"}


def test_nvidia_target_asks_for_no_privilege(helm, a_winner):
    target = Target(
        vendor="nvidia", gpu_resource="nvidia.com/gpu", model_cache=Volume(host_path="/data", mount_path="/m")
    )
    pod = helm.objects(helm_values(a_winner(), target))["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False}
    assert pod["volumes"][1] == {"name": "model-cache", "hostPath": {"path": "/data", "type": "Directory"}}
