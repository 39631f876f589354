"""SIGKILL of the controller before and after every database write and every process start, then the same command again.

Controllers, runners and engines are real processes: the local runtime, the simulated engine over HTTP. Only the load is
short (`short_load_runner.py`): three streamed answers instead of a capacity search, whose verdict on a machine as busy
as this one would be "invalid". `kill_zygote.py` runs the cases, several at once; these tests ask for them and judge.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WAIT_S = 540.0
"""For the whole matrix: a waiting test's own case may be the last one."""

pytestmark = pytest.mark.timeout(WAIT_S + 30)

RUN = ["ask", "spec", "start", "result", "tell"]
OVER = ["session", "session", "stopped_by", "exit_reason"]
RESUME = ["epoch", "plan", "exit_reason", "session"]
NEW = ["create study", "epoch", "uid", "seed", "identity", "plan", "exit_reason", "session"]

# Every database write and process start of each act, in order. Each act goes on with the study the former left.
ACTS = {
    "first": [*NEW, *RUN, *OVER],
    "second": [*RESUME, *RUN, *OVER],
    "confirm": [*RESUME, "create study", *RUN, *OVER],
}
FIGURES = {"start_up_s", "gpu_seconds", "node", "simulated", "attempt", "state"}
TOLD = {
    "first": [("killed", "COMPLETE")],
    "second": [("killed", "COMPLETE"), ("killed", "PRUNED")],
    "confirm": [("killed", "COMPLETE"), ("killed", "PRUNED"), ("killed/confirm", "COMPLETE")],
}
"""What each act must leave, killed or not: the study's trials that count, and the confirmation."""

ENDS = {
    "first": {"exit_reason": "no_confirmed_winner", "counted": 1},
    "second": {"exit_reason": "no_confirmed_winner", "counted": 2},
    "confirm": {"exit_reason": "confirmed", "counted": 2},
}
FULL = os.environ.get("TUNER_KILL_MATRIX") == "full"
ALWAYS = {*RESUME, *RUN}


def is_new(act, name):
    """A place of the code that no earlier act has been killed at, or one whose moment in a study matters."""
    earlier = list(ACTS.values())[: list(ACTS).index(act)]
    return act == "first" or name in ALWAYS or not any(name in names for names in earlier)


CASES = [
    pytest.param(act, when, number, id=f"{act}-{when}-{number:02d}-{name.replace(' ', '_')}")
    for act, names in ACTS.items()
    for number, name in enumerate(names, start=1)
    for when in ("before", "after")
    if FULL or is_new(act, name)
]
"""Every write and start of a study's first search; of the later ones, all with TUNER_KILL_MATRIX=full."""


