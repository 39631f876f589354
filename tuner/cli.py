"""The command line: parse, build adapters, call one function, print. Heavy imports live inside the commands.

Results go to stdout, progress to stderr. Exit codes are those of `tuner.errors`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tuner import __version__
from tuner.commands import report as report_commands
from tuner.commands.output import print_json as _print_json
from tuner.commands.output import say as _say
from tuner.commands.output import show as _show
from tuner.commands.output import write_text
from tuner.errors import EXIT_INTERRUPTED, EXIT_OK, TunerError, UsageError

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
report_commands.register(app)

Space = Annotated[str, typer.Option("--space", help="Space file; a local file first, then one that ships.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage", envvar="TUNER_STORAGE", help="Optuna database URL; default: <study>.db here."),
]
StudyName = Annotated[str | None, typer.Option("--study", help="Study name; default: the space's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def main() -> None:
    """Entry point: one clear line for every expected error, and its exit code."""
    try:
        code = app(standalone_mode=False)  # without standalone mode a command's exit code is returned, not raised
        _show(lambda: None)
    except TunerError as exc:
        _say(str(exc))
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as exc:
        if not hasattr(exc, "format_message"):
            raise
        _say(exc.format_message())
        sys.exit(UsageError.exit_code)
    sys.exit(code if isinstance(code, int) else EXIT_OK)


def _version(show: bool) -> None:  # noqa: FBT001 - typer's callback form
    if show:
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
            _print_json({"valid": False, "problems": [vars(p) for p in exc.problems]})
            raise typer.Exit(exc.exit_code) from exc
        raise
    if as_json:
        _print_json({"valid": True, "space": space.name, "points": points.total, "valid_points": len(points.valid)})
    else:
        _show(lambda: print(f"{file}: valid; {len(points.valid):,} of {points.total:,} points can be tried"))


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
        _print_json(plan_json(points, expected, arithmetic=memory))
    else:
        _show(lambda: print_plan(points, expected, sys.stdout, arithmetic=memory, seeds=problem.seeds))


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
    speculation_steps: Annotated[int | None, typer.Option(min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Predict one configuration under one load, by formula and simulated; at its capacity if no load is given."""
    from tuner.compose import prediction
    from tuner.report.case import Hardware, Traffic

    traffic = Traffic(rate, concurrency, input_tokens, output_tokens, cached_fraction, ttft_p95)
    hardware = Hardware(architecture, accelerator, gpus, precision, tp, dp, attn_dp, ep, speculation_steps)
    doc = prediction(space, sets or [], hardware, traffic)
    if as_json:
        _print_json(doc)
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
    new_study: Annotated[str | None, typer.Option("--new-study", help="Start a new study of this name.")] = None,
    seed_from: Annotated[
        str | None, typer.Option("--seed-from", help="With --new-study: try the best of this study first.")
    ] = None,
    stop_when_converged: Annotated[
        bool, typer.Option("--stop-when-converged", help="End when little further gain is expected (prior-gp).")
    ] = False,
    only: Annotated[
        str | None, typer.Option("--only", help="Run exactly the configurations of these trials, each to its end: 4,17")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="Another limit than the file's: ttft_p95_s=3; a new study.")
    ] = None,
    log_format: Annotated[str, typer.Option("--log-format", help="Progress on stderr: text or json.")] = "text",
    as_json: AsJson = False,
) -> None:
    """Search, or resume: the same command goes on with its study until the total is reached."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped controller ends as cleanly as Ctrl-C
    from tuner.compose import Request, run_search
    from tuner.launch.spaces import open_space
    from tuner.report.assignments import assignments, trial_numbers

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
    )
    try:
        outcome, summary = run_search(request, sys.stderr, _counting("checking points"))
    except KeyboardInterrupt:  # before the first trial, or after the last
        _say("interrupted; run the same command to go on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        _print_json(summary.as_json() | {"exit_reason": outcome.exit_reason, "message": outcome.message})
    else:
        from tuner.report.table import print_summary

        _show(lambda: print_summary(summary, sys.stdout))
    _say(outcome.message)
    raise typer.Exit(outcome.exit_code)


@app.command()
def status(
    space: Annotated[str | None, typer.Option("--space", help="Space file the study was made from.")] = None,
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
        _print_json(summary.as_json())
    else:
        _show(lambda: print_summary(summary, sys.stdout))


Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: stdout.")]
Rank = Annotated[int, typer.Option("--rank", min=1, help="1 is the best; 2 the next.")]
AllowSimulated = Annotated[bool, typer.Option("--allow-simulated", help="Export a simulated result, stamped.")]
Force = Annotated[bool, typer.Option("--force", help="Export an unconfirmed result, stamped.")]


def _export(kind: str, space: str, study: str | None, storage: str | None, output: Path | None, **how: Any) -> None:
    from tuner.compose import export_text

    text = export_text(kind, space, study, storage, **how)
    write_text(text, output)


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


@app.command()
def probe(
    url: Annotated[str | None, typer.Option("--url", help="http://HOST:PORT of a running engine.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Default: the first one the engine names.")] = None,
    input_tokens: Annotated[int | None, typer.Option("--input-tokens", min=1, help="Tokens of every prompt.")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output-tokens", min=1, help="Tokens of every answer.")] = None,
    cached_fraction: Annotated[
        float, typer.Option("--cached-fraction", help="Shared head of the prompts, 0 to 1.")
    ] = 0.0,
    rate: Annotated[float | None, typer.Option("--rate", help="Open loop: requests per second.")] = None,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Closed loop: in flight.")] = None,
    find_capacity: Annotated[bool, typer.Option("--find-capacity", help="The highest rate within --ttft-p95.")] = False,
    ttft_p95: Annotated[float | None, typer.Option("--ttft-p95", help="Limit of the capacity search, seconds.")] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", help="Seconds; default 60, for a capacity search at most 1800.")
    ] = None,
    arrivals: Annotated[str, typer.Option("--arrivals", help="poisson or constant.")] = "poisson",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of prompts and arrivals.")] = 0,
    records: Annotated[Path | None, typer.Option("--records", help="Write one JSON line per request here.")] = None,
    selftest: Annotated[bool, typer.Option("--selftest", help="How many chunks/s this client can take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a running endpoint at a rate, at a concurrency, or find its capacity; or this machine's own client."""
    from tuner.report.probe import print_probe, probe_request, run_probe, run_selftest

    if selftest:
        document, code = run_selftest(sys.stdout if not as_json else sys.stderr)
        if as_json:
            _print_json(document)
        raise typer.Exit(code)
    request = probe_request(
        url, input_tokens, output_tokens, rate, concurrency, ttft_p95, find_capacity=find_capacity, model=model,
        cached_fraction=cached_fraction, duration_s=duration, arrivals=arrivals, seed=seed, records=records,
    )  # fmt: skip
    answer = run_probe(request, _say)
    if as_json:
        _print_json(answer.document)
    else:
        _show(lambda: print_probe(answer.document, sys.stdout))
    raise typer.Exit(answer.exit_code)


def _counting(what: str) -> Any:
    from tuner.report.counting import Counting

    return Counting(sys.stderr, what)
