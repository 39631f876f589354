"""Trials on this machine: GPUs, restarts, runners that die. Real processes and real SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.trials import a_spec, alive, read_pids, wait_for

from tuner.errors import RuntimeUnusable
from tuner.runtime import deadlines
from tuner.runtime import local as local_module
from tuner.runtime.local import LocalRuntime
from tuner.runtime.protocol import Ended, Stage
from tuner.runtime.runner_process import FOLDER_VARIABLE, lives
from tuner.trial import processes

DATA = Path(__file__).parents[1] / "trial" / "data"


@pytest.fixture
def make(tmp_path):
    made = []

    def make_runtime(**options):
        settings = {"workdir": tmp_path / "trials", "gpus": (), "gpu_locks": tmp_path / "locks"} | options
        made.append(LocalRuntime({"here": 4}, **settings))
        return made[-1]

    yield make_runtime
    for runtime in made:
        runtime.close()


def endless(tmp_path, trial_id="t-1", *switches, **changes):
    return a_spec(
        "--never-ready", "--ignore-term", "--pids", tmp_path / f"{trial_id}.pids", *switches, id=trial_id, **changes
    )


def pids_of(tmp_path, trial_id="t-1"):
    return wait_for(lambda: read_pids(tmp_path / f"{trial_id}.pids"), f"{trial_id} to run")


def ended(runtime, timeout_s=60.0):
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        for notice in runtime.poll(0.5):
            if isinstance(notice, Ended):
                return notice.result
    raise AssertionError("no trial ended")


def runner_pids(folder):
    mark = f"{FOLDER_VARIABLE}={folder}"
    return processes.marked(processes.scan().values(), mark)


def log_of(tmp_path, trial_id):
    path = tmp_path / "trials" / f"{trial_id}-1" / "engine.log"
    return path.read_text() if path.exists() else ""


def test_a_failed_engine_is_told_as_the_runner_tells_it(make):
    runtime = make()
    runtime.start(a_spec("--die-at", "start", "--die-with", DATA / "unknown_flag.log", "--die-code", 2))
    result = ended(runtime)
    assert (result.state, result.failure.kind) == ("failed", "bad_flag")


def test_a_runner_killed_outright_is_infrastructure_and_its_engine_is_gone(make, tmp_path):
    runtime = make()
    runtime.start(endless(tmp_path, "t-1", "--family"))
    wait_for(lambda: len(read_pids(tmp_path / "t-1.pids")) == 4, "the family")
    pids = pids_of(tmp_path)
    folder = tmp_path / "trials" / "t-1-1"
    (runner,) = runner_pids(folder) - set(pids)
    os.kill(runner, signal.SIGKILL)
    result = ended(runtime)
    assert (result.failure.failure_class, result.failure.kind) == ("infrastructure", "runner_died")
    assert "exit code -9" in result.failure.message
    assert not any(alive(pid) for pid in pids)


def test_a_runner_that_cannot_start_says_what_it_printed(make, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'bad interpreter' >&2\nexit 9\n")
    broken.chmod(0o755)
    runtime = make(python=str(broken))
    runtime.start(a_spec())
    message = ended(runtime).failure.message
    assert "exit code 9" in message
    assert "bad interpreter" in message


def test_a_machine_without_the_interpreter_is_unusable(make):
    with pytest.raises(RuntimeUnusable, match="no runner can be started"):
        make(python="/no/such/python").start(a_spec())


def test_lines_of_a_runner_become_stages_levels_and_a_partial_result(make, tmp_path):
    """A runner that dies after a level leaves that level."""
    level = {"level": 0, "kind": "open", "rate_req_per_s": 2.0, "concurrency": None, "start_s": 0.0, "duration_s": 5.0}
    level |= {"requests": 9, "misses": 0, "errors": 0, "ttft_p50_s": 0.1, "ttft_p95_s": 0.2, "tpot_p50_ms": 5.0}
    level |= {"tpot_p95_ms": 6.0, "output_tokens_per_s": 80.0, "verdict": "holds"}
    level |= {"capacity_at_most_req_per_s": 2.4}
    lines = [
        json.dumps({"stage": "loading weights"}),
        "not ours",
        '{"a": 1, "b": 2}',
        "[]",
        json.dumps({"level": level}),
    ]
    lines += [json.dumps({"result": {"id": "x", "state": "nonsense"}})]
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\ncat {tmp_path}/lines\nkill -9 $$\n")
    fake.chmod(0o755)
    runtime = make(python=str(fake))
    runtime.start(a_spec(id="t-1"))
    notices = []
    while not any(isinstance(notice, Ended) for notice in notices):
        notices += runtime.poll(1.0)
    texts = [notice.text for notice in notices if isinstance(notice, Stage)]
    assert texts == ["starting", "loading weights", "level 2.00 req/s: p95 0.20 s, holds"]
    shown = [notice.capacity_at_most_req_per_s for notice in notices if isinstance(notice, Stage)]
    assert shown == [None, None, 2.4]
    result = notices[-1].result
    assert result.failure.kind == "runner_died"
    assert [kept.rate_req_per_s for kept in result.levels] == [2.0]


def test_a_runner_that_hangs_beyond_all_deadlines_is_ended(make, monkeypatch):
    monkeypatch.setattr(deadlines, "OVERDUE_S", -1e9)
    runtime = make()
    runtime.start(a_spec("--never-ready"))
    assert "hung far beyond" in ended(runtime).failure.message


# --- GPUs


def visible(tmp_path, trial_id):
    text = wait_for(
        lambda: "HIP_VISIBLE_DEVICES=" in log_of(tmp_path, trial_id) and log_of(tmp_path, trial_id), trial_id
    )
    return text.partition("HIP_VISIBLE_DEVICES=")[2].splitlines()[0]


def with_gpus(tmp_path, trial_id, gpus):
    return endless(tmp_path, trial_id, "--echo-env", "HIP_VISIBLE_DEVICES", gpus=gpus)


def test_trials_of_one_machine_never_share_gpus_and_wait_for_them(make, tmp_path, monkeypatch):
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    runtime = make(gpus=("0", "1", "2", "3"))
    for trial_id in ("a", "b", "c"):
        runtime.start(with_gpus(tmp_path, trial_id, 2))
    assert (visible(tmp_path, "a"), visible(tmp_path, "b")) == ("0,1", "2,3")
    assert log_of(tmp_path, "c") == ""
    runtime.release("a")
    runtime.poll(0.0)
    assert visible(tmp_path, "c") == "0,1"


def test_a_trial_that_uses_all_gpus_is_told_nothing(make, tmp_path, monkeypatch):
    monkeypatch.delenv("HIP_VISIBLE_DEVICES", raising=False)
    runtime = make(gpus=("0", "1"))
    runtime.start(with_gpus(tmp_path, "a", 2))
    assert visible(tmp_path, "a") == "None"


def test_two_controllers_on_one_machine_do_not_share_gpus(make, tmp_path):
    one, other = make(gpus=("0", "1")), make(gpus=("0", "1"), workdir=tmp_path / "other")
    one.start(with_gpus(tmp_path, "a", 1))
    pids_of(tmp_path, "a")
    other.start(endless(tmp_path, "b", gpus=2))
    assert [notice.text for notice in other.poll(0.2)] == ["waiting for 2 free GPUs of this machine"]
    assert not (tmp_path / "b.pids").exists()
    one.release("a")
    other.poll(0.0)
    assert pids_of(tmp_path, "b")


def test_a_trial_larger_than_the_machine_makes_the_runtime_unusable(make):
    with pytest.raises(RuntimeUnusable, match="needs 8 GPUs and this machine has 4"):
        make(gpus=("0", "1", "2", "3")).start(a_spec(gpus=8))


# --- restarts

CONTROLLER = """
import json, os, signal, sys
from pathlib import Path
from tuner.runtime.local import LocalRuntime
from tuner.trial.spec import TrialSpec
settings = json.loads(sys.argv[1])
def on_process_start(when):
    if when.startswith(settings["die"]):
        os.kill(os.getpid(), signal.SIGKILL)
