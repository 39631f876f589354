"""Rules about the repository itself: sizes, nothing of a workplace in it, documents that match the program."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.cli import tuner

ROOT = Path(__file__).resolve().parents[1]
THIS = Path(__file__).name
MOST_LINES = 400
# Written in two parts, so that this file does not contain what it looks for.
WORKPLACE = ("/wo" + "rk/", "sha" + "red/")
NEVER_SET = "SGLANG_SIM" + "ULATE_"


def tracked(*patterns):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, check=True, capture_output=True, text=True, timeout=30
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def text_of(path):
    return path.read_bytes().decode("utf-8", errors="replace")


pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def test_no_module_is_longer_than_a_reader_can_hold():
    modules = tracked("tuner/*.py")
    assert len(modules) > 50
    long = {str(p.relative_to(ROOT)): n for p in modules if (n := len(text_of(p).splitlines())) > MOST_LINES}
    assert not long


@pytest.mark.parametrize("word", WORKPLACE)
def test_nothing_names_the_place_it_was_written_in(word):
    found = [str(p.relative_to(ROOT)) for p in tracked() if re.search(rf"(?<![\w.-]){re.escape(word)}", text_of(p))]
    assert not found


def test_the_simulation_switches_of_the_engine_are_never_set():
    """The engine's own simulation would make a number that looks measured."""
    setting = re.compile(rf"{NEVER_SET}\w*[\"']?\]?\s*[:=]")
    program = tracked(":!tests")  # a test may try to set one, to see it refused
    assert program
    assert not [str(p.relative_to(ROOT)) for p in program if setting.search(text_of(p))]


@pytest.mark.parametrize("word", ["http://", "https://", "--index", "--extra-index", "--find-links", "--trusted-host"])
def test_pinned_requirements_name_no_registry(word):
    files = tracked("requirements*.txt")
    assert files
    assert not [p.name for p in files if word in text_of(p)]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def distribution(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower()


def test_every_dependency_has_its_reason_in_contributing():
    table = [line for line in text_of(ROOT / "CONTRIBUTING.md").splitlines() if line.startswith("|")]
    named = {name for line in table for name in re.split(r"[,\s(`)]+", line.split("|")[1].lower()) if name}
    extras = [r for group in project()["optional-dependencies"].values() for r in group]
    missing = {distribution(r) for r in (*project()["dependencies"], *extras)} - named
    assert not missing


def test_every_dependency_is_pinned():
    pinned = {line.split("==")[0] for line in text_of(ROOT / "requirements.txt").splitlines() if "==" in line}
    assert {distribution(r) for r in project()["dependencies"]} <= pinned


# --- README


def shell_blocks():
    return re.findall(r"^```sh\n(.*?)^```", text_of(ROOT / "README.md"), re.MULTILINE | re.DOTALL)


def commands():
    """Every `tuner ...` line of README's shell blocks, without its comment."""
    lines = [line.strip() for block in shell_blocks() for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("tuner ")]


def test_every_program_make_calls_is_among_the_pinned():
    """`make lock` called a uv that nobody had installed."""
    called = set(re.findall(r"\$\(BIN\)/([a-z][-a-z]*)", text_of(ROOT / "Makefile")))
    assert {"uv", "ruff", "pytest"} <= called
    assert not [name for name in called if not (Path(sys.executable).parent / name).exists()]


def test_pip_installs_a_lock_as_it_stands():
    """Resolving beside a lock fails the day a package of it has a newer release (coverage[toml] did, on 2026-11-30)."""
    installs = [line for line in text_of(ROOT / "Makefile").splitlines() if "-r requirements" in line]
    assert len(installs) == 2
    assert all("--require-hashes --no-deps " in line for line in installs)


def test_the_first_two_commands_of_the_readme_are_single_lines_and_targets_of_make():
    first, second = (block.strip() for block in shell_blocks()[:2])
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for command in (first, second):
        assert 1 == len(command.splitlines())
        assert "make" == command.split()[0]
        assert command.split()[1] in targets


def test_every_target_the_documents_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`make ([a-z-]+)`", text_of(ROOT / document)))
        assert named <= targets, document


def test_every_tuner_command_of_the_readme_exists_with_its_options():
    assert len(commands()) > 5
    for words in commands():
        names = [w for w in words[1:3] if re.fullmatch(r"[a-z]+", w)]
        said = tuner(*names, "--help")
        assert 0 == said.code, words
        known = set(re.findall(r"--[a-z][a-z-]+", said.out))
        assert {w.split("=")[0] for w in words if w.startswith("--")} <= known, words


def test_every_option_the_readme_mentions_belongs_to_some_command():
    mentioned = set(re.findall(r"`?(--[a-z][a-z-]+)", text_of(ROOT / "README.md")))
    helps = "".join(
        tuner(*names, "--help").out
        for names in (
            *(["validate"], ["plan"], ["search"], ["status"], ["export", "helm"], ["init"]),
            *(["probe"], ["report"], ["compare"], ["doctor"]),
        )
    )
    foreign = {"--job-name", "--gpus", "--exclusive", "--values", "--spec", "--files"}
    assert mentioned - foreign <= set(re.findall(r"--[a-z][a-z-]+", helps))


def test_every_file_the_readme_points_to_is_there():
    text = text_of(ROOT / "README.md")
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r"`((?:k8s|search_spaces|tests)/[\w./-]+)`", text)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
