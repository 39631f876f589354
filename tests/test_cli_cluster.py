"""The commands about clusters, on the fake one: `search --runtime kubernetes`, `logs`, `trial show`, `gc`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from support.cli import tuner
from support.clusters import runtime_on, spec_of, target
from support.fake_cluster import FakeCluster
from support.kube_cases import QUICK
from support.trials import wait_for

from tuner import on_cluster
from tuner.runtime.protocol import Ended

SUPPORT = Path(__file__).parent / "support"
SPACE = ("--space", "two_pools.yaml")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A cluster, a folder with a study of two trials that ran on it, and what the search said."""
    home = tmp_path_factory.mktemp("cluster")
    shutil.copy(SUPPORT / "two_pools.yaml", home)
    shutil.copy(Path(__file__).parent / "e2e" / "data" / "tiny-model.json", home)
    with FakeCluster(home / "cluster", runner=QUICK) as cluster, pytest.MonkeyPatch.context() as patch:
        for pool, resource in (("amd", "amd.com/gpu"), ("nvidia", "nvidia.com/gpu")):
            cluster.node(f"{pool}-1", resource=resource, pool=pool)
        patch.chdir(home)
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig(home / "kubeconfig")))
        patch.setenv("TUNER_IMAGE", "tuner:1")
        patch.delenv("TUNER_STORAGE", raising=False)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        said = tuner("search", *SPACE, "--runtime", "kubernetes", "--trials", "2", "--json")
        yield cluster, said
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def cluster(searched):
    cluster, _ = searched
    yield cluster
    for job in cluster.jobs():
        cluster.store.delete("jobs", "demo", job["metadata"]["name"])
    for pod in cluster.pods():
        cluster.store.update(
            "pods", "demo", pod["metadata"]["name"], lambda held: held["metadata"].update(finalizers=[])
        )
    wait_for(lambda: not cluster.pods(), "an empty namespace")


def uid():
    return json.loads(tuner("status", *SPACE, "--json").out)["uid"]


def left_behind(cluster, trial_id="twins-7-abc", *, wait=True):
    """A trial of the study whose controller is gone."""
    runtime = runtime_on(cluster, {"amd": target("amd", node_selector={"pool": "amd"})})
    spec = spec_of(trial_id, pool="amd")
    runtime.start(replace(spec, context={**spec.context, "study_uid": uid()}))
    while wait and not any(isinstance(notice, Ended) for notice in runtime.poll(0.5)):
        pass


def test_a_search_on_a_cluster_measures_and_leaves_nothing(searched):
    cluster, said = searched
    assert said.code == 4, said.err  # nothing is to be confirmed
    found = json.loads(said.out)
    assert found["trials"]["measured"] == 2
    assert found["best"]["image_digest"].startswith("sha256:")
    assert "trial 0 starts" in said.err
    assert (cluster.jobs(), cluster.pods()) == ([], [])


def test_a_trial_is_shown_from_the_database_and_with_its_pod_if_there_is_one(cluster):
    said = tuner("trial", "show", "0", *SPACE)
    assert said.code == 0
    assert "state: measured" in said.out
    assert "--max-running-requests" in said.out
    assert "\nsimulated: True\n" in said.out, "the engine of this cluster is one"
    known = json.loads(tuner("trial", "show", "0", *SPACE, "--json").out)
    assert known["constraints"]["ttft_p95_s"] <= 0
    found = json.loads(tuner("trial", "show", "0", *SPACE, "--json", "--namespace", "demo").out)
    assert (found["state"], found["pod"], found["node"][:3] in ("amd", "nvi")) == ("measured", None, True)
    left_behind(cluster, found["id"])
    found = json.loads(tuner("trial", "show", found["id"], *SPACE, "--json", "--namespace", "demo").out)
    assert (found["pod"]["phase"], found["pod"]["node"]) == ("Succeeded", "amd-1")


