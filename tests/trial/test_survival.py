"""Whatever an engine does, its trial ends in time, says why, and leaves nothing: real processes, real loads."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest
from support.trials import a_spec, alive, read_pids, wait_for

from tuner.trial import processes
from tuner.trial.engine_log import read_end
from tuner.trial.engine_process import EngineProcess
from tuner.trial.log_ring import HEAD_BYTES, PART_BYTES, older
from tuner.trial.preflight import LOG_NAME as PREFLIGHT_NAME
from tuner.trial.runner import LOG_NAME, RECORD_NAME, run_trial
from tuner.trial.spec import Deadlines

DATA = Path(__file__).parent / "data"
IN_TIME = Deadlines(ready_s=60.0, first_token_s=60.0, probe_s=60.0, stop_s=0.5)
HANGING = Deadlines(ready_s=60.0, first_token_s=1.0, probe_s=4.0, stop_s=0.5)
"""An engine that hangs is waited for until these are over."""

CRASH = ("--die-with", DATA / "crash_out_of_vocab_token_server.log", "--die-code", -9)


def survive(tmp_path, *switches, deadlines=IN_TIME):
    """The trial's result, after nothing of it was found: no process, no file but its evidence, none left open."""
    spec = a_spec("--pids", tmp_path / "pids", *switches, deadlines=deadlines, env={"TMPDIR": str(tmp_path / "tmp")})
    (tmp_path / "tmp").mkdir()
    result = run_trial(spec, workdir=tmp_path / "trial")
    assert not any(alive(pid) for pid in read_pids(tmp_path / "pids")), "the engine outlived its trial"
    mark = f"TUNER_TRIAL={spec.id}.1.{os.getpid()}"
    assert not processes.marked(processes.scan().values(), mark), "something of the engine outlived its trial"
    evidence = {LOG_NAME, RECORD_NAME, *(path.name for path in older(Path(LOG_NAME)))}
    assert {path.name for path in (tmp_path / "trial").iterdir()} <= evidence - {PREFLIGHT_NAME}
    assert list((tmp_path / "tmp").iterdir()) == []
    opened = [str(path.resolve()) for path in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.startswith(str(tmp_path))]
    longest_s = deadlines.ready_s + deadlines.first_token_s + deadlines.probe_s + deadlines.stop_s
    assert result.gpu_seconds < longest_s + 60.0
    return result


@pytest.mark.parametrize(
    ("switches", "kind"),
    [
        (("--die-at", "weights", *CRASH), "crash"),
        (("--die-at", "request", "--die-after-requests", 1, *CRASH), "crash"),
        (("--die-at", "request", "--die-after-requests", 60, *CRASH), "crash"),
        (("--die-at", "request", "--die-after-requests", 60, "--die-code", 0), "crash"),
        (("--hang-after-requests", 3, "--ignore-term"), "hang"),
        (("--hang-after-requests", 20, "--ignore-term"), "hang"),
        (("--family", "--ignore-term", "--die-at", "request", "--die-after-requests", 30, *CRASH), "crash"),
    ],
    ids=[
        "while loading",
        "on the first request",
        "under load",
        "with exit code 0",
        "hangs at once",
        "hangs",
        "forks children",
    ],
)
def test_an_engine_that_fails_is_the_configurations_failure_of_the_right_kind(tmp_path, monkeypatch, switches, kind):
    monkeypatch.setattr("tuner.trial.runner._RECOVER_S", 1.5)
    monkeypatch.setattr("tuner.trial.runner._SETTLE_S", 0.5)
    monkeypatch.setattr("tuner.probe.driver.SUSPICION_S", 1.0)
    result = survive(tmp_path, *switches, deadlines=HANGING if kind == "hang" else IN_TIME)
    assert (result.state, result.failure.failure_class) == ("failed", "configuration"), result.failure
    assert result.failure.kind == kind, result.failure


def test_an_engine_that_never_gets_ready_and_ignores_sigterm(tmp_path):
    deadlines = Deadlines(ready_s=1.5, stop_s=0.3)
    result = survive(tmp_path, "--never-ready", "--ignore-term", "--family", deadlines=deadlines)
    assert (result.failure.failure_class, result.failure.kind) == ("configuration", "not_ready")


def test_an_engine_that_floods_its_log_with_a_gib_is_classified_and_kept_to_its_cap(tmp_path):
    result = survive(tmp_path, "--flood-mib", 1024, "--die-at", "weights", *CRASH)
    assert (result.failure.kind, result.failure.recognised) == ("crash", False)
    assert "IndexError" in result.failure.message
    log = tmp_path / "trial" / LOG_NAME
    sizes = [path.stat().st_size for path in (*older(log), log)]
    assert HEAD_BYTES < sum(sizes) <= HEAD_BYTES + 2 * PART_BYTES
    assert "repeats" in older(log)[0].read_text()[:200]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_engine_may_not_dump_its_core(tmp_path):
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    engine = EngineProcess(["sh", "-c", "ulimit -S -c; ulimit -H -c"], {}, tmp_path / "log", mark="core")
    wait_for(lambda: engine.exit_code() is not None, "the shell's end")
    assert engine.stop(10.0) == []
    soft, still = read_end(tmp_path / "log").split()
    assert soft == "0"
    assert (still == "unlimited") == (hard == resource.RLIM_INFINITY)


def test_an_engine_that_hangs_until_the_time_is_over_is_no_invalid_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr("tuner.trial.runner._RECOVER_S", 1.5)
    monkeypatch.setattr("tuner.trial.runner._SETTLE_S", 0.5)
    monkeypatch.setattr("tuner.probe.probe.LEAST_LOAD_S", 1.0)
    deadlines = Deadlines(ready_s=60.0, first_token_s=60.0, probe_s=4.0, stop_s=0.5)
    result = survive(tmp_path, "--hang-after-requests", 20, "--ignore-term", deadlines=deadlines)
    assert (result.state, result.failure and result.failure.kind) == ("failed", "hang")
