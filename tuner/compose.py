"""Builds what a command needs: the runtime, the problem, the storage address, the exported text.

The one place that knows every adapter; decides nothing about trials or configurations.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast, get_args

from tuner.errors import NothingFeasible, UsageError
from tuner.space.nearest import did_you_mean
from tuner.space.space import Space

if TYPE_CHECKING:
    from tuner.runtime.protocol import Runtime
    from tuner.study.events import OnEvent, SearchOutcome, Stop
    from tuner.study.points import Points
    from tuner.study.problem import Problem
    from tuner.study.sampler import Method
    from tuner.study.stored import StoredTrial
    from tuner.study.summary import StudySummary

RUNTIMES = ("kubernetes", "local", "simulated", "external")
LOG_FORMATS = ("auto", "text", "json")
SEEDED_FROM_OTHER = 5
WORLD = 1
"""The simulated hardware differs from the engine model unless `--world 0` says otherwise."""
EXTERNAL_TIMEOUT_S = 6 * 3600.0
"""Longer than the deadlines of a trial together (ready, load, stop) with a queue of a few hours before it."""


@dataclass(frozen=True, slots=True)
class OnCluster:
    """What the command line says about clusters; a pool's own namespace and context come first."""

    namespace: str | None = None
    context: str | None = None
    tuner_image: str | None = None
    drain: bool = False
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked of `tuner search`."""

    space: Space
    runtime: str
    study: str | None
    storage: str | None
    trials: int | None
    seed: int | None
    sampler: str
    world: int | None
    engine_command: str | None
    external_command: str | None
    new_study: str | None
    seed_from: str | None
    log_format: str = "auto"
    stop_when_converged: bool = False
    on_cluster: OnCluster = OnCluster()
    stopping: Callable[[], Stop] = lambda: ""
    only: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.new_study or self.study or self.space.name

    @property
    def storage_url(self) -> str:
        return self.storage or default_storage(self.name)


def default_storage(study: str) -> str:
    """SQLite in the current folder, named after the study."""
    return f"sqlite:///{study}.db"


def run_search(
    request: Request, progress: TextIO, counting: Callable[[int, int], None]
) -> tuple[SearchOutcome, StudySummary]:
    """Search as asked; returns how it ended and what the study holds.

    Raises:
        UsageError: bad options, or a study that does not go with this space.
        RuntimeUnusable: the runtime cannot run anything.
    """
    _check(request)
    from tuner.study.points import evaluate
    from tuner.study.search import search
    from tuner.study.summary import read_summary

    points = evaluate(request.space, counting)
    problem = _problem(request, points)
    runtime = _runtime(request, problem, progress)
    with _watching(request, problem, runtime, progress) as on_event:
        outcome = search(
            problem,
            request.storage_url,
            runtime,
            sampler=cast("Method", request.sampler),
            seed=request.seed,
            on_event=on_event,
            poll_s=1.0,
            stop_when_converged=request.stop_when_converged,
            stopping=request.stopping,
        )
    return _in_terms_of(request, problem, outcome), read_summary(request.storage_url, problem.name)


@contextmanager
def _watching(request: Request, problem: Problem, runtime: Runtime, progress: TextIO) -> Iterator[OnEvent]:
    """Who is told of the search: a view on a terminal, lines elsewhere, JSON for collectors."""
    from tuner.report.live import LiveView, wants_view
    from tuner.report.log import JsonLog
    from tuner.report.progress import ProgressLines

    if request.log_format == "json":
        yield JsonLog(progress, study=problem.name)
    elif request.log_format == "auto" and wants_view(progress):
        with LiveView(progress, runtime.simulated) as view:
            yield view
    else:
        yield ProgressLines(progress, problem.budget.trials)


def _in_terms_of(request: Request, problem: Problem, outcome: SearchOutcome) -> SearchOutcome:
    """The outcome, its message in terms of what the user asked."""
    message = outcome.message
    if outcome.exit_reason == "no_confirmed_winner" and problem.confirm.top == 0:
        message = "nothing is confirmed: the space file says `confirm: {top: 0}`"
    if outcome.exit_reason == "interrupted" and request.new_study and not request.seed_from:
        message = f"interrupted; go on with --study {request.name} instead of --new-study"
    return replace(outcome, message=message)


def _check(request: Request) -> None:
    from tuner.study.alternatives import check_installed
    from tuner.study.sampler import Method

    if request.runtime not in RUNTIMES:
        raise UsageError(f"--runtime {request.runtime}: no such runtime{did_you_mean(request.runtime, RUNTIMES)}")
    if request.sampler not in get_args(Method):
        raise UsageError(
            f"--sampler {request.sampler}: no such sampler{did_you_mean(request.sampler, get_args(Method))}"
        )
    check_installed(request.sampler)
    if request.log_format not in LOG_FORMATS:
        raise UsageError(f"--log-format {request.log_format}: is one of {', '.join(LOG_FORMATS)}")
    _check_companions(request)


def _check_companions(request: Request) -> None:
    """Options that mean something only beside another one, or never beside it."""
    if (request.runtime == "external") != bool(request.external_command):
        raise UsageError("--external-command COMMAND goes with --runtime external, and that runtime needs it")
    if request.engine_command and request.runtime != "local":
        raise UsageError("--engine-command goes with --runtime local")
    if request.runtime != "kubernetes" and _given(request.on_cluster):
        raise UsageError(f"--{_given(request.on_cluster)} goes with --runtime kubernetes")
    if request.on_cluster.drain and request.on_cluster.cancel:
        raise UsageError("give --drain to wait for running trials or --cancel to delete them, not both")
    if request.world is not None and request.runtime != "simulated":
        raise UsageError("--world goes with --runtime simulated")
    if request.seed_from and not request.new_study:
        raise UsageError("--seed-from OLD goes with --new-study NAME")
    if request.only and request.new_study and not request.seed_from:
        raise UsageError("--only with --new-study needs --seed-from OLD: the trials are those of the old study")
    if request.study and request.new_study:
        raise UsageError("give --study to go on with a study or --new-study to start one, not both")
    if "/" in request.name:
        raise UsageError(f"{request.name}: a study's name cannot hold a slash; say where it is kept with --storage")


def _given(on_cluster: OnCluster) -> str:
    """The first option that was given; an image may come from the environment and does no harm."""
    given = (on_cluster.namespace, on_cluster.context, on_cluster.drain, on_cluster.cancel)
    names = ("namespace", "context", "drain", "cancel")
    return next((name for name, value in zip(names, given, strict=True) if value), "")


def _problem(request: Request, points: Points) -> Problem:
    from tuner.study.assemble import Where, problem_of

    simulated = request.runtime == "simulated"
    where = Where(
        simulated=simulated,
        world=_world(request) if simulated else None,
        program=tuple(shlex.split(request.engine_command)) if request.engine_command else (),
    )
    problem = problem_of(points, name=request.name, where=where, trials=request.trials)
    if request.only:
        from tuner.study.again import only_these

        problem = only_these(problem, request.storage_url, request.only, old=_old_study(request))
    elif request.seed_from:
        old = _best_of_other(request, points)
        problem = replace(problem, seeds=[*old, *problem.seeds])
    if request.new_study:
        _refuse_existing(request)
    return problem


def _old_study(request: Request) -> tuple[str, str] | None:
    """Name and database of the study that --seed-from names."""
    if request.seed_from is None:
        return None
    return request.seed_from, request.storage or default_storage(request.seed_from)


def _world(request: Request) -> int:
    return WORLD if request.world is None else request.world


def _refuse_existing(request: Request) -> None:
    """A new study's name must be free, unless this very command began it: the same command resumes.

    Raises:
        UsageError: another study has the name.
    """
    from tuner.study.storage import open_storage
    from tuner.study.summary import study_names, summarize

    storage = open_storage(request.storage_url)
    try:
        if request.name not in study_names(storage):
            return
        begun = summarize(storage, request.name)
    finally:
        storage.close()
    ours = request.seed_from and any(name.startswith(f"{request.seed_from}-") for name in begun.seeds)
    if begun.trials_in_order and not ours:
        raise UsageError(f"study {request.name} exists already; go on with it by --study {request.name}")


def _best_of_other(request: Request, points: Points) -> list:  # type: ignore[type-arg]
    from tuner.study.summary import read_summary

    assert request.seed_from is not None
    url = request.storage or default_storage(request.seed_from)
    summary = read_summary(url, request.seed_from)
    members = {p.config.fingerprint: p.config for p in points.valid}
    best = [members[f.fingerprint] for f in summary.ranked if f.fingerprint in members][:SEEDED_FROM_OTHER]
    if not best:
        raise UsageError(f"study {request.seed_from}: none of its measured configurations is a point of this space")
    return [(f"{request.seed_from}-{i + 1}", config) for i, config in enumerate(best)]


def _runtime(request: Request, problem: Problem, progress: TextIO) -> Runtime:
    pools = request.space.spec.pools
    if request.runtime == "kubernetes":
        return _kubernetes(request, problem, progress)
    nodes = {name: pool.max_nodes for name, pool in pools.items()}
    if request.runtime == "simulated":
        from tuner.runtime.simulated import SimulatedRuntime

        return SimulatedRuntime(nodes, world=_world(request), traffic=request.space.traffic)
    if request.runtime == "external":
        from tuner.runtime.external import ExternalRuntime

        assert request.external_command is not None
        command = shlex.split(request.external_command)
        return ExternalRuntime(command, timeout_s=EXTERNAL_TIMEOUT_S, parallel=max(nodes.values()))
    from tuner.runtime.local import LocalRuntime

    smallest = min(layout.gpus for layout in request.space.layouts)
    slots = {name: max(1, pool.gpus_per_node // smallest) for name, pool in pools.items()}
    workdir = Path(f"{request.name}.trials").resolve()
    return LocalRuntime(slots, workdir=workdir, files=request.space.folder)


def _kubernetes(request: Request, problem: Problem, progress: TextIO) -> Runtime:
    """Asks the clusters whether they can run the search before anything is written anywhere."""
    from tuner.runtime.kubernetes.assemble import check_sites, places_of
    from tuner.runtime.kubernetes.runtime import KubernetesRuntime
    from tuner.study.stored import image_digests

    asked = request.on_cluster
    places = places_of(
        request.space.spec.pools,
        [layout.gpus for layout in request.space.layouts],
        namespace=asked.namespace,
        context=asked.context,
        tuner_image=asked.tuner_image or "",
    )
    first = {c.config.pool: c.config for c in reversed(problem.candidates)}
    samples = {pool: problem.make_spec(config, "may-i", 1, 0, None, None) for pool, config in first.items()}
    progress.writelines(f"tuner: {line}\n" for line in check_sites(places, samples))
    pins = image_digests(request.storage_url, request.name)
    return KubernetesRuntime(places, pins=pins, cancel=asked.cancel)


def study_and_storage(space: str | None, study: str | None, storage: str | None) -> tuple[str | None, str]:
    """Which study in which database a command means.

    Raises:
        UsageError: neither a space, a study nor a storage says.
    """
    if study is None and space is not None:
        from tuner.launch.spaces import open_space

        study = open_space(space).name
    if storage is not None:
        return study, storage
    if study is not None:
        return study, default_storage(study)
    found = sorted(Path().glob("*.db"))
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise UsageError(f"say which study: --space, --study or --storage (databases in this folder: {listed})")
    return None, f"sqlite:///{found[0]}"


def study_uid_of(space: str | None, study: str | None, storage: str | None) -> tuple[str | None, Space | None]:
    """The uid of the study that is meant, None if none is named; and its space, if that is."""
    from tuner.launch.spaces import open_space
    from tuner.study.stored import read_study

    opened = open_space(space) if space else None
    if not space and not study:
        return None, None
    name, url = study_and_storage(space, study, storage)
    return read_study(url, name).uid, opened


def stored_trial(
    trial: str, space: str | None, study: str | None, storage: str | None
) -> tuple[StoredTrial, Space | None]:
    """A trial as its study's database has it, and the space, if it is named.

    Raises:
        UsageError: no such study, or no such trial.
    """
    from tuner.launch.spaces import open_space
    from tuner.study.stored import read_study

    name, url = study_and_storage(space, study, storage)
    return read_study(url, name).stored(trial), open_space(space) if space else None


def export_text(
    kind: str,
    space_name: str,
    study: str | None,
    storage: str | None,
    *,
    rank: int,
    target_rate: float | None = None,
    allow_simulated: bool,
    force: bool,
) -> str:
    """The exported document.

    Raises:
        NothingFeasible: the study has no configuration of that rank.
        UsageError: a simulated or unconfirmed result without the flag that lets it pass.
    """
    from tuner.export.command import to_command
    from tuner.export.config_file import to_config_file
    from tuner.export.from_study import replicas, target_of, winner_of
    from tuner.export.helm import helm_values, to_yaml
    from tuner.export.manifest import to_manifest
    from tuner.export.winner import refusal
    from tuner.launch.spaces import open_space
    from tuner.report.table import nearest_miss
    from tuner.study.summary import read_summary

    space = open_space(space_name)
    name, url = study_and_storage(None, study or space.name, storage)
    summary = read_summary(url, name)
    if summary.best is None:
        raise NothingFeasible(f"{name}: nothing to export: {summary.common_failure or nearest_miss(summary)}")
    winner = winner_of(summary, rank)
    refused = refusal(winner, allow_simulated=allow_simulated, force=force)
    if refused:
        raise UsageError(refused)
    target = replace(target_of(space, str(winner.config["pool"])), replicas=replicas(winner, target_rate))
    values = helm_values(winner, target)
    if kind == "manifest":
        return to_manifest(values, name=space.name)
    if kind == "config":
        return to_config_file(values)
    return to_command(values) if kind == "command" else to_yaml(values)