def test_a_document_is_written_for_people_with_four_digits_and_without_what_is_empty():
    document = {"rate": 2.00000123, "gpu_seconds": 31250.4567, "levels": [{"p95_s": 1.23456789, "why": ""}], "tail": ""}
    written = list(on_cluster.as_lines({**document, "nested": {"share": 0.0, "argv": ["a", 1.5]}}))
    told = ["rate: 2", "gpu_seconds: 31250", "levels:", "  - p95_s 1.235", "nested:", "  share: 0", "  argv: a 1.5"]
    assert written == told


@pytest.mark.parametrize("asked", ["7", "c0", "twins-9-nope", "x"])
def test_a_trial_that_is_not_there_is_said(cluster, asked):
    said = tuner("trial", "show", asked, *SPACE)
    assert said.code == 2
    assert f"no trial {asked}; its trials: 0 to 1" in said.err


def test_logs_are_lines_for_people_and_what_is_stored_once_the_pod_is_gone(cluster):
    gone = tuner("logs", "0", *SPACE)
    assert (gone.code, "measured" in gone.out, "no pod any more" in gone.out) == (0, True, True)
    found = json.loads(tuner("trial", "show", "0", *SPACE, "--json").out)
    left_behind(cluster, found["id"])
    for options in ((), ("--follow",)):
        said = tuner("logs", "0", *SPACE, *options)
        level = "level 2.10 req/s: p95 1.20 s, holds"
        assert said.out.splitlines() == [f"trial {found['id']}, attempt 1", "measuring", level, "measured"]


def test_following_ends_with_what_is_stored_when_the_controller_was_faster(cluster, monkeypatch):
    found = json.loads(tuner("trial", "show", "0", *SPACE, "--json").out)
    left_behind(cluster, found["id"])
    pod = on_cluster.pod_of(on_cluster.clusters_of(None, "demo", None), uid(), found["id"])
    looks = iter((pod, None))
    monkeypatch.setattr(on_cluster, "pod_of", lambda *_: next(looks))
    monkeypatch.setattr(on_cluster, "has_ended", lambda _pod: False)
    lines = tuner("logs", "0", *SPACE, "--follow").out.splitlines()
    assert lines[0] == f"trial {found['id']}, attempt 1"
    assert lines[-1] == f"trial {found['id']}: measured (it has no pod any more)"


def test_following_writes_every_line_once_until_the_end():
    log = ["tuner-record nonsense", "Traceback", "more", "end"]
    shown, slept = [], []
    answers = iter(("\n".join(log[:count]), count == len(log)) for count in (0, 2, 2, 4))
    on_cluster.follow(lambda: next(answers), shown.append, slept.append)
    assert shown == log
    assert len(slept) == 3


def test_what_is_left_is_listed_and_deleted_only_when_told(cluster, monkeypatch):
    left_behind(cluster)
    kept = tuner("gc", *SPACE)
    assert (kept.code, kept.out.split()[0]) == (0, "kept"), "a controller may still take it in"
    monkeypatch.setattr(on_cluster, "ABANDONED_S", -5.0)
    told = tuner("gc", "--namespace", "demo")
    assert told.out.startswith("would delete")
    assert "say --yes, with --study, --space or --all," in told.err
    whose = tuner("gc", "--namespace", "demo", "--yes")
    assert (whose.code, "whose results are to be deleted" in whose.err) == (2, True)
    assert tuner("gc", *SPACE, "--all").code == 2
    assert cluster.jobs()
    assert tuner("gc", *SPACE, "--yes").out.startswith("deleted")
    wait_for(lambda: not cluster.jobs() and not cluster.pods(), "it to go")
    assert "nothing is left" in tuner("gc", *SPACE).err


def test_a_running_trial_is_deleted_only_for_a_named_study(cluster):
    cluster.kubelet.env["QUICK_RUNNER_S"] = "600"
    try:
        left_behind(cluster, wait=False)
        wait_for(cluster.processes, "it to run")
        assert tuner("gc", "--running").code == 2
        assert tuner("gc", *SPACE).out.startswith("kept")
        assert tuner("gc", *SPACE, "--running", "--yes").out.startswith("deleted")
        wait_for(lambda: not cluster.pods() and not cluster.processes(), "it to go")
    finally:
        del cluster.kubelet.env["QUICK_RUNNER_S"]


