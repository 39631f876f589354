"""Searches on a fake cluster with controllers of their own: starts `kube_zygote.py`, orders cases, judges reports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.fake_cluster import FakeCluster
from support.trials import wait_for

import tuner

SUPPORT = Path(__file__).parent
MODEL = Path(__file__).parents[1] / "e2e" / "data" / "tiny-model.json"
QUICK = [sys.executable, str(SUPPORT / "quick_runner.py")]
K8S = Path(__file__).parents[2] / "k8s"
WAIT_S = 300.0
"""Half a minute of work: this is for machines that have more to do."""


def begin(folder):
    """Start what takes orders."""
    shutil.copy(MODEL, folder)
    shutil.copy(SUPPORT / "two_pools.yaml", folder)
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    env["PYTHONPATH"] = str(Path(tuner.__file__).parents[1])  # this checkout, whatever is installed
    command = [sys.executable, str(SUPPORT / "kube_zygote.py"), str(folder / "two_pools.yaml")]
    with (folder / "zygote.log").open("w") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, text=True, start_new_session=True
        )


def send(zygote, order):
    zygote.stdin.write(json.dumps(order) + "\n")
    zygote.stdin.flush()


def end(zygote):
    zygote.stdin.close()
    if zygote.poll() is None:
        os.killpg(zygote.pid, signal.SIGKILL)
    zygote.wait()


def a_cluster(folder, **options):
    """Two nodes for each pool, and a controller that may do what the shipped roles allow."""
    cluster = FakeCluster(folder, runner=QUICK, **options)
    cluster.grant(K8S / "rbac.yaml", K8S / "rbac-nodes.yaml")
    for pool, resource in (("amd", "amd.com/gpu"), ("nvidia", "nvidia.com/gpu")):
        for number in (1, 2):
            cluster.node(f"{pool}-{number}", resource=resource, pool=pool)
    return cluster


def order(cluster, folder, **options):
    folder.mkdir(exist_ok=True)
    config = cluster.kubeconfig(folder / "kubeconfig")
    return {"folder": str(folder), "kubeconfig": str(config), "trials": 8, "kills": [], **options}


def report_of(folder, zygote):
    path = folder / "report.json"
    wait_for(lambda: path.exists() or zygote.poll() is not None, "the search to end", WAIT_S)
    assert path.exists(), (folder.parent / "zygote.log").read_text()[-3000:]
    return json.loads(path.read_text())


def attempt(pod):
    return int(pod["metadata"]["labels"]["sglang-tuner/attempt"])


def pool(pod):
    return pod["metadata"]["labels"]["sglang-tuner/pool"]


def assert_nothing_left(cluster):
    wait_for(lambda: not cluster.jobs() and not cluster.pods(), "the namespace to be empty")
    assert not cluster.processes()


def assert_told_once(report, count):
    """So many distinct observations, each told by exactly one controller; what was lost was tried again."""
    seen = [t for t in report["trials"] if t["state"] in ("COMPLETE", "PRUNED")]
    assert len({t["attrs"]["fingerprint"] for t in seen}) == len(seen) == count
    tells = [line for log in report["logs"] for line in log if line.startswith("after") and line.endswith(" tell")]
    finished = [t for t in report["trials"] if t["state"] != "RUNNING"]
    assert len(finished) == len(report["trials"])
    # A kill right after a tell is logged; one between the write and its log line cannot happen.
    assert len(tells) == len(finished)


def assert_booked(cluster, report):
    """GPU-seconds: at least as long as the container ran, at most as long as the pod had its node.

    A pod's times are whole seconds.
    """
    seen = {
        (c.labels["sglang-tuner/trial"], c.labels["sglang-tuner/attempt"]): c
        for c in cluster.kubelet.containers.values()
    }
    booked = 0
    for trial in report["trials"]:
        spec, gpu_s = trial["attrs"].get("spec"), trial["attrs"].get("gpu_seconds") or 0.0
        container = seen.get((spec["id"], str(spec["attempt"]))) if spec else None
        if container is None:
            continue  # no kubelet ever saw it
        booked += 1
        ran_s = container.ended_s - container.started_s if container.process else 0.0
        held_s = (container.gone_at or time.time()) - container.bound_at
        assert ran_s - 1.0 <= gpu_s / spec["gpus"] <= held_s, (trial, ran_s, held_s)
    assert booked


def run_cases(zygote, home, cases, at_once=4):
    """Case -> report, each on a cluster of its own, which must be clean in the end."""
    done = {}
    waiting, running = list(cases), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                case = waiting.pop(0)
                cluster = a_cluster(home / f"cluster-{case[0]}-{case[1]}").__enter__()
                running[case] = cluster
                kills = [list(case)] if case[1] else []
                send(zygote, order(cluster, home / f"{case[0]}-{case[1]}", trials=1, kills=kills))
            ended = [case for case in running if (home / f"{case[0]}-{case[1]}" / "report.json").exists()]
            for case in ended:
                cluster = running.pop(case)
                report = report_of(home / f"{case[0]}-{case[1]}", zygote)
                wait_for(lambda cluster=cluster: not cluster.jobs() and not cluster.pods(), f"{case} to be cleaned")
                done[case] = report
                assert not cluster.processes()
                cluster.__exit__()
            assert zygote.poll() is None or not running, (home / "zygote.log").read_text()[-3000:]
            time.sleep(0.05)
    finally:
        for cluster in running.values():
            cluster.__exit__()
    return done


def points_of(report):
    """Number -> what it is: `tell`, `api create`, `constraint failure`..."""
    lines = [line.split(" ", 2) for line in report["logs"][0] if line.startswith("before")]
    named = {int(number): name for _, number, name in lines}
    return {number: " ".join(name.split()[:2]) if name.startswith("api") else name for number, name in named.items()}


def check_case(case, report):
    assert report["codes"] == [-signal.SIGKILL, 0], case
    assert report["outcome"]["counted"] == 1, case
    assert_told_once(report, 1)
    creates = [line for log in report["logs"] for line in log if line.startswith("after") and " api create " in line]
    assert len(creates) <= 2, case  # the second one finds its own Job there, or the first never ran
