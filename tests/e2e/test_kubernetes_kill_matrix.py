"""SIGKILL of the controller before and after every database write and every change asked of a cluster, each in turn.

Over HTTP on the fake cluster; a sample of it is in tests/runtime/kubernetes.
"""

from __future__ import annotations

import pytest
from support.kube_cases import begin, check_case, end, points_of, run_cases

pytestmark = pytest.mark.timeout(2400)


def test_a_kill_anywhere_is_survived(tmp_path):
    zygote = begin(tmp_path)
    try:
        (report,) = run_cases(zygote, tmp_path, [("never", 0)]).values()
        points = points_of(report)
        assert {"api create", "api free", "api delete", "spec", "result", "tell"} <= set(points.values())
        cases = [(when, number) for number in points for when in ("before", "after")]
        reports = run_cases(zygote, tmp_path, cases)
    finally:
        end(zygote)
    assert len(reports) == 2 * len(points) > 36
    for case, killed in reports.items():
        check_case(case, killed)
