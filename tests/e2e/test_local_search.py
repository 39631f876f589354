"""Whole searches by the command line as a user runs them: real controllers, runners, engines, HTTP and load.

The engine is the simulated one, started as sglang would be: nothing but the engine itself says that it is simulated.
"""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from support.trials import wait_for

import tuner
from tuner.study.retry import INVALID_REPEATS

pytestmark = pytest.mark.timeout(2000)

README = Path(tuner.__file__).parents[1] / "README.md"

# `srun OPTIONS COMMAND` on this machine: what a Slurm node would do with it.
SRUN = """#!/bin/sh
while :; do
  case "$1" in --job-name|--gpus) shift 2 ;; --*) shift ;; *) exec "$@" ;; esac
done
"""


def local(folder, *args):
    return "search", "--space", "tiny.yaml", "--runtime", "local", "--engine-command", shlex.join(folder.engine), *args


def assert_counted(trials, count):
    """So many observations, less those given up: on a busy machine two measurements in a row may be invalid."""
    counted = sum(n for state, n in trials.items() if state != "invalid")
    assert count - trials["invalid"] // (1 + INVALID_REPEATS) <= counted <= count, trials


def test_a_local_search_ends_with_a_confirmed_winner(folder):
    """Three trials and a confirmation; then the study as `status` and `export` see it."""
    found = folder.json(*local(folder))
    assert folder.left() == {}
    assert (found["exit_reason"], found["study"]) == ("confirmed", "tiny")
    assert found["trials"]["measured"] >= 1
    assert_counted(found["trials"], 3)
    best = found["best"]
    assert best["confirmed"] is True
    assert best["simulated"] is True, "the engine says so, whatever the runtime is called"
    assert best["capacity_req_per_s"] > 5
    assert 0 < best["ttft_p95_s"] <= 1.0
    assert best["usd_per_million_output_tokens"] == pytest.approx(
        2.0 / (3600 * 0.95 * best["capacity_req_per_s"] * 4) * 1e6, rel=1e-3
    )
    assert "--max-running-requests" in best["args"]

    seen = folder.json("status", "--space", "tiny.yaml")
    assert seen["best"] == best
    assert seen["trials"] == found["trials"]
    assert "SIMULATED" in folder.tuner("status", "--space", "tiny.yaml")

    assert folder.tuner("export", "helm", "--space", "tiny.yaml", code=2) == ""
    assert "--allow-simulated" in folder.err
    text = folder.tuner("export", "helm", "--space", "tiny.yaml", "--allow-simulated")
    assert "simulated" in text
    assert all(arg in str(yaml.safe_load(text)) for arg in best["args"])

    again = folder.json(*local(folder))
    assert again["trials"] == found["trials"], "a finished search has nothing more to do"


def test_a_search_goes_on_after_a_kill_and_after_ctrl_c(folder):
    """Both while the engine is under load. The same command reaches exactly its count."""
    folder.edit(("top: 1", "top: 0"))
    command = local(folder, "--trials", "1", "--json")
    killed = folder.begin(*command)
    folder.wait_until_loaded()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    wait_for(lambda: not folder.left(), "runner and engine to end without their controller", 120.0)

    interrupted = folder.begin(*command)
    folder.wait_until_loaded()
    assert any("tuner.simulator" in line for line in folder.left().values())
    os.killpg(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(180) == 130
    assert folder.left() == {}
    assert "interrupted; run the same command to go on" in folder.err

    found = folder.json(*command[:-1], code=4)
    assert folder.left() == {}
    assert found["exit_reason"] == "no_confirmed_winner", "none was to be confirmed"
    assert found["trials"]["measured"] == 1
    assert sum(count for state, count in found["trials"].items() if state not in ("measured", "invalid")) == 0


def test_the_external_runtime_runs_the_readmes_own_script(folder):
    """Its deploy.sh, word for word; `srun` is one that runs here."""
    blocks = README.read_text(encoding="utf-8").split("```")
    (script,) = [block.removeprefix("sh\n") for block in blocks if block.startswith("sh\n#!/bin/sh\n# deploy.sh")]
    for name, text in (("deploy.sh", script), ("srun", SRUN)):
        (folder.path / name).write_text(text)
        (folder.path / name).chmod(0o755)
    folder.edit(('version: "0.5.16"', f'version: "0.5.16", command: {folder.engine}'))
    command = ("search", "--space", "tiny.yaml", "--runtime", "external", "--trials", "2")
    found = folder.json(*command, "--external-command", folder.path / "deploy.sh")
    assert folder.left() == {}
    assert found["exit_reason"] == "confirmed"
    assert_counted(found["trials"], 2)
    assert found["best"]["simulated"] is True
