"""The bundle as a Job runs it: as PID 1, by the python3 of another Debian release, with a real engine and load."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import packaging
import pytest
from support.foreign_root import ENGINE_PATH, PROJECT, as_pid_1, first_process, foreign_root
from support.targets import STUDY_UID, a_target
from support.trials import a_spec, wait_for

import tuner
from tuner.runtime.kubernetes.bundle import BundleError, build
from tuner.runtime.kubernetes.harvest import harvest, is_checkpoint
from tuner.runtime.kubernetes.job import job_manifest
from tuner.runtime.kubernetes.names import ANNOTATION_SPEC
from tuner.trial.bundle_launch import OLDEST_GLIBC
from tuner.trial.spec import Confirm, Deadlines, TrialSpec

pytestmark = pytest.mark.timeout(1200)

LONGEST_S = 200.0
# What the image says; PYTHONPATH is how its engine finds its own packages, and must not reach the runner.
IMAGE_ENV = {"PATH": "/usr/bin:/bin", "HOME": "/root", "PYTHONPATH": ENGINE_PATH, "PYTHONHASHSEED": "7"}
ENGINE = (
    "env -0 > /opt/sglang-tuner/work/engine.env; exec python3 -m tuner.simulator --accelerator mi355x "
    '--architecture glm-5.2 --precision mxfp4 --startup-scale 0 --world 1 "$@"'
)
ARGUMENTS = ("--model-path", "amd/GLM-5.2-MXFP4", "--tp-size", "8", "--mem-fraction-static", "0.84")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    try:
        build(PROJECT / "requirements-bundle.txt", folder)
    except BundleError as error:
        pytest.fail(str(error)) if os.environ.get("CI") else pytest.skip(f"no package index: {error}")
    return folder


@pytest.fixture(scope="module")
def engine(bundle, tmp_path_factory):
    """What stands for the serving image's own packages: the simulated engine with what it imports."""
    folder = tmp_path_factory.mktemp("engine")
    shutil.copytree(Path(tuner.__file__).parent, folder / "tuner", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(packaging.__file__).parent, folder / "packaging")
    for version in bundle.glob("cp3*"):
        shutil.copytree(version / "httptools", folder / "httptools", dirs_exist_ok=True)
    return folder


@pytest.fixture
def start(bundle, engine, tmp_path):
    """Start the container of a Job in the other root: its command, its arguments, its mounts."""
    root = foreign_root()
    children = []

    def start_trial(spec):
        for name in ("spec", "work"):
            (tmp_path / name).mkdir()
        (tmp_path / "message").touch()
        template = job_manifest(spec, a_target(), STUDY_UID)["spec"]["template"]
        (container,) = template["spec"]["containers"]
        (tmp_path / "spec" / "trial.json").write_text(template["metadata"]["annotations"][ANNOTATION_SPEC])
        command = [*container["command"], *container["args"]]
        children.append(as_pid_1(root, bundle, tmp_path, engine, env=IMAGE_ENV, command=command))
        return children[-1]

    yield start_trial
    for child in children:
        child.kill()
        child.communicate()


def a_trial(**changes) -> TrialSpec:
    return a_spec(
        argv=("/bin/sh", "-c", ENGINE, "engine", *ARGUMENTS),
        env={"MEASURED": "yes"},
        gpus=8,
        deadlines=Deadlines(ready_s=60.0, first_token_s=30.0, probe_s=60.0, stop_s=5.0, memory_free_s=5.0),
        **changes,
    )


