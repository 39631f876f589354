"""`tuner doctor` over a cluster on loopback: it finds what is wrong, names it, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import tuner
from support.fake_cluster import FakeCluster

from tuner.runtime.kubernetes.client import Cluster
from tuner.runtime.kubernetes.facts import Reference, _look_up
from tuner.study.lock import FileLock, lock_path

K8S = Path(__file__).parents[3] / "k8s"
SPACE = Path(__file__).parents[2] / "e2e" / "data" / "tiny.yaml"
IMAGE = ("--tuner-image", "registry.example/tuner:1")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("TUNER_STORAGE", raising=False)
    with FakeCluster(tmp_path / "cluster") as found:
        found.kubeconfig(tmp_path / "kubeconfig")
        found.node("gpu-0", gpus=1)
        yield found


def doctor(*options):
    return tuner("doctor", "--space", SPACE, *IMAGE, *options)


def test_all_is_well_and_nothing_was_changed(cluster, tmp_path):
    found = doctor()

    assert found.code == 0, found.out
    assert "1 can hold a trial: gpu-0 (1 amd.com/gpu)" in found.out
    assert "all 8 that a search needs" in found.out
    assert "FAIL" not in found.out
    assert cluster.jobs() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster", "kubeconfig"]


def test_the_shipped_roles_are_enough_to_ask(cluster):
    cluster.grant(K8S / "rbac.yaml", K8S / "rbac-nodes.yaml")
    found = doctor()

    assert found.code == 0, found.out
    assert "FAIL" not in found.out
    assert "all 8 that a search needs" in found.out


def test_what_is_wrong_is_named_with_the_next_step_and_exit_5(cluster):
    jobs = {f"{verb} jobs.batch" for verb in ("create", "get", "list", "delete")}
    cluster.api.allowed = {*jobs, "list pods", "get pods/log"}
    found = doctor()

    assert found.code == 5
    assert found.out.count("FAIL permissions") == 2
    assert "patch pods in namespace demo is not allowed" in found.out
    assert "2 to be put right" in found.err


def test_as_json(cluster):
    cluster.quota("team", {"requests.amd.com/gpu": "0"})
    found = doctor("--json", "--namespace", "demo")
    document = json.loads(found.out)

    assert (found.code, document["ok"]) == (5, False)
    lines = {line["subject"]: line for finding in document["findings"] for line in finding["lines"]}
    assert lines["quota"]["level"] == "problem"
    assert lines["server"]["level"] == "ok"


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--namespace", "nope"), 5, "there is no namespace nope"),
        (("--context", "nope"), 2, "context nope"),
        (("--tuner-image", ""), 2, "no tuner image"),
        (("--storage", "sqlite:///gone/study.db"), 5, "does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(cluster, options, code, text):
    found = doctor(*options)

    assert found.code == code
    assert text in found.out + found.err


def test_no_answer_from_the_cluster(cluster):
    cluster.fault("GET", "/version", 0)
    found = doctor()

    assert found.code == 5
    assert "does not answer" in found.out
    assert "pool here" not in found.out


def test_a_study_that_is_being_searched(cluster, tmp_path):
    from tuner.study.storage import open_storage

    database = tmp_path / "tiny.db"
    open_storage(str(database)).close()
    assert "is not being searched" in doctor().out
    lock = FileLock(lock_path(database, "tiny"), "tiny")
    found = doctor()
    lock.release()

    assert found.code == 5
    assert "already being searched by process" in found.out
    assert "is not being searched" in doctor().out


def test_only_the_metadata_of_a_secret_is_asked_for():
    asked = []

    class Api:
        configuration = type("Configuration", (), {"host": "https://api"})

        def param_serialize(self, method, path, _path_params, _query, headers, *_rest, **_options):
            asked.append((path, headers["Accept"]))
            return (path,)

        def call_api(self, _path, **_options):
            return type("Answer", (), {"status": 200, "read": lambda _: b"{}", "getheader": lambda *_: None})()

    for kind in ("Secret", "image pull secret", "ConfigMap", "PersistentVolumeClaim", "PriorityClass", "LocalQueue"):
        _look_up(Cluster(Api(), "ml"), Reference(kind, "x"))

    partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    assert asked == [
        ("/api/v1/namespaces/ml/secrets/x", partial),
        ("/api/v1/namespaces/ml/secrets/x", partial),
        ("/api/v1/namespaces/ml/configmaps/x", partial),
        ("/api/v1/namespaces/ml/persistentvolumeclaims/x", "application/json"),
        ("/apis/scheduling.k8s.io/v1/priorityclasses/x", "application/json"),
        ("/apis/kueue.x-k8s.io/v1beta1/namespaces/ml/localqueues/x", "application/json"),
    ]
