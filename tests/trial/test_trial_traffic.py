"""A trial whose requests come from the user's file: it finds the very file, and leaves no prompt anywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.traffic import SECRET, a_trace, read, some_prompts
from support.trials import a_spec

from tuner.space.workload import Length, Workload
from tuner.trial.spec import Confirm, Deadlines


def workload_of(traffic):
    answered = traffic.output_tokens or Length.fixed(4)
    return Workload(traffic.input_tokens, answered, prompts=traffic.kind, traffic=traffic.file)


def run(spec, folder, files):
    command = [sys.executable, "-m", "tuner.trial", "--records", "--workdir", str(folder / "trial")]
    command += ["--files", str(files), "--termination-message", str(folder / "message")]
    return subprocess.run(
        command, input=json.dumps(spec.as_json()), check=False, capture_output=True, text=True, timeout=100
    )


def test_prompts_are_in_nothing_a_trial_leaves(tmp_path):
    traffic = read(tmp_path, some_prompts(), "file")
    spec = a_spec(
        "--token-s", 0.005, workload=workload_of(traffic), confirm=Confirm(20.0, 2.0),
        deadlines=Deadlines(60.0, 60.0, 60.0, 3.0),
    )  # fmt: skip
    done = run(spec, tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    left = done.stdout + done.stderr + json.dumps(spec.as_json())
    left += "".join(p.read_text(errors="replace") for p in (tmp_path / "trial").rglob("*") if p.is_file())
    left += (tmp_path / "message").read_text()
    assert traffic.sha256 in left
    assert '"measured"' in left or "client_bound" in left
    assert SECRET not in left
    assert "helpful" not in left


@pytest.mark.parametrize(("change", "words"), [("other", "has the sha256"), ("gone", "no such file")])
def test_another_file_or_none_is_refused_before_the_engine_starts(tmp_path, change, words):
    traffic = read(tmp_path, a_trace(), "trace")
    if change == "other":
        (tmp_path / "trace.jsonl").write_text(a_trace(41))
    else:
        (tmp_path / "trace.jsonl").unlink()
    done = run(a_spec(workload=workload_of(traffic)), tmp_path, tmp_path)
    assert done.returncode == 0
    assert "traffic_file" in done.stdout
    assert words in done.stdout
    assert '"infrastructure"' in done.stdout
    assert not (tmp_path / "trial" / "engine.log").exists()
