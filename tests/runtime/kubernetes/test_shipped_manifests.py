"""What lies in k8s/: valid for the API, in one namespace, and in step with the image, the program and each other."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from support.cli import tuner
from support.cluster_objects import a_node

from tuner.errors import EXIT_INTERRUPTED, EXIT_NOTHING_FEASIBLE, EXIT_RUNTIME_UNUSABLE, EXIT_UNCONFIRMED, EXIT_USAGE
from tuner.launch.spaces import open_space
from tuner.runtime.kubernetes.inventory import needs_of, survey
from tuner.runtime.kubernetes.job import job_manifest
from tuner.runtime.kubernetes.target import target_of
from tuner.study.assemble import Where, problem_of
from tuner.study.points import evaluate

K8S = Path(__file__).parents[3] / "k8s"
KIND = K8S / "kind"
MANIFESTS = ("rbac.yaml", "rbac-nodes.yaml", "search-job.yaml")
DOCKERFILE = (K8S / "Dockerfile").read_text()


def documents(file):
    return list(yaml.safe_load_all((K8S / file).read_text()))


def of_kind(kind, file="search-job.yaml"):
    return next(document for document in documents(file) if document["kind"] == kind)


JOB = of_kind("Job")
POD = JOB["spec"]["template"]["spec"]
[CONTROLLER] = POD["containers"]


@pytest.mark.parametrize("file", MANIFESTS)
def test_every_object_is_valid_in_the_clients_strict_models(file):
    from kubernetes import client

    for document in documents(file):
        kind = document["kind"]
        model = getattr(client, f"V1{kind}")
        model.model_validate(document)
        with pytest.raises(ValueError, match="surprise"):
            model.model_validate({**document, "surprise": 1})


@pytest.mark.parametrize("file", MANIFESTS)
def test_one_replacement_moves_everything_to_another_namespace(file):
    text = (K8S / file).read_text()
    moved = list(yaml.safe_load_all(re.sub(r"namespace: tuner$", "namespace: ml", text, flags=re.MULTILINE)))

    for document in moved:
        clusterwide = document["kind"].startswith("Cluster")
        assert document["metadata"].get("namespace") == (None if clusterwide else "ml")
        assert all(subject["namespace"] == "ml" for subject in document.get("subjects", []))


def test_the_controller_uses_the_account_that_rbac_ships():
    account = of_kind("ServiceAccount", "rbac.yaml")["metadata"]["name"]

    assert POD["serviceAccountName"] == account
    for file, kind in (("rbac.yaml", "RoleBinding"), ("rbac-nodes.yaml", "ClusterRoleBinding")):
        binding = of_kind(kind, file)
        assert [subject["name"] for subject in binding["subjects"]] == [account]
        assert binding["roleRef"]["name"] == of_kind(binding["roleRef"]["kind"], file)["metadata"]["name"]


def test_the_controllers_command_is_one_the_program_knows(monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    name, *options = CONTROLLER["args"]
    known = set(re.findall(r"--[a-z][a-z-]+", tuner(name, "--help").out))

    assert {option for option in options if option.startswith("--")} <= known
    assert "TUNER_IMAGE" in tuner(name, "--help").out
    assert "TUNER_STORAGE" in tuner(name, "--help").out
    assert 'ENTRYPOINT ["tuner"]' in DOCKERFILE


def test_image_user_and_folder_are_those_of_the_dockerfile():
    variables = {variable["name"]: variable for variable in CONTROLLER["env"]}
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    context = POD["securityContext"]

    assert variables["TUNER_IMAGE"]["value"] == CONTROLLER["image"]
    assert f"--tag {CONTROLLER['image']}" in DOCKERFILE
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
    assert f"WORKDIR {CONTROLLER['workingDir']}" in DOCKERFILE


def test_the_space_file_is_where_the_command_looks_for_it():
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTROLLER["volumeMounts"]}
    sources = {volume["name"]: volume for volume in POD["volumes"]}
    header = (K8S / "search-job.yaml").read_text()

    assert CONTROLLER["args"][CONTROLLER["args"].index("--space") + 1] == f"{mounts['space']}/space.yaml"
    assert f"configmap {sources['space']['configMap']['name']} " in header
    assert "--from-file=space.yaml=" in header
    assert sources["data"]["persistentVolumeClaim"]["claimName"] == of_kind("PersistentVolumeClaim")["metadata"]["name"]
    assert mounts["data"] == CONTROLLER["workingDir"]


def test_a_database_url_comes_from_a_secret_and_sqlite_stands_in():
    [storage] = [variable for variable in CONTROLLER["env"] if variable["name"] == "TUNER_STORAGE"]
    reference = storage["valueFrom"]["secretKeyRef"]

    assert reference["optional"] is True
    header = (K8S / "search-job.yaml").read_text()
    assert f"secret generic {reference['name']} " in header
    assert f"--from-literal={reference['key']}=postgresql://" in header


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (EXIT_USAGE, "FailJob"),
        (EXIT_NOTHING_FEASIBLE, "FailJob"),
        (EXIT_UNCONFIRMED, "FailJob"),
        (EXIT_INTERRUPTED, "Ignore"),
        (EXIT_RUNTIME_UNUSABLE, None),
        (137, None),
    ],
)
def test_each_exit_code_of_the_controller_has_its_consequence(code, action):
    rules = [rule for rule in JOB["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    found = [rule["action"] for rule in rules if code in rule["onExitCodes"]["values"]]

    assert found == ([action] if action else [])
    assert all(rule["onExitCodes"]["containerName"] == CONTROLLER["name"] for rule in rules)
    assert (POD["restartPolicy"], JOB["spec"]["podReplacementPolicy"]) == ("Never", "Failed")


# --- kind


@pytest.fixture(scope="module")
def kind_space():
    return open_space(str(KIND / "space.yaml"))


def test_kinds_nodes_are_labelled_as_its_space_selects_them(kind_space):
    workers = [n["labels"] for n in yaml.safe_load((KIND / "cluster.yaml").read_text())["nodes"] if "labels" in n]

    assert workers == [pool.node_selector for pool in kind_space.spec.pools.values()]


def trials_of(kind_space):
    """One trial a pool, and where it goes."""
    problem = problem_of(evaluate(kind_space), name="kind", where=Where(simulated=False), trials=None)
    for name, pool in kind_space.spec.pools.items():
        config = next(c.config for c in problem.candidates if c.config.pool == name)
        spec = problem.make_spec(config, f"kind-0-{config.fingerprint}", 1, 0, None, None)
        yield spec, target_of(name, pool, namespace="tuner", context=None, tuner_image="sglang-tuner:kind")


def test_kinds_trials_fit_on_its_nodes_once_they_pretend_to_have_gpus(kind_space):
    script = (KIND / "run.sh").read_text()
    for spec, target in trials_of(kind_space):
        pod = job_manifest(spec, target, "uid")["spec"]["template"]["spec"]
        amounts = {"cpu": "4", "memory": "8Gi", target.gpu_resource: "8"}
        laptop = {
            **a_node(labels=kind_space.spec.pools[spec.pool].node_selector),
            "status": {**a_node()["status"], "allocatable": amounts},
        }
        laptop["status"]["capacity"] = amounts

        assert survey([laptop], needs_of(pod), target.gpu_resource).ready, spec.pool
        assert f"pretend_gpus {spec.pool} {target.gpu_resource}" in script
        assert "tuner.simulator" in spec.argv


def what_restricted_refuses(pod):
    """Of the rules of https://kubernetes.io/docs/concepts/security/pod-security-standards those that trials touch."""
    sources = {"name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "secret"}
    found = [f"volume {volume['name']}" for volume in pod["volumes"] if not set(volume) <= sources]
    for container in pod["initContainers"] + pod["containers"]:
        own = container.get("securityContext", {})
        both = {**pod.get("securityContext", {}), **own}
        capabilities = own.get("capabilities", {})
        wrong = {
            "privilege escalation": own.get("allowPrivilegeEscalation") is not False,
            "root": both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0,
            "seccomp": both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "capabilities": capabilities.get("drop") != ["ALL"] or bool(capabilities.get("add")),
        }
        found += [f"{what} of {container['name']}" for what, is_wrong in wrong.items() if is_wrong]
    return found


def test_kinds_trials_and_the_controller_run_under_restricted_pod_security(kind_space):
    for spec, target in trials_of(kind_space):
        assert what_restricted_refuses(job_manifest(spec, target, "uid")["spec"]["template"]["spec"]) == []
        bare = dataclasses.replace(target, pod_patch={})
        assert what_restricted_refuses(job_manifest(spec, bare, "uid")["spec"]["template"]["spec"]) != []
    assert what_restricted_refuses({"initContainers": [], **POD}) == []


def test_the_script_says_what_it_takes_and_parses():
    script = KIND / "run.sh"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
    found = subprocess.run([str(script)], capture_output=True, text=True, timeout=10, check=False)

    assert (found.returncode, "up | search | status | down" in found.stderr) == (2, True)


def test_the_script_advertises_gpus_by_a_patch_of_the_nodes_capacity(tmp_path):
    """Against a kubectl that writes down what it is asked."""
    asked = tmp_path / "asked"
    for program in ("kind", "make", "kubectl"):
        path = tmp_path / program
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "{program} $*" >> {asked}\n'
            'case "$*" in *"get nodes --selector"*) echo node/worker;; esac\n'
        )
        path.chmod(0o755)
    subprocess.run(
        [str(KIND / "run.sh"), "up"],
        check=True,
        timeout=30,
        capture_output=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "KUBECONFIG": str(tmp_path / "kubeconfig")},
    )
    patches = [line for line in asked.read_text().splitlines() if " patch node/worker " in line]

    found = [json.loads(line.partition("--patch ")[2])[0] for line in patches]
    assert [(patch["path"], patch["value"]) for patch in found] == [
        ("/status/capacity/amd.com~1gpu", "8"),
        ("/status/capacity/nvidia.com~1gpu", "8"),
    ]
    assert all("--subresource=status" in shlex.split(line) for line in patches)


