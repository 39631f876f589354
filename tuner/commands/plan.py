"""`tuner plan`: what a search would do, before anything runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tuner.commands.options import AsJson, Space
from tuner.commands.output import counting, print_json, show, write_file
from tuner.errors import UsageError


def plan(
    space: Space,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Trials to forecast.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Show the memory arithmetic.")] = False,
    target_rate: Annotated[
        float | None, typer.Option("--target-rate", min=1e-9, help="req/s: show the nodes and money serving it takes.")
    ] = None,
    job: Annotated[
        bool, typer.Option("--job", help="Print only the Kubernetes Job of each pool's best point, as YAML.")
    ] = False,
    namespace: Annotated[str | None, typer.Option("--namespace", help="With --job: namespace of the Job.")] = None,
    tuner_image: Annotated[
        str, typer.Option("--tuner-image", help="With --job: the image that carries the runner.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show what a search would do: valid points, rejections by rule, memory fit, hours and money."""
    from tuner.export.document import dump
    from tuner.launch.spaces import open_space
    from tuner.preparing import job_documents
    from tuner.report.plan import Asked, plan_json, print_plan
    from tuner.study.assemble import Where, problem_of
    from tuner.study.forecast import forecast
    from tuner.study.points import evaluate
    from tuner.trial.spec import Deadlines

    if (namespace or tuner_image) and not job:
        raise UsageError("--namespace and --tuner-image go with --job")
    opened = open_space(space)
    points = evaluate(opened, counting("checking points"))
    problem = problem_of(points, name=opened.name, where=Where(simulated=False), trials=trials, deadlines=Deadlines())
    jobs = job_documents(points, problem, namespace, tuner_image) if job else []
    if job and not as_json:
        write_file(None, dump(*jobs))
        return
    expected = forecast(points, problem)
    asked = Asked(arithmetic=memory, target_req_per_s=target_rate, jobs=jobs)
    if as_json:
        print_json(plan_json(points, expected, asked))
    else:
        show(lambda: print_plan(points, expected, asked, sys.stdout, seeds=problem.seeds))