@pytest.fixture(scope="session")
def matrix(tmp_path_factory, request):
    """Where the reports appear. One worker starts the zygote, with the cases that were asked for; all of them wait."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if hasattr(request.config, "workerinput") else base) / "kill-matrix"
    try:
        home.mkdir()
    except FileExistsError:
        yield home
        return
    given = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = [params for params in given if {"act", "when", "number"} <= set(params)]
    zygote = start_zygote(home, "".join(f"{p['act']} {p['when']} {p['number']}\n" for p in wanted))
    try:
        yield home
        zygote.wait(WAIT_S)  # other workers may still wait for their cases
    finally:
        with suppress(ProcessLookupError):
            os.killpg(zygote.pid, signal.SIGKILL)
        zygote.wait()


def start_zygote(home, cases):
    engine = [sys.executable, "-m", "tuner.simulator", "--accelerator", "mi355x", "--startup-scale", "0"]
    engine += ["--architecture", str(HERE / "data" / "tiny-model.json"), "--precision", "bf16"]
    (home / "cases").write_text(cases)
    command = [sys.executable, str(HERE / "kill_zygote.py"), str(home), str(HERE / "data" / "tiny.yaml")]
    # Without coverage: hundreds of processes that are killed would not tell theirs anyway.
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    with (home / "cases").open() as given, (home / "zygote.log").open("w") as log:
        return subprocess.Popen(
            [*command, shlex.join(engine)], stdin=given, stdout=log, stderr=log, env=env, start_new_session=True
        )


def report_of(home, case):
    """The report of a case, once it is there."""
    path = home / f"{case}.json"
    give_up_s = time.monotonic() + WAIT_S
    while not path.exists() and time.monotonic() < give_up_s:
        time.sleep(0.2)
    assert path.exists(), f"no report of {case}: {(home / 'zygote.log').read_text()[-2000:]}"
    return json.loads(path.read_text())


def names(lines):
    """`before 14 start killed-0-02db635c142b` -> `start`, `after 8 session:1` -> `session`."""
    said = [line.split(" ", 2)[2] for line in lines]
    return ["start" if name.startswith("start ") else name.partition(":")[0] for name in said]


def told(report):
    return [(trial["study"], trial["state"]) for trial in report["trials"] if trial["state"] != "FAIL"]


def runs(report):
    """(trial, attempt) -> [(word, at_s)] as the runners themselves noted it: start, served, end."""
    found = {}
    for line in report["runs"]:
        word, trial, attempt, *_, at_s = line.split()
        found.setdefault((trial, attempt), []).append((word, float(at_s)))
    return found


@pytest.mark.parametrize("act", ACTS)
def test_every_write_and_process_start_is_in_the_matrix(matrix, act):
    """Uninterrupted runs: adding a write or a start must extend the table above."""
    report = report_of(matrix, act)
    assert names(report["first"][::2]) == ACTS[act]
    assert report["first"][::2] == [line.replace("after", "before", 1) for line in report["first"][1::2]]
    assert (report["codes"], report["outcome"], told(report)) == ([0], ENDS[act], TOLD[act])
    (events,) = runs(report).values()
    assert [word for word, _ in events] == ["start", "served", "end"]
    assert all(trial["attrs"]["simulated"] for trial in report["trials"])


@pytest.mark.parametrize(("act", "when", "number"), CASES)
def test_a_kill_is_survived(matrix, act, when, number):
    report = report_of(matrix, f"{act}-{when}-{number}")
    log = report["first"] + report["second"]
    assert report["codes"] == [-signal.SIGKILL, 0]
    assert report["first"][-1].startswith(f"{when} {number} ")
    assert names(report["first"][-1:]) == [ACTS[act][number - 1]]
    # The study reaches exactly its count, and every trial is final and whole.
    assert (report["outcome"], told(report)) == (ENDS[act], TOLD[act])
    abandoned = [trial for trial in report["trials"] if trial["state"] == "FAIL"]
    assert [trial["attrs"]["failure"] for trial in abandoned] in ([], ["abandoned before start"])
    whole = [trial for trial in report["trials"] if trial["state"] != "FAIL"]
    assert all(trial["constraints"] == ["error_rate", "failure", "ttft_p95_s"] for trial in whole)
    assert all({"result", "spec", *FIGURES} <= set(trial["attrs"]) for trial in whole)
    # No trial is told twice: as many tells went through as this act has finished trials.
    tells = sum(line.startswith("after") and line.endswith(" tell") for line in log)
    assert tells == len(report["trials"]) - (len(TOLD[act]) - 1)
    assert_ran_once_at_a_time(report, repeated=names(report["first"])[-1] in ("start", "result"))
    # Nothing is left.
    assert (report["left"], report["folders"]) == ([], [])


def assert_ran_once_at_a_time(report, *, repeated):
    """Every runner that started also ended, before the next one started; a stored result is never measured again."""
    spans = []
    for trial, events in runs(report).items():
        words = [word for word, _ in events]
        assert words in (["start", "served", "end"], ["start", "end"]), (trial, words)
        spans.append((events[0][1], events[-1][1]))
    spans.sort()
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans)), spans
    served = sum(word == "served" for events in runs(report).values() for word, _ in events)
    assert len(spans) <= 1 + repeated
    assert 1 <= served <= len(spans)
