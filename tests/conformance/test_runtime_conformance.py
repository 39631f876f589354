"""What every Runtime must do, whatever runs its trials. A new one joins by an entry in `RUNTIMES`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.clusters import IMAGE, runtime_on
from support.fake_cluster import FakeCluster
from support.trials import a_spec, alive, read_pids, wait_for

from tuner.runtime.external import ExternalRuntime
from tuner.runtime.local import LocalRuntime
from tuner.runtime.protocol import Ended, Runtime, Stage
from tuner.trial.spec import TrialSpec

# Answers at once, or goes on until it is ended, as the spec's engine does.
COMMAND = """
import json, os, sys, time
spec = json.load(sys.stdin)
if "--never-ready" in spec["argv"]:
    pids = spec["argv"][spec["argv"].index("--pids") + 1]
    open(pids + ".new", "w").write(json.dumps([os.getpid()]))
    os.replace(pids + ".new", pids)
    print("loading", file=sys.stderr, flush=True)
    time.sleep(600)
failure = {"class": "configuration", "kind": "bad_flag", "message": "no"}
print(json.dumps({"id": spec["id"], "state": "failed", "failure": failure}))
"""


@dataclass
class Case:
    """A runtime, and specs of it that end at once or never. `outlives`: trials go on without their controller."""

    runtime: Runtime
    folder: Path
    outlives: bool = False

    def ends(self, trial_id: str, **changes: Any) -> TrialSpec:
        return self._spec("--die-at", "start", "--die-code", 3, id=trial_id, **changes)

    def endless(self, trial_id: str) -> TrialSpec:
        return self._spec("--never-ready", "--ignore-term", "--pids", self.folder / f"{trial_id}.pids", id=trial_id)

    def _spec(self, *switches: object, **changes: Any) -> TrialSpec:
        spec = a_spec(*switches, image=IMAGE, **changes)
        return replace(spec, context={**spec.context, "study_uid": "uid-1"})

    def assert_ended(self, pids: list[int]) -> None:
        """At once; but a cluster ends its own processes in its own time."""
        if self.outlives:
            wait_for(lambda: not any(alive(pid) for pid in pids), "the cluster to end its processes")
        assert not any(alive(pid) for pid in pids)

    def pids(self, trial_id: str) -> list[int]:
        return wait_for(lambda: read_pids(self.folder / f"{trial_id}.pids"), f"{trial_id} to run")

    def poll_until_ended(self, *trial_ids: str) -> dict[str, Ended]:
        ended: dict[str, Ended] = {}
        give_up_s = time.monotonic() + 60
        while set(trial_ids) - set(ended) and time.monotonic() < give_up_s:
            for notice in self.runtime.poll(0.5):
                if isinstance(notice, Ended):
                    assert notice.trial_id not in ended, "an end is reported once"
                    ended[notice.trial_id] = notice
        assert set(ended) == set(trial_ids)
        return ended


def local(folder: Path) -> Runtime:
    return LocalRuntime({"here": 2}, workdir=folder / "trials", gpus=())


def external(folder: Path) -> Runtime:
    return ExternalRuntime([sys.executable, "-c", COMMAND], timeout_s=60.0, parallel=2, stop_s=1.0)


RUNTIMES: dict[str, Callable[[Path], Runtime]] = {"local": local, "external": external}


@contextmanager
def case_of(name: str, folder: Path):
    if name == "kubernetes":
        with FakeCluster(folder / "cluster") as cluster:
            cluster.node("node-1")
            cluster.node("node-2")
            yield Case(runtime_on(cluster), folder, outlives=True)
        return
    case = Case(RUNTIMES[name](folder), folder)
    try:
        yield case
    finally:
        case.runtime.close()


@pytest.fixture(params=[*sorted(RUNTIMES), "kubernetes"])
def case(request, tmp_path):
    with case_of(request.param, tmp_path) as made:
        yield made


def test_it_has_a_name_slots_and_a_clock_that_goes_on(case):
    runtime = case.runtime
    assert runtime.name
    assert isinstance(runtime.simulated, bool)
    assert runtime.slots("here") == 2
    assert runtime.slots("a pool it has never heard of") >= 1
    assert runtime.now_s() <= runtime.now_s()


def test_a_trial_ends_once_with_its_attempt_and_its_result(case):
    case.runtime.start(case.ends("t-1", attempt=3))
    ended = case.poll_until_ended("t-1")["t-1"]
    assert ended.attempt == 3
    assert ended.result.id == "t-1"
    assert ended.result.state == "failed"
    assert not [notice for notice in case.runtime.poll(0.3) if isinstance(notice, Ended)]


def test_trials_run_side_by_side_up_to_the_slots(case):
    for trial_id in ("t-1", "t-2"):
        case.runtime.start(case.endless(trial_id))
    assert len({case.pids("t-1")[0], case.pids("t-2")[0]}) == 2


def test_starting_again_does_nothing_while_it_runs(case):
    spec = case.endless("t-1")
    case.runtime.start(spec)
    first = case.pids("t-1")
    case.runtime.start(spec)
    case.runtime.poll(0.5)
    assert read_pids(case.folder / "t-1.pids") == first
    assert alive(first[0])


def test_starting_again_does_nothing_once_it_has_ended(case):
    spec = case.ends("t-1")
    case.runtime.start(spec)
    case.poll_until_ended("t-1")
    case.runtime.start(spec)
    assert not [notice for notice in case.runtime.poll(1.0) if isinstance(notice, Ended)]


def test_a_further_attempt_runs_again(case):
    spec = case.ends("t-1")
    case.runtime.start(spec)
    case.poll_until_ended("t-1")
    case.runtime.start(replace(spec, attempt=2))
    assert case.poll_until_ended("t-1")["t-1"].attempt == 2


def test_after_its_release_the_same_attempt_runs_again(case):
    spec = case.ends("t-1")
    case.runtime.start(spec)
    case.poll_until_ended("t-1")
    case.runtime.release("t-1")
    case.runtime.start(spec)
    case.poll_until_ended("t-1")


def test_progress_is_told_before_the_end(case):
    case.runtime.start(case.endless("t-1"))
    case.pids("t-1")
    stages = wait_for(lambda: [n for n in case.runtime.poll(0.5) if isinstance(n, Stage)], "a stage")
    assert all(stage.trial_id == "t-1" and stage.text for stage in stages)


def test_a_running_trial_that_is_released_leaves_no_process_and_no_notice(case):
    case.runtime.start(case.endless("t-1"))
    pids = case.pids("t-1")
    case.runtime.release("t-1")
    case.assert_ended(pids)
    assert not case.runtime.poll(0.2)


def test_releasing_the_unknown_is_ignored(case):
    case.runtime.release("never heard of")


def test_waiting_ends_with_its_time_when_nothing_happens(case):
    assert list(case.runtime.poll(0.05)) == []
    assert list(case.runtime.poll(0.0)) == []


def test_after_a_restart_what_is_not_there_is_gone(case):
    assert case.runtime.reconcile("uid-1", {}) == {}
    assert case.runtime.reconcile("uid-1", {"t-8": 1, "t-9": 2}) == {"t-8": "gone", "t-9": "gone"}


def test_reconciling_knows_what_runs_what_ended_and_other_attempts(case):
    case.runtime.start(case.endless("t-1"))
    case.runtime.start(case.ends("t-2"))
    pids = case.pids("t-1")
    case.poll_until_ended("t-2")
    fates = case.runtime.reconcile("uid-1", {"t-1": 1, "t-2": 1, "t-3": 1})
    assert fates == {"t-1": "running", "t-2": "finished", "t-3": "gone"}
    assert case.runtime.reconcile("uid-1", {"t-1": 2, "t-2": 1}) == {"t-1": "gone", "t-2": "finished"}
    case.assert_ended(pids)  # an attempt that is not expected is removed


def test_closing_leaves_no_process_of_its_own_and_may_be_repeated(case):
    for trial_id in ("t-1", "t-2"):
        case.runtime.start(case.endless(trial_id))
    pids = case.pids("t-1") + case.pids("t-2")
    case.runtime.close()
    case.runtime.close()
    assert [alive(pid) for pid in pids] == [case.outlives] * len(pids)


def test_a_specification_survives_its_way_as_json(case):
    """Every runtime passes it on as text somewhere."""
    spec = case.ends("t-1")
    assert TrialSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec
