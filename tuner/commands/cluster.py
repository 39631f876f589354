"""Commands about trials on a cluster: `logs`, `trial show`, `gc`; and how a search is stopped.

Each parses, calls one function and prints. Heavy imports live inside the commands.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.commands.options import AsJson, Context, MaybeSpace, Namespace, Storage, StudyName
from tuner.commands.output import print_json, say, show
from tuner.errors import UsageError

if TYPE_CHECKING:
    from tuner.study.events import Stop


class Stopping:
    """What SIGTERM and Ctrl-C ask of a search. The first is noted, and heeded between two steps; the second cuts in.

    Until the search asks for the first time, there is nothing that a cut could harm.
    """

    def __init__(self, *, drain: bool) -> None:
        self._wish: Stop = "drain" if drain else "stop"
        self._heard: Stop = ""
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def __call__(self) -> Stop:
        self._asked = True
        return self._heard

    def _note(self, _number: int, _frame: object) -> None:
        if self._heard or not self._asked:
            raise KeyboardInterrupt
        self._heard = self._wish
        if self._wish == "drain":
            say("waiting for the running trials to end; once more to leave them running")


Trial = Annotated[str, typer.Argument(help="Number (17), number of a confirmation (c3), or id of the trial.")]
trial_app = typer.Typer(no_args_is_help=True, help="Look at single trials.")


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(logs)
    app.add_typer(trial_app, name="trial")
    app.command()(gc)


def logs(
    trial: Trial,
    space: MaybeSpace = None,
    study: StudyName = None,
    storage: Storage = None,
    namespace: Namespace = None,
    context: Context = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial ends.")] = False,
) -> None:
    """Show what a trial on a cluster says of its progress."""
    from tuner import on_cluster
    from tuner.compose import stored_trial

    stored, opened = stored_trial(trial, space, study, storage)
    clusters = on_cluster.clusters_of(opened, namespace, context)
    gone = False

    def read() -> tuple[str, bool]:
        nonlocal gone
        now = on_cluster.pod_of(clusters, stored.study_uid, stored.trial_id)
        gone = now is None
        if now is None:
            return "", True
        return on_cluster.log_of(*now), not follow or on_cluster.has_ended(now[1])

    on_cluster.follow(read, lambda line: show(lambda: print(line)))
    if gone:  # its controller has recorded it and let its pod go, perhaps before its last lines were read
        show(lambda: print(stored_trial(trial, space, study, storage)[0].ending))


@trial_app.command("show")
def trial_show(
    trial: Trial,
    space: MaybeSpace = None,
    study: StudyName = None,
    storage: Storage = None,
    namespace: Namespace = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a trial; with --context or --namespace also its pod."""
    from tuner import on_cluster
    from tuner.compose import stored_trial

    stored, opened = stored_trial(trial, space, study, storage)
    document = stored.document
    if namespace or context:
        clusters = on_cluster.clusters_of(opened, namespace, context)
        found = on_cluster.pod_of(clusters, stored.study_uid, stored.trial_id)
        document = {**document, "pod": on_cluster.pod_summary(found[1]) if found else None}
    if as_json:
        print_json(document)
    else:
        show(lambda: print("\n".join(on_cluster.as_lines(document))))


def gc(
    space: MaybeSpace = None,
    study: StudyName = None,
    storage: Storage = None,
    namespace: Namespace = None,
    context: Context = None,
    running: Annotated[
        bool, typer.Option("--running", help="With --study or --space: also trials that still run.")
    ] = False,
    everybody: Annotated[
        bool, typer.Option("--all", help="Of every study in the namespace, other users' too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only say what would be.")] = False,
) -> None:
    """Delete what trials have left on a cluster: objects of the tuner alone, ended and taken in by nobody."""
    from tuner import on_cluster
    from tuner.compose import study_uid_of

    uid, opened = study_uid_of(space, study, storage)
    if running and uid is None:
        raise UsageError("--running goes with --study NAME or --space FILE: whose trials are to be ended?")
    if everybody and uid is not None:
        raise UsageError("--all goes without --study and --space")
    if yes and uid is None and not everybody:
        raise UsageError("--yes goes with --study NAME, --space FILE or --all: whose results are to be deleted?")
    clusters = on_cluster.clusters_of(opened, namespace, context)
    found = list(on_cluster.leftovers(clusters, uid, running=running))
    for leftover in found:
        if leftover.why and yes:
            on_cluster.remove(leftover)
        verb = ("deleted" if yes else "would delete") if leftover.why else "kept"
        show(lambda line=f"{verb}  {leftover}": print(line))  # type: ignore[misc] # bound now
    if not found:
        say("nothing is left")
    elif not yes and any(leftover.why for leftover in found):
        whose = "" if uid is not None or everybody else ", with --study, --space or --all,"
        say(f"nothing was changed; say --yes{whose} to delete them, unharvested results included")