def test_the_script_puts_its_image_everywhere(tmp_path):
    """Against a kubectl that writes down what it is asked and given."""
    for program in ("kind", "make", "kubectl"):
        path = tmp_path / program
        path.write_text(
            f'#!/bin/sh\nprintf "%s\n" "$*" >> {tmp_path}/asked\n'
            f'case "$*" in *"apply --filename -"*) cat >> {tmp_path}/asked;; esac\n'
        )
        path.chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "KUBECONFIG": str(tmp_path / "kubeconfig"), "IMAGE": "mine:7"}
    subprocess.run([str(KIND / "run.sh"), "search"], check=True, timeout=30, capture_output=True, env=env)
    asked = (tmp_path / "asked").read_text()

    assert asked.count("image: mine:7") == 3  # two pools and the controller
    assert "value: mine:7" in asked
    assert "sglang-tuner:kind" not in asked
    assert "sglang-tuner:VERSION" not in asked


def test_the_readmes_commands_name_files_that_exist():
    text = (KIND / "README.md").read_text()

    for path in set(re.findall(r"k8s/[\w./-]+\w", text)) - {"k8s/kind/kubeconfig"}:
        assert (K8S.parent / path).exists(), path
    assert set(re.findall(r"run\.sh (\w+)", text)) == {"up", "search", "status", "down"}
