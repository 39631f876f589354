"""Searches on the cluster that KUBECONFIG points to: runner and simulated engine as real containers.

A node must advertise GPUs, if only pretended ones (k8s/kind/README.md says how). The trials ask for no right that a
namespace under PodSecurity `restricted` refuses, and the controller for none that k8s/rbac.yaml does not grant.
Skipped where KUBECONFIG or TUNER_E2E_TUNER_IMAGE is not set. Variables:

    TUNER_E2E_TUNER_IMAGE      image with the runner's bundle (k8s/Dockerfile)
    TUNER_E2E_ENGINE_IMAGE     serving image of the trials; default: the tuner image, which has the simulated engine
    TUNER_E2E_ENGINE           command of the engine in it; default: python3 -m tuner.simulator
    TUNER_E2E_NAMESPACE        default: the context's own
    TUNER_E2E_GPUS             amd.com/gpu a node advertises; default 8
    TUNER_E2E_CPU, TUNER_E2E_MEMORY   what a trial asks for; default 500m, 512Mi
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
from contextlib import suppress

import pytest
import yaml
from support.trials import wait_for

from tuner.launch.spaces import open_space
from tuner.probe.prompts import corpus_sentences
from tuner.runtime.kubernetes.assemble import places_of
from tuner.runtime.kubernetes.client import ApiError, connect
from tuner.runtime.kubernetes.job import job_manifest
from tuner.runtime.kubernetes.names import LABEL_STUDY, LABEL_STUDY_NAME
from tuner.runtime.kubernetes.site import Site
from tuner.study.assemble import Where, problem_of
from tuner.study.points import evaluate
from tuner.trial.spec import Deadlines

TUNER_IMAGE = os.environ.get("TUNER_E2E_TUNER_IMAGE", "")
NAMESPACE = os.environ.get("TUNER_E2E_NAMESPACE")
LONG_S = 600.0

pytestmark = [
    pytest.mark.skipif(
        not (os.environ.get("KUBECONFIG") and TUNER_IMAGE), reason="needs KUBECONFIG and TUNER_E2E_TUNER_IMAGE"
    ),
    pytest.mark.timeout(3 * LONG_S),
    pytest.mark.xdist_group("real cluster"),  # one after the other: there may be one node with GPUs
]


def space_of(name):
    """The smallest search there is: two batch limits, answers of four tokens."""
    engine = shlex.split(os.environ.get("TUNER_E2E_ENGINE", "python3 -m tuner.simulator"))
    engine += ["--accelerator", "mi355x", "--architecture", "glm-5.2", "--startup-scale", "0"]
    asked = {"cpu": os.environ.get("TUNER_E2E_CPU", "500m"), "memory": os.environ.get("TUNER_E2E_MEMORY", "512Mi")}
    trial = {
        "name": "trial",
        "resources": {"requests": asked, "limits": {"memory": "2Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"add": None, "drop": ["ALL"]}},
    }
    nobody = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
    pool = {
        "accelerator": "mi355x",
        "engine": {"kind": "sglang", "version": "0.5.16", "command": engine},
        "image": os.environ.get("TUNER_E2E_ENGINE_IMAGE", TUNER_IMAGE),
        "gpus_per_node": int(os.environ.get("TUNER_E2E_GPUS", "8")),
        "usd_per_gpu_hour": 2.0,
        "pod_patch": {"spec": {"securityContext": nobody, "containers": [trial]}},
    }
    return {
        "version": 1,
        "name": name,
        "model": {"architecture": "glm-5.2"},
        "pools": {"mi355x": pool},
        "workload": {"input_tokens": 64, "output_tokens": 4, "cached_fraction": 0, "endpoint": "completions"},
        "objective": {"subject_to": {"ttft_p95_s": 1.0}},
        "space": {
            "layout": {"tp": [8], "gpus": 8},
            "weights": {
                "choice": {
                    "fp8": {
                        "model": "zai-org/GLM-5.2-FP8",
                        "precision": "fp8",
                        "args": {"kv-cache-dtype": "fp8_e4m3"},
                    }
                }
            },
            "max-running-requests": {"values": [4, 8]},
            "chunked-prefill-size": 2048,
            "mem-fraction-static": 0.85,
        },
        "budget": {"trials": 1},
        "confirm": {"top": 0},
    }


@pytest.fixture
def home(folder):
    """A user's folder with a space of its own name, and afterwards a namespace without anything of it."""
    folder.name = f"e2e-{secrets.token_hex(3)}"
    folder.space.write_text(yaml.safe_dump(space_of(folder.name)))
    folder.env["TUNER_IMAGE"] = TUNER_IMAGE
    yield folder
    site = Site(connect(None, NAMESPACE))
    site.fill(*site.cluster.list_trials(f"{LABEL_STUDY_NAME}={folder.name}"))
    for key in site.left():
        with suppress(ApiError):
            site.remove(key)