def test_a_whole_trial_runs_as_pid_1_in_a_root_with_nothing_of_ours(start, tmp_path):
    spec = a_trial(confirm=Confirm(5.0, 4.0))
    log, errors = start(spec).communicate(timeout=LONGEST_S)
    result = harvest(spec, message=(tmp_path / "message").read_text(), log=log)
    assert result is not None, errors
    crowded = result.failure is not None and result.failure.failure_class == "measurement"  # it says so, and rightly
    assert result.state == "measured" or crowded, (result.state, result.failure, errors)
    assert result.simulated
    assert result.levels
    python = subprocess.run(
        ["chroot", foreign_root(), "python3", "-c", "import platform; print(platform.python_version())"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    assert result.versions["python"] == python
    assert python.split(".")[:2] != [str(part) for part in sys.version_info[:2]], "not another Python"
    same = harvest(spec, message=(tmp_path / "message").read_text(), log=None)
    assert same.state == result.state

    given = dict(item.split("=", 1) for item in (tmp_path / "work" / "engine.env").read_text().split("\0") if item)
    added = {"MEASURED": "yes", "TUNER_TRIAL": given["TUNER_TRIAL"], "PWD": "/"}  # PWD is the shell's own
    assert given == {**IMAGE_ENV, **added}


def test_a_deleted_pod_ends_with_75_its_levels_and_no_engine(start, tmp_path):
    spec = a_trial()
    child = start(spec)
    wait_for(lambda: "fired up" in read(tmp_path / "work" / "records.log", tmp_path), "the engine", LONGEST_S)
    os.kill(first_process(child), signal.SIGTERM)
    log, errors = child.communicate(timeout=LONGEST_S)
    assert child.returncode == 75, errors
    result = harvest(spec, message=(tmp_path / "message").read_text(), log=log)
    assert is_checkpoint(result)
    assert "SIGTERM" in result.failure.message


def read(records, folder):
    engine_log = folder / "work" / "engine.log"
    return engine_log.read_text(errors="replace") if engine_log.exists() else ""


def test_a_signal_before_the_imports_is_not_lost(start, tmp_path):
    """PID 1 ignores what it has no handler for: the launcher blocks signals until there is one."""
    child = start(a_trial())
    wait_for(lambda: blocks_or_catches_sigterm(first_process(child)), "the launcher", LONGEST_S)
    os.kill(first_process(child), signal.SIGTERM)
    child.communicate(timeout=LONGEST_S)
    assert child.returncode == 75


def blocks_or_catches_sigterm(pid):
    if not pid:
        return False
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if not status["Name"].strip().startswith("python"):
        return False
    return any(int(status[mask], 16) >> (signal.SIGTERM - 1) & 1 for mask in ("SigBlk", "SigCgt"))


def test_a_bad_specification_is_told_in_the_message(start, tmp_path, bundle, engine):
    command = ["python3", "-I", "-S", "-B", "/opt/sglang-tuner/bundle/launch.py", "--spec", "/none"]
    command += ["--termination-message", "/dev/termination-log"]
    for name in ("spec", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "message").touch()
    child = as_pid_1(foreign_root(), bundle, tmp_path, engine, env=IMAGE_ENV, command=command)
    child.communicate(timeout=LONGEST_S)
    assert child.returncode == 2
    assert "the specification cannot be read - /none" in (tmp_path / "message").read_text()


def test_compiled_modules_ask_for_no_newer_libc_than_promised(bundle):
    libraries = list(bundle.glob("cp3*/**/*.so"))
    assert {path.relative_to(bundle).parts[0] for path in libraries} == {"cp310", "cp311", "cp312", "cp313"}
    for library in libraries:
        asked = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
        assert max(tuple(map(int, version)) for version in asked) <= OLDEST_GLIBC, library


def test_the_bundle_runs_under_this_machines_own_python_too(bundle, tmp_path):
    """Isolated: what is installed here would otherwise hide what the bundle lacks."""
    spec = a_spec("--die-at", "start", "--die-code", "3")
    (tmp_path / "trial.json").write_text(json.dumps(spec.as_json()))
    command = [sys.executable, "-I", "-S", "-B", str(bundle / "launch.py"), "--spec", str(tmp_path / "trial.json")]
    command += ["--workdir", str(tmp_path / "work"), "--records"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert harvest(spec, message=None, log=done.stdout).failure.kind == "crash"
    assert not list(bundle.rglob("*.pyc"))


def test_the_bundle_fits_what_a_node_copies_in_a_second(bundle):
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert len(files) < 600
    assert sum(path.stat().st_size for path in files) < 100 * 2**20
