"""The root of another Debian release, in which nothing of ours is installed, and processes started in it as PID 1.

Made once by debootstrap from the mirror this machine's apt is configured with, kept in `build/roots`. It stands for a
serving image: the simulated engine is laid beside it as that image's own software, with its own PYTHONPATH.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import tuner

PROJECT = Path(tuner.__file__).parents[1]
ROOTS = PROJECT / "build" / "roots"
SUITES = ("trixie", "bookworm")
"""Releases with Python 3.13 and 3.11; the first that is not this machine's own is taken."""
BUILD_S = 900.0
ENGINE_PATH = "/srv/engine"
TRIAL_PATH = "/opt/sglang-tuner"

# In mount and PID namespaces of its own: everything mounted here is gone with the process.
_ENTER = """
set -e
root=$1 bundle=$2 trial=$3 engine=$4; shift 4
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/opt"
mkdir -p "$root/opt/sglang-tuner/bundle" "$root/opt/sglang-tuner/spec" "$root/opt/sglang-tuner/work"
mount --bind "$bundle" "$root/opt/sglang-tuner/bundle"
mount -o remount,bind,ro "$root/opt/sglang-tuner/bundle"
mount --bind "$trial/spec" "$root/opt/sglang-tuner/spec"
mount --bind "$trial/work" "$root/opt/sglang-tuner/work"
mount --bind "$trial/message" "$root/dev/termination-log"
mount -t tmpfs tmpfs "$root/srv"
mkdir "$root/srv/engine"
mount --bind "$engine" "$root/srv/engine"
exec chroot "$root" /usr/bin/env -i "$@"
"""


def foreign_root() -> Path:
    """The root of another release; skips where none can be made, fails in CI where one could."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare, to start a process as PID 1 in another root")
    ROOTS.mkdir(parents=True, exist_ok=True)
    root = ROOTS / next(suite for suite in SUITES if f"VERSION_CODENAME={suite}" not in _os_release())
    with (ROOTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "dev" / "termination-log").exists():
            _make(root)
    return root


def _os_release() -> str:
    return Path("/etc/os-release").read_text(encoding="utf-8")


def _make(root: Path) -> None:
    if not shutil.which("debootstrap"):
        pytest.skip("no debootstrap here, to make the root of another Debian release")
    draft = root.with_suffix(".new")
    shutil.rmtree(draft, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", "--include=python3", root.name, str(draft), _mirror()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode != 0:
        why = f"debootstrap {root.name} failed: {done.stdout[-300:]} {done.stderr[-300:]}"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    (draft / "dev" / "termination-log").touch()
    draft.rename(root)


def _mirror() -> str:
    """Where this machine's apt gets its packages."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()
    debian = [uri for uri in found if "security" not in uri]
    if not debian:
        pytest.skip("apt has no package lists here; run apt-get update")
    return debian[0]


def as_pid_1(
    root: Path, bundle: Path, trial: Path, engine: Path, *, env: Mapping[str, str], command: Sequence[str]
) -> subprocess.Popen[str]:
    """Start a command as PID 1 in the root, with this environment alone.

    `trial` holds the folders `spec` and `work` and the file `message`, mounted where a Job mounts them.
    """
    variables = [f"{name}={value}" for name, value in env.items()]
    entering = ["unshare", "--pid", "--fork", "--mount", "--kill-child", "sh", "-c", _ENTER, "sh"]
    places = [str(path.resolve()) for path in (root, bundle, trial, engine)]
    return subprocess.Popen(
        [*entering, *places, *variables, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def first_process(child: subprocess.Popen[str]) -> int:
    """The host's number of the PID 1 below `unshare`, or 0 while there is none."""
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return int(children[0]) if children else 0
