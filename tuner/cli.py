"""The command line: parse, build adapters, call one function, print. Heavy imports live inside the commands.

Results go to stdout, progress to stderr. Exit codes are those of `tuner.errors`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner import __version__, cli_cluster, cli_doctor, cli_probe
from tuner.cli_cluster import Stopping
from tuner.errors import EXIT_INTERRUPTED, EXIT_OK, TunerError, UsageError
from tuner.terminal import AsJson, Context, MaybeSpace, Namespace, Space, Storage, StudyName, print_json, say, show

app = typer.Typer(
    name="tuner",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Finds the cheapest sglang launch configuration that still meets a TTFT limit, on your GPUs and your traffic.",
)
export_app = typer.Typer(no_args_is_help=True, help="Write the best confirmed configuration for deployment.")
app.add_typer(export_app, name="export")
app.command()(cli_probe.probe)
app.command()(cli_doctor.doctor)
cli_cluster.register(app)


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
def validate(file: Annotated[str, typer.Argument(help="Space file.")], as_json: AsJson = False) -> None:
    """Check a space file; every mistake at once, each with file:line:column."""
    from tuner.errors import SpaceError
    from tuner.launch.spaces import open_space
    from tuner.space.load import seeds_of
    from tuner.study.points import complete_seeds, evaluate

    try:
        space = open_space(file)
        points = evaluate(space, _counting("checking points"))
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


@app.command()
def plan(
    space: Space,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Trials to forecast.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Show the memory arithmetic.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a search would do: valid points, rejections by rule, memory fit, hours and money."""
    from tuner.launch.spaces import open_space
    from tuner.report.plan import plan_json, print_plan
    from tuner.study.assemble import Where, problem_of
    from tuner.study.forecast import forecast
    from tuner.study.points import evaluate
    from tuner.trial.spec import Deadlines

    opened = open_space(space)
    points = evaluate(opened, _counting("checking points"))
    problem = problem_of(points, name=opened.name, where=Where(simulated=False), trials=trials, deadlines=Deadlines())
    expected = forecast(points, problem)
    if as_json:
        print_json(plan_json(points, expected, arithmetic=memory))
    else:
        show(lambda: print_plan(points, expected, sys.stdout, arithmetic=memory, seeds=problem.seeds))


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
    from tuner.compose import prediction
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
    log_format: Annotated[str, typer.Option("--log-format", help="Progress on stderr: text or json.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Search, or resume: the same command goes on with its study until the total is reached."""
    from tuner.compose import OnCluster, Request, run_search
    from tuner.launch.spaces import open_space

    stopping = Stopping(drain=drain)
    request = Request(
        space=open_space(space),
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
        outcome, summary = run_search(request, sys.stderr, _counting("checking points"))
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


@app.command()
def status(
    space: MaybeSpace = None,
    study: StudyName = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show a study from its database alone."""
    from tuner.compose import study_and_storage
    from tuner.report.table import print_summary
    from tuner.study.summary import read_summary

    name, url = study_and_storage(space, study, storage)
    summary = read_summary(url, name)
    if as_json:
        print_json(summary.as_json())
    else:
        show(lambda: print_summary(summary, sys.stdout))


Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: stdout.")]
Rank = Annotated[int, typer.Option("--rank", min=1, help="1 is the best; 2 the next.")]
AllowSimulated = Annotated[bool, typer.Option("--allow-simulated", help="Export a simulated result, stamped.")]
Force = Annotated[bool, typer.Option("--force", help="Export an unconfirmed result, stamped.")]


def _export(kind: str, space: str, study: str | None, storage: str | None, output: Path | None, **how: Any) -> None:
    from tuner.compose import export_text

    text = export_text(kind, space, study, storage, **how)
    if output is None:
        show(lambda: print(text, end=""))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{output}: cannot be written: {exc.strerror}") from exc
    say(f"wrote {output}")


@export_app.command()
def helm(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """Helm values for the chart in k8s/chart."""
    _export("helm", space, study, storage, output, rank=rank, allow_simulated=allow_simulated, force=force)


@export_app.command()
def manifest(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """Plain Kubernetes objects."""
    _export("manifest", space, study, storage, output, rank=rank, allow_simulated=allow_simulated, force=force)


@export_app.command()
def command(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """The launch command as a shell script."""
    _export("command", space, study, storage, output, rank=rank, allow_simulated=allow_simulated, force=force)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def engine(ctx: typer.Context) -> None:
    """Serve the simulated engine: sglang's flags and protocol, no GPU. `tuner engine --help` lists its own options."""
    from tuner.simulator.serve import main as serve

    raise typer.Exit(serve(ctx.args))


def _counting(what: str) -> Any:
    from tuner.report.counting import Counting

    return Counting(sys.stderr, what)
