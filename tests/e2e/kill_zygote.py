"""Runs kill cases: a controller that SIGKILLs itself at one numbered point, then the same search again to its end.

`python kill_zygote.py FOLDER SPACE ENGINE_COMMAND` imports everything once and forks. It first runs the acts of the
study one after the other without a kill; then cases come on stdin, `ACT before|after NUMBER` a line. Everything leaves
a report in FOLDER, `ACT.json` or `ACT-before-NUMBER.json`. Judges nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna
import sqlalchemy.event
from sqlalchemy.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.forking import Numbered, in_a_process_of_its_own

from tuner.launch.spaces import open_space
from tuner.runtime.local import LocalRuntime
from tuner.study.assemble import Where, problem_of
from tuner.study.confirm import sibling
from tuner.study.points import evaluate
from tuner.study.problem import Budget
from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.trial.spec import Deadlines

IN_FLIGHT = 6
"""Cases at once: most of a case is waiting for engines to answer and to end."""

ACTS = {"first": (1, 0), "second": (2, 0), "confirm": (2, 1)}
"""Trials in all, and candidates to confirm. Each act goes on with the study the one before it left, as a user does who
raises the budget; so every case is about one trial, and hundreds of them take minutes."""

MARK = "TUNER_E2E_CASE"
RUNNER = Path(__file__).with_name("short_load_runner.py")


def session(problem, folder: Path, log: str, when: str, number: int) -> None:
    """One controller. Returns only if nothing kills it."""
    hook = Numbered(folder / log, (when, number))
    runtime = LocalRuntime(
        {"here": 1},
        workdir=folder / "trials",
        gpus=(),
        python=str(folder.parent / "runner"),
        on_process_start=lambda said: hook(said.replace(" ", " start ", 1)),
    )
    outcome = search(problem, f"sqlite:///{folder}/study.db", runtime, on_write=hook, poll_s=1.0)
    (folder / "outcome.json").write_text(json.dumps({"exit_reason": outcome.exit_reason, "counted": outcome.counted}))


def run_case(problem, folder: Path, when: str, number: int) -> None:
    """Both sessions of one case (one, if nothing kills it), and what is left of them."""
    os.environ[MARK] = str(folder)
    begun_s = time.monotonic()
    codes = [in_a_process_of_its_own(session, problem, folder, "first.log", when, number)]
    if codes[0] != 0:
        codes.append(in_a_process_of_its_own(session, problem, folder, "second.log", "never", 0))
    report = {
        "left": marked(str(folder)),
        "codes": codes,
        "outcome": read_json(folder / "outcome.json"),
        "first": read_lines(folder / "first.log"),
        "second": read_lines(folder / "second.log"),
        "runs": read_lines(folder / "runs.log"),
        "folders": [path.name for path in (folder / "trials").iterdir() if path.is_dir()],
        "trials": stored(problem.name, f"sqlite:///{folder}/study.db"),
        "took_s": time.monotonic() - begun_s,
    }
    draft = folder.with_suffix(".new")
    draft.write_text(json.dumps(report))
    draft.rename(folder.with_suffix(".json"))


def marked(mark: str) -> list[str]:
    """Command lines of living processes that descend from this case's controllers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def stored(name: str, url: str) -> list[dict]:
    """All trials of the study and of its confirmations."""
    storage = open_storage(url)
    try:
        known = optuna.get_all_study_names(storage.backend)
        return [
            {
                "study": study,
                "number": trial.number,
                "state": trial.state.name,
                "attrs": trial.user_attrs,
                "constraints": sorted(trial.constraints),
            }
            for study in (name, sibling(name))
            if study in known
            for trial in optuna.load_study(study_name=study, storage=storage.backend).trials
        ]
    finally:
        storage.close()


def read_json(path: Path):
    return json.loads(path.read_text()) if path.exists() else None


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def prepare(home: Path, space: str, engine: str) -> dict:
    """The problem of every act."""
    (home / "runner").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(RUNNER))} "$@"\n')
    (home / "runner").chmod(0o755)
    where = Where(simulated=False, program=tuple(shlex.split(engine)))
    points = evaluate(open_space(space))
    deadlines = Deadlines(ready_s=300.0, first_token_s=120.0, probe_s=300.0, stop_s=5.0)
    problem = problem_of(points, name="killed", where=where, trials=None, deadlines=deadlines)
    open_storage(f"sqlite:///{home}/warm.db").close()  # what Optuna imports late is imported once
    return {
        act: replace(problem, budget=Budget(trials=trials), confirm=replace(problem.confirm, top=top))
        for act, (trials, top) in ACTS.items()
    }


def run_acts(problems: dict, home: Path) -> None:
    """Without a kill. What an act leaves is what the cases of the next one begin with, in `begin-ACT`."""
    left = home / "nothing"
    left.mkdir()
    for act, problem in problems.items():
        shutil.copytree(left, home / f"begin-{act}")
        left = home / act
        shutil.copytree(home / f"begin-{act}", left)
        in_a_process_of_its_own(run_case, problem, left, "never", 0)
        for log in left.glob("*.log"):
            log.unlink()


def main() -> None:
    home, parent = Path(sys.argv[1]), os.getppid()
    os.nice(19)  # hundreds of short processes: whoever measures something beside them goes first
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A kill of the process loses nothing the kernel has: no need to wait for the disk.
    sqlalchemy.event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    problems = prepare(home, sys.argv[2], sys.argv[3])
    run_acts(problems, home)
    running = 0
    for line in sys.stdin.read().splitlines():
        if running == IN_FLIGHT:
            os.wait()
            running -= 1
        if os.getppid() != parent:
            break
        act, when, number = line.split()
        folder = home / f"{act}-{when}-{number}"
        shutil.copytree(home / f"begin-{act}", folder)
        if os.fork() == 0:
            os._exit(in_a_process_of_its_own(run_case, problems[act], folder, when, int(number)))
        running += 1
    while running:
        os.wait()
        running -= 1


if __name__ == "__main__":
    main()
