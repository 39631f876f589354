"""Real processes: whatever an engine does, nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from support.trials import alive, engine_argv, read_pids, wait_for

from tuner.trial import processes
from tuner.trial.engine_log import read_end
from tuner.trial.engine_process import EngineProcess
from tuner.trial.family import FamilyRecord, end_leftovers, family_of
from tuner.trial.processes import Process, parse_stat, with_descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def start(tmp_path):
    """Starts fake engines and ends them whatever the test does."""
    started = []

    def start_engine(*switches, env=None):
        argv = [*engine_argv(*switches, "--pids", tmp_path / "pids"), "--host", "127.0.0.1", "--port", "0"]
        engine = EngineProcess(argv, env or {}, tmp_path / "engine.log", mark=f"test.{tmp_path.name}")
        started.append(engine)
        return engine

    yield start_engine
    for engine in started:
        engine.kill()


def family_pids(tmp_path, count):
    return wait_for(lambda: len(pids := read_pids(tmp_path / "pids")) == count and pids, "the engine's family")


def test_an_engine_deaf_to_sigterm_with_grandchildren_everywhere_leaves_nothing(start, tmp_path):
    """A child in the group, one in a session of its own, one orphan of a double fork: all ignore SIGTERM."""
    engine = start("--ignore-term", "--family")
    pids = family_pids(tmp_path, 4)
    assert all(alive(pid) for pid in pids)
    assert engine.stop(0.2) == []
    assert not any(alive(pid) for pid in pids)
    assert engine.exit_code() == -signal.SIGKILL


def test_an_engine_that_obeys_is_not_killed(start):
    engine = start()
    wait_for(lambda: "fired up" in read_end(engine.log_path), "the engine")
    assert engine.stop(20.0) == []
    assert engine.exit_code() == 0


def test_stopping_twice_or_after_its_end_is_harmless(start):
    engine = start("--die-at", "start", "--die-code", "3")
    wait_for(lambda: engine.exit_code() is not None, "the end")
    assert engine.stop(5.0) == engine.stop(5.0) == engine.kill() == []
    assert engine.exit_code() == 3


def test_orphans_of_an_engine_that_crashed_are_ended_too(start, tmp_path):
    engine = start("--family", "--die-at", "start", "--die-code", "-9")
    pids = family_pids(tmp_path, 4)
    wait_for(lambda: engine.exit_code() is not None, "the crash")
    assert engine.exit_code() == -signal.SIGKILL
    assert engine.stop(0.2) == []
    assert not any(alive(pid) for pid in pids)


def test_output_goes_to_the_file_and_the_environment_is_the_images_plus_ours(start, monkeypatch):
    monkeypatch.setenv("FROM_IMAGE", "kept")
    engine = start("--echo-env", "FROM_IMAGE", env={"ADDED": "yes"})
    assert wait_for(lambda: "FROM_IMAGE=kept" in read_end(engine.log_path), "the line")
    environ = (processes._PROC / str(engine.pid) / "environ").read_bytes()
    assert b"ADDED=yes" in environ


def test_our_own_children_are_not_taken_for_the_engines(start, tmp_path):
    """Started before or after, in our session or before the engine in one of their own."""
    before = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    engine = start("--ignore-term")
    after = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        engine.stop(0.1)
        assert before.poll() is None
        assert after.poll() is None
    finally:
        for child in (before, after):
            child.kill()
            child.wait()


def test_exit_codes_of_our_other_children_are_not_stolen(start):
    engine = start()
    other = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    wait_for(lambda: not alive(other.pid), "the other's end")
    engine.reap_orphans()
    assert other.wait() == 7


def test_a_command_that_does_not_exist_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        EngineProcess(["/no/such/engine"], {}, tmp_path / "engine.log", mark="none")


RUNNER = """
import json, sys
from pathlib import Path
from tuner.trial.engine_process import EngineProcess
spec = json.loads(sys.argv[1])
engine = EngineProcess(spec["argv"], {}, Path(spec["log"]), mark=spec["mark"])
engine.record.write(Path(spec["record"]))
print("up", flush=True)
sys.stdin.read()
"""


def test_the_engine_dies_with_a_killed_runner_and_a_record_finds_the_rest(tmp_path):
    """SIGKILL of the runner: the engine goes by itself, what left its session is found by the record."""
    argv = [*engine_argv("--ignore-term", "--family", "--pids", tmp_path / "pids"), "--port", "0"]
    spec = {"argv": argv, "log": str(tmp_path / "log"), "record": str(tmp_path / "engine.json"), "mark": tmp_path.name}
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, json.dumps(spec)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with runner:
        pids = family_pids(tmp_path, 4)
        runner.kill()
    wait_for(lambda: not alive(pids[0]), "the engine's end")
    record = FamilyRecord.read(tmp_path / "engine.json")
    assert record is not None
    assert record.pid == pids[0]
    assert end_leftovers(replace(record, boot_id="another boot")) == []
    assert alive(pids[3])
    assert end_leftovers(record) == []
    assert not any(alive(pid) for pid in pids)


def test_an_unreadable_record_is_none(tmp_path):
    (tmp_path / "torn").write_text('{"pid": 1')
    assert FamilyRecord.read(tmp_path / "torn") is None
    assert FamilyRecord.read(tmp_path / "absent") is None


def a_process(pid, ppid=1, group=0, session=0, start=100):
    return Process(pid, "S", ppid, group or pid, session or pid, start)


def test_a_family_is_its_session_its_group_and_all_below():
    seen = {
        p.pid: p
        for p in (a_process(10), a_process(11, 10, 10, 10), a_process(12, 11), a_process(13, 1, 10, 10), a_process(20))
    }
    assert family_of(seen, 10, 100, "") == {10, 11, 12, 13}


def test_a_pid_that_was_taken_over_is_nobody_of_ours():
    seen = {10: a_process(10, start=999), 11: a_process(11, 10, 10, 10, 999)}
    assert family_of(seen, 10, 100, "") == set()


def test_descendants_of_a_cycle_end():
    seen = {1: a_process(1, 2), 2: a_process(2, 1)}
    assert with_descendants(seen, [1]) == {1, 2}


def test_a_programs_name_may_hold_anything():
    text = "42 (a ) (b) S 1 42 40 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 0 0"
    assert parse_stat(text) == Process(42, "S", 1, 42, 40, 777)


def test_a_signal_meets_only_the_process_it_is_meant_for():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        now = processes.look_up(child.pid)
        assert now is not None
        processes.kill(replace(now, start_ticks=now.start_ticks + 1))
        assert alive(child.pid)
        processes.kill(now)
        assert child.wait() == -signal.SIGKILL
        processes.kill(now)
    finally:
        child.kill()
        child.wait()


def test_look_up_of_nobody_is_none():
    assert processes.look_up(2**22 + 1) is None
    assert os.getpid() in processes.scan()
