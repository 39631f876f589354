"""Trials by a user's command: what it must answer, and what becomes of everything else it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.fake_engine import SLEEPER
from support.trials import a_spec, alive, read_pids, wait_for

from tuner.errors import RuntimeUnusable
from tuner.runtime.external import ExternalRuntime
from tuner.runtime.protocol import Ended, Stage
from tuner.trial.spec import TrialSpec

GOOD = {"id": "t-1", "state": "measured", "capacity_req_per_s": 2.0, "ttft_p95_s": 1.5, "output_tokens_per_s": 900.0}


@pytest.fixture
def run():
    made = []

    def run_command(script, timeout_s=30.0, **changes):
        runtime = ExternalRuntime(["sh", "-c", script], timeout_s=timeout_s, stop_s=0.5)
        made.append(runtime)
        runtime.start(a_spec(id="t-1", **changes))
        notices = []
        give_up_s = time.monotonic() + 60
        while not any(isinstance(notice, Ended) for notice in notices) and time.monotonic() < give_up_s:
            notices += runtime.poll(1.0)
        return notices

    yield run_command
    for runtime in made:
        runtime.close()


def test_the_specification_goes_in_and_the_result_comes_out(run, tmp_path):
    """Five fields are enough."""
    *_, last = run(f"cat > {tmp_path}/given; echo '{json.dumps(GOOD)}'")
    assert last.result.state == "measured"
    assert last.result.capacity_req_per_s == 2.0
    assert not last.result.simulated
    assert TrialSpec.from_json(json.loads((tmp_path / "given").read_text())) == a_spec(id="t-1")


def test_stderr_is_progress(run):
    *stages, _ = run(f"echo one >&2; echo >&2; echo two >&2; echo '{json.dumps(GOOD)}'")
    assert [stage.text for stage in stages if isinstance(stage, Stage)] == ["one", "two"]


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ("echo 'quota exceeded' >&2; exit 4", "command_failed", "exit code 4: quota exceeded"),
        ("kill -9 $$", "command_failed", "exit code 137"),
        ("exit 75", "try_again", "exit code 75"),
        ("echo '{'", "no_result", "sh: Expecting"),
        ("true", "no_result", "Expecting value"),
        ("echo '[]'", "no_result", "list"),
        (f"echo '{json.dumps(GOOD | {'id': 't-2'})}'", "no_result", "for trial 't-2', not for 't-1'"),
        (f"echo '{json.dumps(GOOD | {'state': 'fine'})}'", "no_result", "`state`"),
        (f"echo '{json.dumps(GOOD | {'ttft_p95_s': None})}'", "no_result", "ttft_p95_s must be a finite number"),
        (f"echo '{json.dumps(GOOD | {'gpu_seconds': 'long'})}'", "no_result", "gpu_seconds must be a finite number"),
        (f"echo '{json.dumps(GOOD | {'node': 7})}'", "no_result", "node must be a text"),
        (f"echo '{json.dumps(GOOD | {'failure': {'class': 'bad'}})}'", "no_result", "class of a failure is one of"),
        ("sleep 60", "timeout", "longer than 1 s"),
    ],
)
def test_whatever_is_not_a_result_is_infrastructure_and_says_why(run, script, kind, says):
    *_, last = run(script, timeout_s=1.0 if kind == "timeout" else 30.0, gpus=8)
    assert last.attempt == 1
    assert last.result.state == "failed"
    assert (last.result.failure.failure_class, last.result.failure.kind) == ("infrastructure", kind)
    assert says in last.result.failure.message
    assert last.result.gpu_seconds > 0


@pytest.mark.parametrize(
    ("failure", "failure_class", "kind", "message"),
    [
        (None, "configuration", "unspecified", ""),
        ("out of memory", "configuration", "unspecified", "out of memory"),
        ({"message": "out of memory"}, "configuration", "unspecified", "out of memory"),
        ({"kind": "oom"}, "configuration", "oom", ""),
        ({"class": "infrastructure", "kind": "preempted"}, "infrastructure", "preempted", ""),
    ],
)
def test_a_failure_written_by_hand_needs_no_more_than_its_state(run, failure, failure_class, kind, message):
    *_, last = run(f"echo '{json.dumps({'id': 't-1', 'state': 'failed', 'failure': failure})}'")
    told = last.result.failure
    assert (told.failure_class, told.kind, told.message) == (failure_class, kind, message)


def test_a_ttft_that_never_ends_is_no_figure(run):
    """json.dumps of a simulator's infinity: the trial missed its limit, by how much is not known."""
    *_, last = run("""echo '{"id": "t-1", "state": "infeasible", "ttft_p95_s": Infinity, "bound_req_per_s": NaN}'""")
    assert last.result.state == "infeasible"
    assert last.result.ttft_p95_s is None
    assert last.result.bound_req_per_s is None


