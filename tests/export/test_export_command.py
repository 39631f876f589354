"""The launch command: a shell gets exactly what was measured."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tuner.export.command import to_command
from tuner.export.helm import helm_values

PRINT = (sys.executable, "-c", "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
AWKWARD = st.sampled_from(
    ["--x=1", "-1", "$(id)", "`id`", "'", '"', "\\", "a b", "", "*", "~", "!x", "a\nb", "--y", "#"]
)


def run(script, **env):
    return subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": os.environ["PATH"], **env}, capture_output=True, timeout=60, check=False
    )


@settings(max_examples=20, deadline=None)
@given(args=st.lists(TEXT | AWKWARD, min_size=1, max_size=8), value=TEXT | AWKWARD)
@example(args=["--a", "-0.5", "b c", "--d", '{"e": "$f"}'], value="it's $HOME")
def test_shell_passes_measured_args_and_env_byte_for_byte(a_winner, a_target, args, value):
    """Run by a real shell, whose program prints what it got."""
    winner = a_winner(program=PRINT, args=tuple(args), env={"MEASURED": value})
    values = helm_values(winner, a_target(secret_env={}))
    done = run(to_command(values))
    assert done.returncode == 0, done.stderr
    argv, env = json.loads(done.stdout)
    assert argv == args + values["launch"]["plumbing"]
    assert env["MEASURED"] == value


def test_script_splits_into_the_command_line(a_winner, a_target):
    values = helm_values(a_winner(), a_target())
    words = shlex.split(to_command(values).replace(" \\\n", " "), comments=True)
    launch = values["launch"]
    assert words[words.index("exec") + 1 :] == launch["program"] + launch["args"] + launch["plumbing"]


def test_bash_parses_the_script(a_winner, a_target):
    script = to_command(helm_values(a_winner(env={"A": "'\n\"`$("}), a_target()))
    subprocess.run(["bash", "-n"], input=script.encode(), check=True, timeout=60)


def test_one_line_per_flag_and_plumbing_last_and_named(a_winner, a_target):
    lines = to_command(helm_values(a_winner(), a_target())).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("exec "))
    assert lines[start + 1] == "  --model-path amd/GLM-5.2-MXFP4 \\"
    last = lines.index("  --host 0.0.0.0 \\")
    assert lines[-1] == "  --served-model-name glm-5.2"
    assert lines[last - 1] == "  --context-length 1048576 \\"
    assert lines[start - 2].endswith(f"no part of the trial: the last {len(lines) - last} lines.")


def test_negative_numbers_stay_beside_their_flag(a_winner, a_target):
    script = to_command(helm_values(a_winner(args=("--seed", "-1", "--ratio", "-0.5")), a_target()))
    assert "  --seed -1 \\\n  --ratio -0.5 \\\n" in script


def test_secret_is_asked_for_and_never_written(a_winner, a_target):
    values = helm_values(a_winner(program=PRINT, env={"HF_TOKEN": "hf_abc"}), a_target())
    script = to_command(values)
    assert "hf_abc" not in script
    missing = run(script)
    assert missing.returncode != 0
    assert b"HF_TOKEN: is a secret: set it from Secret hugging-face, key token" in missing.stderr
    given = run(script, HF_TOKEN="hf_xyz")
    assert json.loads(given.stdout)[1]["HF_TOKEN"] == "hf_xyz"


@pytest.mark.parametrize("stamp", ["SIMULATED", "UNCONFIRMED"])
def test_script_is_stamped(a_winner, a_target, stamp):
    changes = {"simulated": True} if stamp == "SIMULATED" else {"confirmed": False}
    assert f"\n# {stamp}:" in to_command(helm_values(a_winner(**changes), a_target()))
    assert f"\n# {stamp}:" not in to_command(helm_values(a_winner(), a_target()))
