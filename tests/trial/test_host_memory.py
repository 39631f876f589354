from __future__ import annotations

from pathlib import Path

import pytest

from tuner.trial.host_memory import OomCounts, read_counts

V2 = {
    "/proc/self/cgroup": "0::/pod/a\n",
    "/sys/fs/cgroup/pod/a/memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\n",
}
V2_NAMESPACED = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.events": "oom 2\noom_kill 3\noom_group_kill 0\n"}
V1 = {
    "/proc/self/cgroup": "4:memory:/pod\n1:cpu:/\n",
    "/sys/fs/cgroup/memory/pod/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "/sys/fs/cgroup/memory/pod/memory.failcnt": "2\n",
}


@pytest.mark.parametrize(
    ("files", "counts"),
    [(V2, OomCounts(3, 2)), (V2_NAMESPACED, OomCounts(3, 2)), (V1, OomCounts(3, 2)), ({}, OomCounts())],
)
def test_counters_of_both_cgroup_versions(files, counts):
    assert read_counts(lambda path: files.get(str(path), "")) == counts


@pytest.mark.parametrize(
    ("now", "cause"),
    [(OomCounts(1, 5), ""), (OomCounts(2, 6), "limit"), (OomCounts(2, 5), "machine"), (OomCounts(1, 9), "")],
)
def test_only_what_happened_since_counts(now, cause):
    """Reclaim at the limit without a kill is no cause of death."""
    assert now.since(OomCounts(1, 5)).cause == cause


def test_the_real_machine_can_be_read():
    assert read_counts().kills >= 0
    assert Path("/proc/self/cgroup").exists()
