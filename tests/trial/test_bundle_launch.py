"""The bundle's launcher: which interpreters it takes, what it says to others, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tuner.trial import bundle_launch
from tuner.trial.bundle_launch import Interpreter, refuse, restore_environment, unfit

FOLDERS = ("any", "cp310", "cp311", "cp312", "cp313", "launch.py")
FIT = Interpreter((3, 12), "cpython", "", "x86_64", "glibc 2.35")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"version": (3, 10)},
        {"version": (3, 13)},
        {"libc": "glibc 2.17"},
        {"libc": "glibc 2.41.1"},
        {"abiflags": "d"},
    ],
)
def test_every_cpython_of_the_bundle_on_glibc_is_fit(changes):
    assert unfit(replace(FIT, **changes), FOLDERS) == ""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": (3, 9)}, "it is 3.9; the bundle has packages for 3.10, 3.11, 3.12, 3.13"),
        ({"version": (3, 14)}, "it is 3.14"),
        ({"version": (3, 8), "libc": ""}, "it is 3.8"),
        ({"abiflags": "t", "version": (3, 13)}, "it is cpython 3.13t; plain CPython is needed"),
        ({"implementation": "pypy"}, "pypy"),
        ({"machine": "aarch64"}, "aarch64"),
        ({"libc": ""}, "no glibc (musl, as in Alpine?)"),
        ({"libc": "glibc 2.12"}, "glibc 2.12; 2.17 or newer"),
    ],
)
def test_any_other_interpreter_is_refused_with_the_reason(changes, says):
    assert says in unfit(replace(FIT, **changes), FOLDERS)


def test_this_interpreter_knows_itself():
    assert unfit(Interpreter.running(), [bundle_launch.compiled_folder(sys.version_info[:2])]) == ""


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose `tuner.trial` prints what it was given."""
    package = tmp_path / "bundle" / "any" / "tuner" / "trial"
    package.mkdir(parents=True)
    (tmp_path / "bundle" / bundle_launch.compiled_folder(sys.version_info[:2])).mkdir()
    (package / "__main__.py").write_text(
        "import os, signal, sys\n"
        "print(sys.argv[1:], sys.path[:2], __name__, sorted(os.environ))\n"
        "print('site-packages' in str(sys.path), signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "sys.exit(75)\n"
    )
    shutil.copy(bundle_launch.__file__, tmp_path / "bundle" / "launch.py")
    return tmp_path / "bundle"


def launch(bundle, *arguments, env):
    command = [sys.executable, "-I", "-S", "-B", str(bundle / "launch.py"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_trial_gets_its_arguments_the_bundles_packages_and_the_environment_as_it_was(bundle):
    done = launch(bundle, "--spec", "x", env={"PATH": "/usr/bin", "PYTHONPATH": "/elsewhere", "LC_ALL": ""})
    folders = [str(bundle / "any"), str(bundle / bundle_launch.compiled_folder(sys.version_info[:2]))]
    names = ["LC_ALL", "PATH", "PYTHONPATH"]
    first, second = done.stdout.splitlines()
    assert first == f"{['--spec', 'x']} {folders} __main__ {names}"
    assert second.startswith("False ")
    assert all(name in second for name in ("SIGTERM", "SIGINT", "SIGHUP")), "the trial lets them through, nobody else"
    assert done.returncode == 75


def test_an_unfit_interpreter_says_so_on_stderr_and_in_the_message(bundle, tmp_path):
    shutil.rmtree(bundle / bundle_launch.compiled_folder(sys.version_info[:2]))
    (bundle / "cp39").mkdir()
    done = launch(bundle, "--termination-message", str(tmp_path / "message"), env={})
    assert done.returncode == 2
    assert "the bundle has packages for 3.9" in done.stderr
    assert (tmp_path / "message").read_text() == done.stderr.strip()


@pytest.mark.parametrize(
    "arguments", [[], ["--termination-message"], ["--termination-message", "/no/such/folder/message"]]
)
def test_a_refusal_needs_no_message_file(arguments, capsys):
    assert refuse("it is 3.9", arguments) == 2
    assert "it is 3.9" in capsys.readouterr().err


def test_only_what_was_added_is_removed_from_the_environment(monkeypatch):
    monkeypatch.setattr(os, "environ", {"A": "1", "LC_CTYPE": "C.UTF-8"})
    restore_environment(b"A=1\0B=2\0")
    assert os.environ == {"A": "1"}


def test_the_launcher_needs_nothing_of_the_project():
    imports = [line for line in Path(bundle_launch.__file__).read_text().splitlines() if "import" in line]
    assert not [line for line in imports if "tuner" in line.partition("import")[2]]


def test_the_launcher_in_process_runs_the_trial_with_the_bundle_first_on_the_path(bundle, monkeypatch):
    """As above, where coverage can see it."""
    ran = []
    monkeypatch.setattr(bundle_launch, "__file__", str(bundle / "launch.py"))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    monkeypatch.setattr("runpy.run_module", lambda name, **how: ran.append((name, how, list(sys.path))))
    assert bundle_launch.main([]) == 0
    compiled = str(bundle / bundle_launch.compiled_folder(sys.version_info[:2]))
    how = {"run_name": "__main__", "alter_sys": True}
    assert ran == [("tuner.trial", how, [str(bundle / "any"), compiled, "/elsewhere"])]


def test_the_launcher_in_process_refuses_an_empty_bundle(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle_launch, "__file__", str(tmp_path / "launch.py"))
    assert bundle_launch.main([]) == 2
    assert "cannot run a trial" in capsys.readouterr().err