def test_the_time_of_a_trial_that_does_not_tell_its_own_is_what_the_command_took(run):
    """Else a budget of GPU-hours or USD would never end a search through a command."""
    *_, last = run(f"sleep 0.2; echo '{json.dumps(GOOD)}'", gpus=8)
    assert last.result.gpu_seconds >= 8 * 0.2
    *_, last = run(f"echo '{json.dumps(GOOD | {'gpu_seconds': 7200.0})}'", gpus=8)
    assert last.result.gpu_seconds == 7200.0


def test_a_simulated_result_stays_marked(run):
    *_, last = run(f"echo '{json.dumps(GOOD | {'simulated': True})}'")
    assert last.result.simulated


def test_a_command_that_cannot_be_started_is_infrastructure(tmp_path):
    runtime = ExternalRuntime([str(tmp_path / "none")], timeout_s=5.0)
    runtime.start(a_spec(id="t-1"))
    notices = []
    while not any(isinstance(notice, Ended) for notice in notices):
        notices += runtime.poll(1.0)
    assert "exit code 127" in notices[-1].result.failure.message
    assert "No such file" in notices[-1].result.failure.message


def test_no_command_is_refused():
    with pytest.raises(RuntimeUnusable, match="no command"):
        ExternalRuntime([], timeout_s=1.0)


FAMILY = f"""
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pids = [os.getpid()]
pids += [subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=new).pid for new in (False, True)]
open(sys.argv[1] + ".new", "w").write(json.dumps(pids))
os.replace(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["timeout", "release", "close"])
def test_a_command_and_all_it_started_end_with_the_trial(tmp_path, how):
    """It ignores SIGTERM and has a child in a session of its own."""
    command = [sys.executable, "-c", FAMILY, str(tmp_path / "pids")]
    runtime = ExternalRuntime(command, timeout_s=1.5 if how == "timeout" else 60.0, stop_s=0.2)
    try:
        runtime.start(a_spec(id="t-1"))
        pids = wait_for(lambda: read_pids(tmp_path / "pids"), "the family")
        assert len(pids) == 3
        if how == "release":
            runtime.release("t-1")
        elif how == "close":
            runtime.close()
        else:
            wait_for(lambda: any(isinstance(notice, Ended) for notice in runtime.poll(0.5)), "the end")
        assert not any(alive(pid) for pid in pids)
    finally:
        runtime.close()


def test_released_before_its_command_is_up_it_is_ended_all_the_same(tmp_path):
    runtime = ExternalRuntime([sys.executable, "-c", FAMILY, str(tmp_path / "pids")], timeout_s=60.0, stop_s=0.2)
    runtime.start(a_spec(id="t-1"))
    runtime.release("t-1")
    assert not any(alive(pid) for pid in read_pids(tmp_path / "pids"))
    assert not runtime.poll(0.0)


CONTROLLER = """
import json, sys
from tuner.runtime.external import ExternalRuntime
from tuner.trial.spec import TrialSpec
settings = json.loads(sys.argv[1])
runtime = ExternalRuntime(settings["command"], timeout_s=600.0, stop_s=0.2)
runtime.start(TrialSpec.from_json(settings["spec"]))
runtime.poll(600.0)
"""


def test_a_killed_controller_takes_the_command_along(tmp_path):
    command = [sys.executable, "-c", FAMILY, str(tmp_path / "pids")]
    settings = json.dumps({"command": command, "spec": a_spec(id="t-1").as_json()})
    parent = subprocess.Popen([sys.executable, "-c", CONTROLLER, settings])
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), "the family")
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids), "everything to end")


def test_a_supervisor_that_is_told_to_end_ends_its_command(tmp_path):
    theirs, ours = os.pipe()
    command = [sys.executable, "-m", "tuner.runtime.supervise", "--control-fd", str(theirs), "--stop-s", "0.2", "--"]
    child = subprocess.Popen([*command, sys.executable, "-c", FAMILY, str(tmp_path / "pids")], pass_fds=(theirs,))
    os.close(theirs)
    pids = wait_for(lambda: read_pids(tmp_path / "pids"), "the family")
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 75
    os.close(ours)
    assert not any(alive(pid) for pid in pids)