def test_objects_of_others_are_never_touched(cluster):
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}}
    job = {"metadata": {"name": "theirs", "labels": {"app": "other"}}, "spec": {"suspend": True, "template": template}}
    cluster.store.create("jobs", "demo", {**job, "status": {}})
    assert "nothing is left" in tuner("gc", "--namespace", "demo", "--all", "--yes").err
    assert [j["metadata"]["name"] for j in cluster.jobs()] == ["theirs"]


def test_status_says_what_a_running_trial_does(cluster, tmp_path):
    cluster.kubelet.env["QUICK_RUNNER_S"] = "600"
    command = ("search", *SPACE, "--runtime", "kubernetes", "--new-study", "watched", "--cancel")
    env = {**os.environ, "PYTHONPATH": str(SUPPORT.parents[1])}
    said, asked_before = tmp_path / "said", len(cluster.requests("GET"))
    with said.open("w") as err:
        child = subprocess.Popen(
            [sys.executable, "-c", "from tuner.cli import main; main()", *command], env=env, stderr=err
        )

    def seen(condition):
        assert child.poll() is None, said.read_text()
        return condition()

    try:
        looked = "tailLines"
        wait_for(lambda: seen(lambda: looked in str(cluster.requests("GET")[asked_before:])), "a look at its log")
        wait_for(lambda: seen(lambda: shown("watched", "level 2.10 req/s: p95 1.20 s")), "the level to be shown")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 130, said.read_text()
    finally:
        child.kill()
        child.wait()
        del cluster.kubelet.env["QUICK_RUNNER_S"]


def shown(study, text):
    time.sleep(0.5)
    return text in tuner("status", "--study", study).out


@pytest.mark.parametrize(
    ("option", "drained"),
    [("--drain", True), ("--cancel", False)],
)
def test_a_stopped_search_drains_or_cancels_as_asked(cluster, tmp_path, option, drained):
    """Trials run until the search has said what it does with them, or for ever."""
    cluster.kubelet.env["QUICK_RUNNER_UNTIL"] = str(tmp_path / "told")
    name = f"stopped{option[1:]}"

    def stop():
        wait_for(cluster.processes, "a trial")
        os.kill(os.getpid(), signal.SIGTERM)
        if drained:
            wait_for(lambda: "waiting for the running trials" in sys.stderr.getvalue(), "the search to heed it")
            (tmp_path / "told").touch()

    killer = threading.Thread(target=stop, daemon=True)
    killer.start()
    try:
        said = tuner(
            "search", *SPACE, "--runtime", "kubernetes", "--new-study", name, "--trials", "6", option, "--json"
        )
    finally:
        killer.join()
        del cluster.kubelet.env["QUICK_RUNNER_UNTIL"]
    assert said.code == 130, said.err
    trials = json.loads(said.out)["trials"]
    assert (trials["measured"] >= 1, trials["running"] == 0) == (drained, drained)
    assert ("waiting for the running trials" in said.err) == drained
    wait_for(lambda: not cluster.jobs() and not cluster.processes(), "no trial to be left")


def test_the_pages_way_without_a_tuner_lets_go_of_a_pod(cluster):
    """What docs/troubleshooting.md has kubectl send, and to which pods."""
    left_behind(cluster)
    page = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text()
    (patch,) = re.findall(r"--type strategic --patch '(.+)'$", page, re.MULTILINE)
    (selector,) = re.findall(r"kubectl get pods --selector (\S+)", page)
    key, _, value = selector.partition("=")
    (pod,) = [pod for pod in cluster.pods() if pod["metadata"]["labels"][key] == value]
    cluster.store.delete("jobs", "demo", cluster.jobs()[0]["metadata"]["name"])
    assert cluster.pods(), "the finalizer holds it"
    path = f"{cluster.server.url}/api/v1/namespaces/demo/pods/{pod['metadata']['name']}"
    kind = {"Content-Type": "application/strategic-merge-patch+json"}
    urlopen(Request(path, patch.encode(), kind, method="PATCH"), timeout=30).close()
    wait_for(lambda: not cluster.pods(), "the pod to go")
