"""What a user installs: the wheel carries everything the program reads, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("hatchling")

LOOK = """
import sys, tuner
from tuner.export.chart import chart_defaults, chart_path
from tuner.space.find import find_space, shipped_spaces
from tuner.launch.spaces import open_space
from tuner.model.catalogue import accelerator, architecture
from tuner.launch.flags import flag_table
from tuner.probe.prompts import *
print(tuner.__file__)
print(find_space("amd-mi355x.yaml"))
print(find_space("nvidia-b200"))
print(chart_path())
assert chart_defaults()["launch"]
assert accelerator("mi355x").hbm_bytes and architecture("glm-5.2").layers and flag_table().newest
assert open_space("amd-mi355x.yaml").name == "glm52-mi355x"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without network and without isolation."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def python(installed, folder, *args):
    """Run Python away from the checkout: what the wheel holds goes before the environment's own packages."""
    packages = sysconfig.get_paths()["purelib"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "TUNER_"))}
    env["PYTHONPATH"] = os.pathsep.join([str(installed), packages])
    # -S: no .pth file of the environment, so its editable install of the checkout is not there.
    return subprocess.run(
        [sys.executable, "-S", *args], cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_wheel_carries_every_file_of_the_package_and_what_it_ships(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "tuner", "search_spaces", "k8s/chart"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    expected = {
        name.replace("search_spaces/", "tuner/_shipped/search_spaces/", 1)
        if name.startswith("search_spaces/")
        else name.replace("k8s/chart/", "tuner/_shipped/chart/", 1)
        for name in listed.stdout.splitlines()
    }
    assert not expected - names
    assert {
        "tuner/py.typed",
        "tuner/probe/corpus.txt",
        "tuner/launch/data/sglang_flags.json",
        "tuner/model/data/accelerators.json",
        "tuner/model/data/acceptance.json",
        "tuner/model/data/architectures.json",
        "tuner/_shipped/search_spaces/amd-mi355x.yaml",
        "tuner/_shipped/search_spaces/nvidia-b200.yaml",
        "tuner/_shipped/search_spaces/space.schema.json",
        "tuner/_shipped/chart/Chart.yaml",
        "tuner/_shipped/chart/values.yaml",
        "tuner/_shipped/chart/values.schema.json",
        "tuner/_shipped/chart/templates/deployment.yaml",
    } <= names


def test_the_wheel_carries_nothing_else(wheel):
    """No tests, no caches, no notes: whoever installs it gets the program."""
    names = zipfile.ZipFile(wheel).namelist()
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests")]
    assert {"tuner"} == {n.split("/")[0] for n in names if ".dist-info/" not in n}
    metadata = [n for n in names if n.endswith(("entry_points.txt", "licenses/LICENSE"))]
    assert 2 == len(metadata)


def test_an_installed_wheel_finds_its_spaces_its_chart_and_its_data(installed, tmp_path):
    done = python(installed, tmp_path, "-c", LOOK)
    assert 0 == done.returncode, done.stderr
    for line in done.stdout.splitlines():
        assert line.startswith(str(installed)), line


def test_an_installed_wheel_runs_the_command(installed, tmp_path):
    program = "from tuner.cli import main; main()"
    done = python(installed, tmp_path, "-c", program, "validate", "no-such.yaml")
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    done = python(installed, tmp_path, "-c", program, "--version")
    assert 0 == done.returncode, done.stderr
