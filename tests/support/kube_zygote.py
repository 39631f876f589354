"""Runs searches on a cluster whose controllers SIGKILL themselves: `python kube_zygote.py SPACE`, orders on stdin.

Imports everything once and forks per order. An order is a JSON line: `folder`, `kubeconfig`, `trials`, `top`, `kills`
(a list of [when, number], each the end of one controller; one more goes on to the end). What came of it is left in
`FOLDER/report.json`. Judges nothing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import kubernetes.client
import kubernetes.config  # noqa: F401
import optuna
import sqlalchemy.event
from sqlalchemy.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.forking import Numbered, in_a_process_of_its_own

from tuner.launch.spaces import open_space
from tuner.runtime.kubernetes.assemble import places_of
from tuner.runtime.kubernetes.runtime import KubernetesRuntime
from tuner.study.assemble import Where, problem_of
from tuner.study.confirm import sibling
from tuner.study.points import evaluate
from tuner.study.problem import Budget
from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.study.stored import image_digests
from tuner.trial.spec import Deadlines

SPEED = 20.0
"""Unless an order says `speed`: the controller's clock runs so much faster, and polls and rests take a moment."""


def session(problem, space, order: dict, log: str, kill_at: list | None) -> None:
    folder = Path(order["folder"])
    os.environ["KUBECONFIG"] = order["kubeconfig"]
    hook = Numbered(folder / log, kill_at)
    gpus = [layout.gpus for layout in space.layouts]
    where = {"namespace": None, "context": None, "tuner_image": "tuner:1", "on_call": lambda said: hook(call(said))}
    url = f"sqlite:///{folder}/study.db"
    speed = order.get("speed", SPEED)
    runtime = KubernetesRuntime(
        places_of(space.spec.pools, gpus, **where),
        pins=image_digests(url, problem.name),
        clock=lambda: speed * time.monotonic(),
        sleep=lambda s: time.sleep(s / speed),
    )
    begun_s = time.monotonic()
    outcome = search(problem, url, runtime, on_write=hook, poll_s=5.0, retries=3)
    took_s, rss_mib = time.monotonic() - begun_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"exit_reason": outcome.exit_reason, "counted": outcome.counted, "message": outcome.message}
    (folder / "outcome.json").write_text(json.dumps(told | {"took_s": took_s, "rss_mib": rss_mib}))


def call(said: str) -> str:
    """`before create NAME` -> `before api create NAME`."""
    return said.replace(" ", " api ", 1)


def run(problem, space, order: dict) -> None:
    folder = Path(order["folder"])
    problem = replace(
        problem, budget=Budget(trials=order["trials"]), confirm=replace(problem.confirm, top=order.get("top", 0))
    )
    kills = [*order["kills"], None]
    codes = []
    for number, kill_at in enumerate(kills):
        codes.append(in_a_process_of_its_own(session, problem, space, order, f"{number}.log", kill_at))
        if codes[-1] == 0:
            break
    report = {
        "codes": codes,
        "outcome": json.loads((folder / "outcome.json").read_text()) if (folder / "outcome.json").exists() else None,
        "logs": [path.read_text().splitlines() for path in sorted(folder.glob("*.log"))],
        "trials": stored(problem.name, f"sqlite:///{folder}/study.db"),
    }
    draft = folder / "report.new"
    draft.write_text(json.dumps(report))
    draft.rename(folder / "report.json")


def stored(name: str, url: str) -> list[dict]:
    storage = open_storage(url)
    try:
        known = optuna.get_all_study_names(storage.backend)
        return [
            {"study": study, "number": t.number, "state": t.state.name, "attrs": t.user_attrs}
            for study in (name, sibling(name))
            if study in known
            for t in optuna.load_study(study_name=study, storage=storage.backend).trials
        ]
    finally:
        storage.close()


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "WAIT_FOR_DISK" not in os.environ:  # a kill of the process loses nothing the kernel has
        sqlalchemy.event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    space = open_space(sys.argv[1])
    points = evaluate(space)
    deadlines = Deadlines(ready_s=300.0, first_token_s=120.0, probe_s=300.0, stop_s=5.0)
    problem = problem_of(points, name=space.name, where=Where(simulated=False), trials=None, deadlines=deadlines)
    for line in sys.stdin:
        if os.fork() == 0:
            os._exit(in_a_process_of_its_own(run, problem, space, json.loads(line)))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
