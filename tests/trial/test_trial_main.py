"""`python -m tuner.trial` as a process: lines, exit codes, signals, the control pipe."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.trials import a_spec, alive, read_pids, wait_for

from tuner.space.workload import Limits
from tuner.trial.__main__ import main
from tuner.trial.compact import read_compact
from tuner.trial.records import read_file, read_records
from tuner.trial.result import TrialResult
from tuner.trial.spec import Confirm, Deadlines
from tuner.trial.telling import RECORDS_NAME, Lines

DATA = Path(__file__).parent / "data"


class Runner:
    """A runner with a control pipe, its spec in a file, and its lines collected."""

    def __init__(self, tmp_path, *switches, options=(), python=sys.executable, **changes):
        self.pid_file = tmp_path / "pids"
        spec = tmp_path / "spec.json"
        spec.write_text(json.dumps(a_spec(*switches, "--pids", self.pid_file, **changes).as_json()))
        theirs, self.control = os.pipe()
        command = [python, "-m", "tuner.trial", "--spec", str(spec), "--workdir", str(tmp_path / "trial")]
        command += ["--control-fd", str(theirs), *map(str, options)]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=(theirs,)
        )
        os.close(theirs)
        self.lines = []

    def read_until(self, kind, text=""):
        for raw in self.child.stdout:
            line = json.loads(raw)
            self.lines.append(line)
            if kind in line and text in str(line[kind]):
                return line[kind]
        raise AssertionError(f"no {kind} {text!r} in {self.lines}; {self.child.stderr.read()}")

    def close_control(self):
        if self.control >= 0:
            os.close(self.control)
        self.control = -1

    def result(self):
        return TrialResult.from_json(self.read_until("result"))

    def end(self):
        """Exit code; nothing of the engine may be left."""
        code = self.child.wait(60)
        assert not any(alive(pid) for pid in read_pids(self.pid_file))
        return code


@pytest.fixture
def start(tmp_path):
    runners = []

    def start_runner(*switches, **changes):
        runners.append(Runner(tmp_path, *switches, **changes))
        return runners[-1]

    yield start_runner
    for runner in runners:
        runner.close_control()
        runner.child.kill()
        runner.child.communicate()


def test_a_failed_engine_is_a_result_and_exit_0(start):
    runner = start("--die-at", "start", "--die-with", DATA / "bad_choice.log", "--die-code", "2")
    result = runner.result()
    assert (result.state, result.failure.kind) == ("failed", "bad_flag")
    assert runner.end() == 0
    assert runner.lines[0] == {"stage": "starting the engine"}
    assert list(runner.lines[-1]) == ["result"]


def test_a_trial_from_start_to_end_with_a_real_load_over_real_sockets(start):
    """The only test here that takes its seconds: a rate far below the fake engine's 50 req/s is confirmed.

    The limit is wide, so that a busy machine's lag (gated at a share of it) does not make the measurement invalid.
    """
    runner = start(
        *("--slots", 4, "--token-s", 0.01),
        limits=Limits(ttft_p95_s=60.0),
        confirm=Confirm(10.0, 6.0),
        deadlines=Deadlines(60.0, 60.0, 100.0, 3.0),
    )
    result = runner.result()
    assert runner.end() == 0
    assert result.state == "measured", result
    assert result.capacity_req_per_s == pytest.approx(10.0)
    assert 0.0 < result.ttft_p95_s < 60.0
    assert result.measurement.samples > 0
    assert result.versions["engine"] == "0.5.23"
    assert result.start_up_s > 0
    assert [line for line in runner.lines if "level" in line]


def test_a_signal_under_load_ends_with_75_and_the_levels_measured_until_then(start):
    runner = start("--slots", 4, "--token-s", 0.01, "--family", "--ignore-term")
    runner.read_until("level")
    runner.child.terminate()
    result = runner.result()
    assert (result.state, result.failure.kind) == ("failed", "interrupted")
    assert result.levels
    assert runner.end() == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_engine_and_ends_with_75(start, number):
    """Also an engine deaf to SIGTERM with grandchildren in other sessions."""
    runner = start("--never-ready", "--ignore-term", "--family")
    runner.read_until("stage", "KV cache holds")
    runner.child.send_signal(number)
    result = runner.result()
    assert (result.state, result.failure.kind) == ("failed", "interrupted")
    assert number.name in result.failure.message
    assert runner.end() == 75


def test_a_closed_control_pipe_stops_the_engine_and_ends_with_75(start):
    runner = start("--never-ready", "--ignore-term", "--family")
    runner.read_until("stage", "KV cache holds")
    runner.close_control()
    assert "controller is gone" in runner.result().failure.message
    assert runner.end() == 75


def test_a_signal_right_after_the_start_is_not_lost(start, tmp_path):
    """Before the heavy imports are done, as when a pod is deleted at once."""
    runner = start("--never-ready")
    wait_for(lambda: catches_sigterm(runner.child.pid), "the handler")
    runner.child.terminate()
    assert runner.end() == 75


def catches_sigterm(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (signal.SIGHUP - 1) & 1  # the last of the three that is set


def test_a_reader_that_went_away_does_not_leave_an_engine(start):
    """The controller died by SIGKILL: its end of stdout and of the control pipe are both gone."""
    runner = start("--never-ready", "--ignore-term", "--family")
    runner.read_until("stage", "KV cache holds")
    runner.child.stdout.close()
    runner.close_control()
    assert runner.end() == 75


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("{}", "schema_version"),
        ('{"schema_version": 1, "nonsense": 1}', "nonsense"),
        ("[]", "cannot be read"),
    ],
)
def test_a_bad_specification_is_exit_2_and_says_why(text, says, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main([]) == 2
    assert says in capsys.readouterr().err


def test_a_killed_runner_leaves_its_levels_and_the_message_of_the_last_phase(start, tmp_path):
    """SIGKILL under load: at most the level in flight is lost."""
    runner = start("--slots", 4, "--token-s", 0.01, options=("--termination-message", tmp_path / "message"))
    first = runner.read_until("level")
    wait_for(lambda: read_file(tmp_path / "trial" / RECORDS_NAME).all("level"), "the record")
    wait_for(lambda: (kept := read_compact((tmp_path / "message").read_text())) and kept.levels, "the checkpoint")
    runner.child.kill()
    runner.child.wait()
    reading = read_file(tmp_path / "trial" / RECORDS_NAME)
    assert reading.missing == ()
    assert reading.last("begin") == {"id": "demo-0001-abcdef012345", "attempt": 1, "fingerprint": "abcdef012345"}
    assert reading.all("level")[0] == first
    kept = read_compact((tmp_path / "message").read_text())
    assert (kept.state, kept.failure.kind) == ("failed", "interrupted")
    assert kept.levels[0].requests == first["requests"]
    assert kept.effective["fingerprint"]
    assert kept.start_up_s > 0
    wait_for(lambda: not any(alive(pid) for pid in read_pids(tmp_path / "pids")), "the engine's end")


def test_records_on_stdout_and_the_message_tell_the_same_result(start, tmp_path):
    message = tmp_path / "message"
    message.write_text("x" * 4096)
    log = DATA / "bad_choice.log"
    options = ("--records", "--termination-message", message)
    runner = start("--die-at", "start", "--die-with", log, "--die-code", "2", options=options)
    lines = runner.child.stdout.read().splitlines()
    assert runner.end() == 0
    reading = read_records(lines)
    assert reading.missing == ()
    assert reading.records[0].kind == "begin"
    assert "starting the engine" in reading.all("stage")
    result = TrialResult.from_json(reading.last("result"))
    assert result.failure.kind == "bad_flag"
    assert all(line.isascii() and len(line) < 16 * 1024 for line in lines)
    short = read_compact(message.read_text())
    assert short is not None
    assert short.failure.message == result.failure.message
    assert result.failure.log_tail.endswith(short.failure.log_tail)
    assert read_file(tmp_path / "trial" / RECORDS_NAME).last("result") == result.as_json()


def test_files_that_cannot_be_written_are_said_and_cost_nothing_else(start, tmp_path):
    options = ("--termination-message", tmp_path / "no" / "folder")
    runner = start("--die-at", "start", "--die-code", "3", options=options)
    assert runner.result().failure.kind == "crash"
    assert runner.end() == 0
    assert f"nothing is kept in {tmp_path}/no/folder" in runner.child.stderr.read()


def test_an_unreadable_specification_is_told_in_the_message_too(tmp_path):
    assert main(["--spec", str(tmp_path / "none"), "--termination-message", str(tmp_path / "message")]) == 2
    assert "the specification cannot be read" in (tmp_path / "message").read_text()


def test_no_secret_is_in_any_output(start, tmp_path):
    """Of the environment, printed by the engine while it lives and when it dies, and given on its command line."""
    secret = "s3cr3t-veryveryhidden"
    (tmp_path / "last-words").write_text(
        f"Traceback (most recent call last):\nValueError: cannot log in with {secret}\n"
    )
    switches = ("--echo-env", "HF_TOKEN", "--die-at", "weights", "--die-with", tmp_path / "last-words", secret)
    options = ("--termination-message", tmp_path / "message")
    runner = start(*switches, env={"HF_TOKEN": secret}, options=options)
    result = runner.result()
    assert runner.end() == 0
    assert "cannot log in with ***" in result.failure.log_tail
    written = {path.name: path.read_text() for path in (tmp_path / "trial").iterdir() if path.is_file()}
    assert {"engine.log", "records.log"} <= set(written)
    assert "HF_TOKEN=***" in written["engine.log"]
    assert not [name for name, text in written.items() if secret in text]
    assert secret not in (tmp_path / "message").read_text() + json.dumps(runner.lines)


def test_an_absent_specification_is_exit_2(tmp_path, capsys):
    assert main(["--spec", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_a_fault_of_the_runner_is_a_result_of_infrastructure(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "spec.json").write_text(json.dumps(a_spec().as_json()))
    assert main(["--spec", str(tmp_path / "spec.json"), "--workdir", str(tmp_path / "file")]) == 1
    result = TrialResult.from_json(json.loads(capsys.readouterr().out)["result"])
    assert (result.failure.failure_class, result.failure.kind) == ("infrastructure", "runner_fault")


def test_lines_are_json_even_where_figures_are_not():
    stream = io.StringIO()
    lines = Lines(stream)
    lines.put("level", {"ttft_p95_s": math.inf, "list": (math.nan, 1.0), "text": "ü"})
    lines.close(str)
    assert json.loads(stream.getvalue()) == {"level": {"ttft_p95_s": None, "list": [None, 1.0], "text": "ü"}}
    assert stream.getvalue().isascii()
