"""The cluster that several modules test on."""

from __future__ import annotations

import pytest
from support.fake_cluster import FakeCluster
from support.kube_cases import QUICK


@pytest.fixture
def slow(tmp_path):
    """Trials that tell a level, and then take until they are ended."""
    with FakeCluster(tmp_path / "cluster", runner=QUICK, env={"QUICK_RUNNER_S": "600"}) as made:
        made.node("node-1")
        made.node("node-2")
        yield made