runtime = LocalRuntime({"here": 1}, workdir=Path(settings["workdir"]), gpus=(), on_process_start=on_process_start)
runtime.reconcile("uid-1", {})
runtime.start(TrialSpec.from_json(settings["spec"]))
while True:
    runtime.poll(1.0)
    print("polled", flush=True)
"""


def controller(tmp_path, spec, die="never"):
    settings = {"workdir": str(tmp_path / "trials"), "spec": spec.as_json(), "die": die}
    return subprocess.Popen([sys.executable, "-c", CONTROLLER, json.dumps(settings)], stdout=subprocess.DEVNULL)


def test_a_killed_controller_takes_its_runner_and_engine_along(tmp_path):
    """SIGKILL: nobody can tell the runner; it sees the control pipe close."""
    parent = controller(tmp_path, endless(tmp_path, "t-1", "--family"))
    wait_for(lambda: len(read_pids(tmp_path / "t-1.pids")) == 4, "the family")
    pids = pids_of(tmp_path) + list(runner_pids(tmp_path / "trials" / "t-1-1"))
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids), "everything to end")


@pytest.mark.parametrize("die", ["before", "after"])
def test_killed_around_a_start_nothing_runs_twice_and_nothing_is_left(make, tmp_path, die):
    parent = controller(tmp_path, endless(tmp_path, "t-1"), die)
    assert parent.wait(60) == -signal.SIGKILL
    runtime = make()
    assert runtime.reconcile("uid-1", {"t-1": 1}) == {"t-1": "gone"}
    assert not runner_pids(tmp_path / "trials" / "t-1-1")
    assert not any(alive(pid) for pid in read_pids(tmp_path / "t-1.pids"))
    assert not (tmp_path / "trials" / "t-1-1").exists()
    runtime.start(endless(tmp_path, "t-1"))
    assert pids_of(tmp_path)


def test_reconciling_waits_until_an_earlier_controllers_runner_is_gone(make, tmp_path):
    parent = controller(tmp_path, endless(tmp_path, "t-1"))
    pids = pids_of(tmp_path)
    folder = tmp_path / "trials" / "t-1-1"
    assert lives(folder)
    parent.kill()
    parent.wait()
    assert make().reconcile("uid-1", {"t-1": 1}) == {"t-1": "gone"}
    assert not any(alive(pid) for pid in pids)
    assert not lives(folder)


def test_a_stopped_runner_of_an_earlier_controller_is_killed(make, tmp_path, monkeypatch):
    """It does not react to its control pipe; its lock tells that it lives."""
    monkeypatch.setattr(local_module, "STOP_AT_MOST_S", 0.5)
    parent = controller(tmp_path, endless(tmp_path, "t-1"))
    pids = pids_of(tmp_path)
    (runner,) = runner_pids(tmp_path / "trials" / "t-1-1") - set(pids)
    os.kill(runner, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert make().reconcile("uid-1", {"t-1": 1}) == {"t-1": "gone"}
    assert not any(alive(pid) for pid in [runner, *pids])


def test_a_folder_of_another_study_is_refused(make):
    make().reconcile("uid-1", {})
    make().reconcile("uid-1", {})
    with pytest.raises(RuntimeUnusable, match=r"another study \(uid-1\)"):
        make().reconcile("uid-2", {})


def test_a_folder_that_cannot_be_made_is_unusable(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeUnusable, match="not usable"):
        make(workdir=tmp_path / "file").reconcile("uid-1", {})


def test_release_deletes_what_the_trial_left(make, tmp_path):
    runtime = make()
    runtime.start(a_spec("--die-at", "start", id="t-1"))
    ended(runtime)
    assert (tmp_path / "trials" / "t-1-1" / "engine.log").exists()
    runtime.release("t-1")
    assert list((tmp_path / "trials").iterdir()) == []


def test_the_hook_is_called_before_and_after_a_start(make):
    seen = []
    make(on_process_start=seen.append).start(a_spec("--die-at", "start", id="t-1"))
    assert seen == ["before t-1", "after t-1"]
