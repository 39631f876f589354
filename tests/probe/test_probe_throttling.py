from __future__ import annotations

import asyncio
import time

import pytest

from tuner.probe.throttling import Throttled, throttled
from tuner.probe.timer import Alarm, PreciseTimer


@pytest.mark.parametrize(
    ("own", "file", "text", "expected"),
    [
        ("0::/\n", "cpu.stat", "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n", Throttled(3, 2.5)),
        ("0::/kube/pod\n", "kube/pod/cpu.stat", "nr_throttled 1\nthrottled_usec 1000\n", Throttled(1, 0.001)),
        ("3:cpu,cpuacct:/\n", "cpu,cpuacct/cpu.stat", "nr_throttled 2\nthrottled_time 10\n", Throttled(2, 1e-8)),
        (
            "1:cpu:/a\n",
            "cpu/a/cpu.stat",
            "nr_periods 1\nnr_throttled 4\nthrottled_time 5000000000\n",
            Throttled(4, 5.0),
        ),
        ("0::/gone\n", "cpu.stat", "nr_throttled 0\nthrottled_usec 0\n", Throttled(0, 0.0)),
        ("0::/\n", "cpu.stat", "usage_usec 5\n", None),
        ("0::/\n", "other", "", None),
    ],
)
def test_counters_of_both_cgroup_versions(tmp_path, own, file, text, expected):
    groups = tmp_path / "cgroup"
    (groups / file).parent.mkdir(parents=True)
    (groups / file).write_text(text)
    (tmp_path / "own").write_text(own)
    assert throttled(groups, tmp_path / "own") == expected


def test_where_there_are_no_groups_nothing_is_known(tmp_path):
    assert throttled(tmp_path, tmp_path / "none") is None
    assert Throttled(5, 2.0).since(Throttled(2, 0.5)) == Throttled(3, 1.5)


def test_an_alarm_never_rings_early_and_rings_for_times_that_have_passed():
    async def main():
        alarm = Alarm()
        try:
            for ahead_s in (0.004, 0.0007, -1.0):
                due_s = time.perf_counter() + ahead_s
                await alarm.until(due_s)
                assert time.perf_counter() >= due_s
        finally:
            alarm.close()

    asyncio.run(main())


def test_a_timer_set_again_rings_once_also_without_the_kernels(monkeypatch):
    async def main(*, kernel: bool) -> int:
        if not kernel:
            monkeypatch.setattr(PreciseTimer, "_open", lambda self: -1)
        rung = []
        timer = PreciseTimer(lambda: rung.append(1))
        timer.at(time.perf_counter() + 0.001)
        timer.at(time.perf_counter() + 0.005)
        await asyncio.sleep(0.05)
        timer.close()
        return len(rung)

    assert [asyncio.run(main(kernel=k)) for k in (True, False)] == [1, 1]
