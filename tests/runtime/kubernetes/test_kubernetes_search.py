"""Whole searches over HTTP on the fake cluster: real client, real objects, real processes, and controllers that die."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
from support.kube_cases import (
    WAIT_S,
    a_cluster,
    assert_booked,
    assert_nothing_left,
    assert_told_once,
    begin,
    check_case,
    end,
    order,
    points_of,
    pool,
    report_of,
    run_cases,
    send,
)

pytestmark = pytest.mark.timeout(2 * WAIT_S)


def test_a_search_survives_what_a_weekend_brings(tmp_path):
    """8 trials, four at a time; a pull, an OOM, evictions, a lost node, a quota, an outage, 6 dead controllers."""
    with a_cluster(tmp_path / "cluster", env={"QUICK_RUNNER_S": "1"}) as cluster:
        oom = cluster.plan("oom", lambda pod: pool(pod) == "amd")
        lost = cluster.plan(
            "lose_node", lambda pod: oom.done and oom.pod != pod["metadata"]["name"] and pool(pod) == "amd"
        )
        evicted = cluster.plan("evict", lambda pod: pool(pod) == "nvidia")
        pressed = cluster.plan("pressure", lambda pod: evicted.done and pool(pod) == "nvidia")
        image = cluster.plan("image", lambda pod: pressed.done and pool(pod) == "nvidia")
        quota = "requested: count/jobs.batch=1, used: count/jobs.batch=9, limited: count/jobs.batch=9"
        cluster.fault("POST", "/jobs$", 403, "Forbidden", f'jobs.batch "x" is forbidden: exceeded quota: jobs, {quota}')
        cluster.fault("GET", "/pods$", 503, "ServiceUnavailable", "etcd leader changed", times=3)
        cluster.fault("POST", "/jobs$", 0, late=True, times=9)
        kills = [["after", 12], ["before", 11], ["after", 16], ["before", 21], ["after", 14], ["before", 9]]
        folder = tmp_path / "study"
        zygote = begin(tmp_path)
        send(zygote, order(cluster, folder, kills=kills))
        try:
            report = report_of(folder, zygote)
        finally:
            end(zygote)
        kinds = Counter((t["attrs"].get("failure") or "").partition(":")[0] for t in report["trials"])
        why = report["outcome"], (tmp_path / "zygote.log").read_text()[-3000:]
        assert report["codes"] == [-signal.SIGKILL] * len(kills) + [0], why
        assert report["outcome"]["counted"] == 8, report["outcome"]
        assert_told_once(report, 8)
        assert [plan.what for plan in (oom, lost, evicted, pressed, image) if not plan.done] == []
        assert {"host_oom", "node_lost", "evicted", "image_pull"} <= set(kinds), kinds
        assert sum(t["state"] == "FAIL" and t["attrs"]["state"] == "failed" for t in report["trials"]) == 4, kinds
        assert_booked(cluster, report)
        # The roles we ship are enough, and none of it is too much. A Job is read only where its name turns out to be
        # taken, which the kills of this test bring about or not: the test of `name_taken` asserts that one.
        assert cluster.api.used <= cluster.api.allowed
        assert cluster.api.allowed - cluster.api.used <= {"get jobs.batch"}
        for node in cluster.kubelet.dead_nodes:  # the pod of a lost node stays until somebody removes the node
            cluster.store.delete("nodes", "", node)
        assert_nothing_left(cluster)


# --- one trial, and a controller that dies at every point in turn

SAMPLE = (
    ("after", "spec"),
    ("before", "api create"),
    ("after", "api create"),
    ("before", "result"),
    ("after", "result"),
    ("before", "tell"),
    ("before", "api free"),
    ("after", "api delete"),
)


def test_a_controller_killed_around_a_call_or_a_write_loses_nothing(tmp_path):
    """A sample; tests/e2e has every point."""
    zygote = begin(tmp_path)
    try:
        (report,) = run_cases(zygote, tmp_path, [("never", 0)]).values()
        numbered = {name: number for number, name in points_of(report).items()}
        assert {name for _, name in SAMPLE} <= set(numbered)
        cases = run_cases(zygote, tmp_path, [(when, numbered[name]) for when, name in SAMPLE])
    finally:
        end(zygote)
    for case, killed in cases.items():
        check_case(case, killed)
