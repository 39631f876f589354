"""The command line: parse, build adapters, call one function, print. Heavy imports live inside the commands.

Results go to stdout, progress to stderr. Exit codes are those of `tuner.errors`.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tuner import __version__
from tuner.commands import cluster, doctor, export, init, plan, probe, report, status
from tuner.commands.cluster import Stopping
from tuner.commands.options import AsJson, Context, Namespace, Space, Storage, StudyName
from tuner.commands.output import counting, print_json, say, show
from tuner.errors import EXIT_INTERRUPTED, EXIT_OK, TunerError, UsageError

# As a user meets them: before a search, during it, after it, and what helps beside it.
_ORDER = (
    *("init", "validate", "plan", "doctor"),
    *("search", "status", "trial", "logs"),
    *("report", "compare", "export", "gc"),
    *("probe", "predict", "engine"),
)


class _InOrder(TyperGroup):
    """Lists the commands in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="tuner",
    cls=_InOrder,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds the cheapest sglang launch configuration that still meets a TTFT limit, on your GPUs and your traffic.",
)
app.command()(init.init)
app.command()(probe.probe)
app.command()(doctor.doctor)
app.add_typer(export.app, name="export")
cluster.register(app)
report.register(app)


def main() -> None:
    """Entry point: one clear line for every expected error, and its exit code."""
    try:
        code = app(standalone_mode=False)  # without standalone mode a command's exit code is returned, not raised
        show(lambda: None)
    except TunerError as exc:
        say(str(exc))
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as exc:
        if not hasattr(exc, "format_message"):
            raise
        say(exc.format_message())
        sys.exit(UsageError.exit_code)
    sys.exit(code if isinstance(code, int) else EXIT_OK)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback form
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _version_flag: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def validate(
    file: Annotated[str | None, typer.Argument(help="Space file.")] = None,
    space_file: Annotated[str | None, typer.Option("--space", help="The same, as the other commands take it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a space file; every mistake at once, each with file:line:column."""
    from tuner.errors import SpaceError
    from tuner.launch.spaces import open_space
    from tuner.space.load import seeds_of
    from tuner.study.points import complete_seeds, evaluate

    if (file is None) == (space_file is None):
        raise UsageError("which space file? Say tuner validate FILE (or --space FILE)")
    file = str(space_file if file is None else file)
    try:
        space = open_space(file)
        points = evaluate(space, counting("checking points"))
        complete_seeds(points, seeds_of(space))
    except SpaceError as exc:
        if as_json:
            print_json({"valid": False, "problems": [vars(p) for p in exc.problems]})
            raise typer.Exit(exc.exit_code) from exc
        raise
    if as_json:
        print_json({"valid": True, "space": space.name, "points": points.total, "valid_points": len(points.valid)})
    else:
        show(lambda: print(f"{file}: valid; {len(points.valid):,} of {points.total:,} points can be tried"))


app.command()(plan.plan)

Positive = Annotated[int | None, typer.Option(min=1)]


@app.command()
def predict(
    space: Annotated[str | None, typer.Option("--space", help="Space file whose point to predict.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value of a point; the rest is best.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=1e-6, help="Open loop, req/s.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Closed loop, in flight.")] = None,
    input_tokens: Positive = None,
    output_tokens: Positive = None,
    cached_fraction: Annotated[float | None, typer.Option(min=0.0, max=0.99)] = None,
    ttft_p95: Annotated[float | None, typer.Option("--ttft-p95", min=1e-3, help="Limit of the capacity, s.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Catalogue name, or a config.json.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Catalogue name.")] = None,
    gpus: Positive = None,
    precision: Annotated[str | None, typer.Option(help="fp8, nvfp4, mxfp4 or bf16.")] = None,
    tp: Positive = None,
    dp: Positive = None,
    attn_dp: Positive = None,
    ep: Positive = None,
    speculation_steps: Annotated[int | None, typer.Option(min=0, max=16)] = None,
    routing: Annotated[str | None, typer.Option(help="round-robin, least-requests or sticky (a router's).")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict one configuration under one load, by formula and simulated; at its capacity if no load is given."""
    from tuner.preparing import prediction
    from tuner.report.case import Hardware, Traffic

    traffic = Traffic(rate, concurrency, input_tokens, output_tokens, cached_fraction, ttft_p95, routing)
    hardware = Hardware(architecture, accelerator, gpus, precision, tp, dp, attn_dp, ep, speculation_steps)
    doc = prediction(space, sets or [], hardware, traffic)
    if as_json:
        print_json(doc)
    else:
        from tuner.report.predict import print_prediction

        print_prediction(doc, sys.stdout)


@app.command()
def search(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    runtime: Annotated[str, typer.Option("--runtime", help="kubernetes, local, simulated or external.")] = "kubernetes",
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Total trials, over resumes.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of a new study; default 0.")] = None,
    sampler: Annotated[str, typer.Option("--sampler", help="prior-gp, tpe, random, or gp (needs torch).")] = "prior-gp",
    world: Annotated[
        int | None,
        typer.Option("--world", min=0, help="Simulated: hidden distortion of the hardware; 0 is none, default 1."),
    ] = None,
    engine_command: Annotated[
        str | None, typer.Option("--engine-command", help="Local: start this instead of sglang's own program.")
    ] = None,
    external_command: Annotated[
        str | None, typer.Option("--external-command", help="External: reads a TrialSpec, answers a TrialResult.")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
    tuner_image: Annotated[
        str | None,
        typer.Option("--tuner-image", envvar="TUNER_IMAGE", help="Kubernetes: image with the runner (k8s/Dockerfile)."),
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Kubernetes: when stopped, wait for the running trials first.")
    ] = False,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Kubernetes: when stopped, delete the running trials.")
    ] = False,
    new_study: Annotated[str | None, typer.Option("--new-study", help="Start a new study of this name.")] = None,
    seed_from: Annotated[
        str | None, typer.Option("--seed-from", help="With --new-study: try the best of this study first.")
    ] = None,
    stop_when_converged: Annotated[
        bool, typer.Option("--stop-when-converged", help="End when little further gain is expected (prior-gp).")
    ] = False,
    log_format: Annotated[
        str, typer.Option("--log-format", help="Progress on stderr: auto (a live view on a terminal), text or json.")
    ] = "auto",
    only: Annotated[
        str | None, typer.Option("--only", help="Run exactly the configurations of these trials, each to its end: 4,17")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Another limit than the file's: ttft_p95_s=3; a new study.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search, or resume: the same command goes on with its study until the total is reached."""
    from tuner.compose import OnCluster, Request, run_search
    from tuner.launch.spaces import open_space
    from tuner.report.assignments import assignments, trial_numbers

    stopping = Stopping(drain=drain)
    request = Request(
        space=open_space(space).limited(assignments("--limit", limit or [])),
        only=trial_numbers(only),
        runtime=runtime,
        study=study,
        storage=storage,
        trials=trials,
        seed=seed,
        sampler=sampler,
        world=world,
        engine_command=engine_command,
        external_command=external_command,
        new_study=new_study,
        seed_from=seed_from,
        log_format=log_format,
        stop_when_converged=stop_when_converged,
        on_cluster=OnCluster(namespace, context, tuner_image, drain=drain, cancel=cancel),
        stopping=stopping,
    )
    try:
        outcome, summary = run_search(request, sys.stderr, counting("checking points"))
    except KeyboardInterrupt:  # before the first trial, or after the last
        say("interrupted; run the same command to go on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print_json(summary.as_json() | {"exit_reason": outcome.exit_reason, "message": outcome.message})
    else:
        from tuner.report.table import print_summary

        show(lambda: print_summary(summary, sys.stdout))
    say(outcome.message)
    raise typer.Exit(outcome.exit_code)


app.command()(status.status)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def engine(ctx: typer.Context) -> None:
    """Serve the simulated engine: sglang's flags and protocol, no GPU. `tuner engine --help` lists its own options."""
    from tuner.simulator.serve import main as serve

    raise typer.Exit(serve(ctx.args))
