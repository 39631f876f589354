"""`tuner doctor`: can a search of this space run, and if not, what is to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tuner.commands.options import AsJson, Context, Namespace, Space, Storage, StudyName
from tuner.commands.output import print_json, say, show
from tuner.errors import EXIT_OK, EXIT_RUNTIME_UNUSABLE

if TYPE_CHECKING:
    from tuner.doctor import Finding

_SIGNS = {"ok": "ok", "unknown": "?", "problem": "FAIL"}


def doctor(
    space: Space,
    namespace: Namespace = None,
    context: Context = None,
    storage: Storage = None,
    study: StudyName = None,
    tuner_image: Annotated[
        str, typer.Option("--tuner-image", envvar="TUNER_IMAGE", help="Image with the runner (k8s/Dockerfile).")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check that a search of this space could run on its clusters; each line is ok or says what to do."""
    from tuner.doctor import Question, examine
    from tuner.launch.spaces import open_space
    from tuner.study.points import evaluate

    opened = open_space(space)
    say(f"looking at pools {', '.join(opened.spec.pools)}; nothing is changed")
    found = []
    for finding in examine(Question(evaluate(opened), study, storage, namespace, context, tuner_image)):
        found.append(finding)
        if not as_json:
            show(lambda finding=finding: _print(finding))  # type: ignore[misc] # as it comes: a cluster may be slow
    problems = sum(finding.problems for finding in found)
    if as_json:
        print_json({"ok": not problems, "findings": [finding.as_json() for finding in found]})
    if problems:
        say(f"{problems} to be put right before a search can run" if problems > 1 else "one thing is to be put right")
    raise typer.Exit(EXIT_RUNTIME_UNUSABLE if problems else EXIT_OK)


def _print(finding: Finding) -> None:
    print(finding.about)
    for line in finding.lines:
        print(f"  {_SIGNS[line.level]:<4} {line.subject:<12} {line.text}")
