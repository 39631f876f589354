"""A serving image's own Python may be 3.10: the runner works there, from its own bundle alone."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.trials import a_spec

import tuner
from tuner.trial.records import read_records
from tuner.trial.result import TrialResult
from tuner.trial.spec import Confirm, Deadlines

ROOT = Path(tuner.__file__).parents[1]


@functools.cache
def python310(*modules):
    """The first Python 3.10 of this machine that has these modules; skips without one."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    for folder in folders:
        found = shutil.which("python3.10", path=folder)
        asked = [found or "", "-c", f"import {', '.join(modules)}"]
        if found and subprocess.run(asked, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return found
    pytest.skip(f"no python3.10 with {', '.join(modules)} on PATH")


PURE = (
    "accelerators",
    "checkpoint_files",
    "classify",
    "compact",
    "effective",
    "engine_log",
    "engine_process",
    "failures",
    "family",
    "host_memory",
    "log_ring",
    "preflight",
    "processes",
    "records",
    "result",
    "signatures",
    "spec",
    "telling",
)


def test_what_needs_no_network_imports_with_the_standard_library_alone():
    """Isolated, so that nothing of this machine is found by accident; `httpx` is a stand-in that is never called."""
    code = "import sys, types; sys.path.insert(0, sys.argv[1]); sys.modules['httpx'] = types.ModuleType('httpx')\n"
    code += "for name in sys.argv[2:]: __import__('tuner.trial.' + name)"
    subprocess.run([python310("json"), "-I", "-c", code, str(ROOT), *PURE], check=True, timeout=60)


def test_a_trial_runs_to_its_end_on_python_310(tmp_path):
    spec = a_spec("--token-s", 0.01, confirm=Confirm(5.0, 4.0), deadlines=Deadlines(60.0, 60.0, 100.0, 3.0))
    (tmp_path / "spec.json").write_text(json.dumps(spec.as_json()))
    python = python310("httpx", "httptools")
    command = [python, "-m", "tuner.trial", "--records", "--spec", str(tmp_path / "spec.json")]
    command += ["--workdir", str(tmp_path / "trial"), "--termination-message", str(tmp_path / "message")]
    done = subprocess.run(
        command, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    reading = read_records(done.stdout.splitlines())
    result = TrialResult.from_json(reading.last("result"))
    assert reading.missing == ()
    crowded = result.failure is not None and result.failure.failure_class == "measurement"  # it says so, and rightly
    assert result.state == "measured" or crowded, result
    assert result.levels
    assert result.versions["python"].startswith("3.10.")
