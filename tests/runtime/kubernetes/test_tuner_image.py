"""The Dockerfile of the tuner image, read: what it copies is there, it runs what `make` runs, and as nobody."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.targets import a_target
from support.trials import a_spec

import tuner
from tuner.runtime.kubernetes.job import BUNDLE_PATH, job_manifest

ROOT = Path(tuner.__file__).parents[1]
DOCKERFILE = ROOT / "k8s" / "Dockerfile"
pytestmark = pytest.mark.skipif(not DOCKERFILE.exists(), reason="not a checkout")


def instructions():
    """Each instruction with its words, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def of(name):
    return [rest for found, rest in instructions() if found == name]


def stages():
    """Stage -> its instructions."""
    found, current = {}, []
    for name, rest in instructions():
        if name == "FROM":
            current = found.setdefault(rest.split(" AS ")[1], [])
        current.append((name, rest))
    return found


def copied():
    return [word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]]


def test_everything_it_copies_is_in_the_project_and_reaches_the_builder():
    assert copied()
    assert not [name for name in copied() if not (ROOT / name).exists()]
    sent = {line[1:] for line in (ROOT / "k8s" / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert set(copied()) == sent


def test_what_the_wheel_is_built_from_is_copied():
    project = (ROOT / "pyproject.toml").read_text()
    forced = re.findall(r'^"([\w/]+)" = "tuner/_shipped', project, re.MULTILINE)
    named = [*forced, *re.findall(r'(?:readme|license-files) = \[?"([\w.]+)"', project), "tuner"]
    assert len(named) == 5
    assert not [name for name in named if name.split("/")[0] not in copied()]


def test_the_bundle_is_built_as_make_builds_it_and_lies_where_trials_look():
    (made,) = re.findall(r"-m (tuner\S+ --requirements \S+) --output", (ROOT / "Makefile").read_text())
    (built,) = re.findall(r"-m (tuner\S+ --requirements \S+) --output (\S+)", " ".join(of("RUN")))
    assert built == (made, BUNDLE_PATH)
    for stage in ("bundle", "tuner"):
        assert ("COPY", f"--from=build {BUNDLE_PATH} {BUNDLE_PATH}") in stages()[stage]
    (init,) = job_manifest(a_spec(), a_target(), "uid")["spec"]["template"]["spec"]["initContainers"]
    assert f"{BUNDLE_PATH}/." in init["command"]


def test_only_pinned_packages_are_installed():
    installs = re.findall(r"pip install ([^&]*)", " ".join(of("RUN")))
    assert [line for line in installs if "--require-hashes --no-deps" in line], "pip must not look beyond the lock"
    assert all("--require-hashes --no-deps" in line or "--no-deps ." in line for line in installs)


@pytest.mark.parametrize("stage", ["bundle", "tuner"])
def test_both_images_run_as_nobody_by_number(stage):
    """A kubelet that is to check runAsNonRoot needs a number."""
    users = [rest for name, rest in stages()[stage] if name == "USER"]
    assert users[-1].split(":")[0] == "65534"


def test_images_have_their_usual_public_names():
    assert {rest.split(" AS ")[0] for rest in of("FROM")} == {"python:3.12-slim", "busybox:1.37"}


def test_the_image_is_the_program():
    assert stages()["tuner"][-1] == ("ENTRYPOINT", '["tuner"]')
    assert list(stages())[-1] == "tuner", "the last stage is what `docker build` makes"
