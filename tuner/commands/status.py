"""`tuner status`: a study from its database, once or watched."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tuner.commands.options import AsJson, MaybeSpace, Storage, StudyName
from tuner.commands.output import print_json, show
from tuner.errors import UsageError


def status(
    space: MaybeSpace = None,
    study: StudyName = None,
    storage: Storage = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show what runs until the search ends; Ctrl-C stops.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a study from its database alone: what runs, what is best, what it cost."""
    from tuner.compose import study_and_storage
    from tuner.report.table import print_summary
    from tuner.report.watch import print_running, watch_study
    from tuner.study.summary import read_summary

    if watch and as_json:
        raise UsageError("--watch shows people what happens; for machines use --json again and again")
    name, url = study_and_storage(space, study, storage)
    if watch:
        watch_study(url, name, sys.stdout)
    summary = read_summary(url, name)
    if as_json:
        print_json(summary.as_json())
        return
    if summary.exit_reason is None and not watch:
        show(lambda: print_running(url, name, sys.stdout))
    show(lambda: print_summary(summary, sys.stdout))