def search(*args):
    where = ("--namespace", NAMESPACE) if NAMESPACE else ()
    return "search", "--space", "tiny.yaml", "--runtime", "kubernetes", *where, *args


def objects(home, study_uid=None):
    cluster = connect(None, NAMESPACE)
    found = cluster.list_trials(f"{LABEL_STUDY}={study_uid}" if study_uid else f"{LABEL_STUDY_NAME}={home.name}")
    return [thing["metadata"]["name"] for things in found for thing in things]


def measured(home, *args):
    """A search to its end, begun again as long as the machine was too busy to measure."""
    found = home.json(*search(*args), code=4)
    assert found["trials"]["measured"] + found["trials"]["invalid"] >= 1, found
    return found


def test_a_search_ends_and_leaves_nothing(home):
    found = measured(home)
    assert found["simulated"] is True
    wait_for(lambda: not objects(home, found["uid"]), "the namespace to be empty", 120.0)
    shown = home.json("trial", "show", "0", "--space", "tiny.yaml")
    assert shown["node"]
    assert shown["gpu_seconds"] > 0
    assert shown["image_digest"].startswith("sha256:")
    text = json.dumps(shown, ensure_ascii=False)
    assert not [sentence for sentence in corpus_sentences() if len(sentence) > 20 and sentence in text], "a prompt"


def test_a_killed_controller_is_succeeded_by_one_that_adopts(home):
    child = home.begin(*search())
    wait_for(lambda: objects(home) or child.poll() is not None, "a trial to be there", LONG_S)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = set(objects(home))
    assert before, "the trial outlives its controller"
    found = measured(home)
    assert sum(found["trials"].values()) >= 1
    wait_for(lambda: not objects(home, found["uid"]), "the namespace to be empty", 120.0)


def test_a_stopped_controller_leaves_its_trial_and_cancel_deletes_it(home):
    child = home.begin(*search())
    wait_for(lambda: objects(home) or child.poll() is not None, "a trial to be there", LONG_S)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) == 130
    assert objects(home)
    child = home.begin(*search("--cancel"))
    wait_for(lambda: "trial 0" in home.err or child.poll() is not None, "its adoption", LONG_S)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(60) == 130
    wait_for(lambda: not objects(home), "the namespace to be empty", 120.0)


def test_two_studies_of_one_space_leave_each_other_alone(home):
    first = home.begin(*search())
    wait_for(lambda: objects(home) or first.poll() is not None, "its first trial", LONG_S)
    theirs = set(objects(home))
    second = home.path / "second"
    second.mkdir()
    (second / "tiny.yaml").write_text(home.space.read_text())
    home.env["TUNER_STORAGE"] = f"sqlite:///{second}/other.db"
    found = home.json(*search("--study", home.name), code=4)
    assert found["trials"]["measured"] + found["trials"]["invalid"] >= 1
    assert first.wait(LONG_S) == 4, "the other search came to its own end"
    assert theirs


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda pool: pool.update(namespace="there-is-none-of-this-name"), 5, "namespace"),
        (lambda pool: pool.update(context="there-is-none-of-this-name"), 2, "context there-is-none-of-this-name"),
        (lambda pool: pool.update(node_selector={"no-node": "has-this"}), 5, "no node can hold|nodes may not be"),
        (lambda pool: pool.update(image="registry.invalid/there/is:none"), 5, "cannot be pulled"),
    ],
)
def test_what_cannot_work_is_said_and_leaves_nothing(home, change, code, says):
    document = space_of(home.name)
    change(document["pools"]["mi355x"])
    home.space.write_text(yaml.safe_dump(document))
    home.tuner(*search(), code=code)
    assert any(part in home.err for part in says.split("|")), home.err
    wait_for(lambda: not objects(home), "the namespace to be empty", 120.0)


def test_the_server_accepts_the_job_of_a_trial(home):
    """A dry run, which finds unknown fields and what does not add up."""
    space = open_space(str(home.space))
    points = evaluate(space)
    problem = problem_of(points, name=home.name, where=Where(simulated=False), trials=1, deadlines=Deadlines())
    config = points.valid[0].config
    spec = problem.make_spec(config, f"{home.name}-0-{config.fingerprint}", 1, 0, None, None)
    (place,) = places_of(space.spec.pools, [8], namespace=NAMESPACE, context=None, tuner_image=TUNER_IMAGE).values()
    answer = place.site.cluster.create_job(job_manifest(spec, place.target, "0123456789ab"), dry_run=True)
    assert answer["metadata"]["name"].startswith(f"{home.name}-0-")
