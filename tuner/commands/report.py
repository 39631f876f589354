"""`tuner report` and `tuner compare`: read databases, print what they say. Nothing is run, no database is changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuner.commands.options import MaybeSpace, Storage, StudyName
from tuner.commands.output import print_json, say, show, write_file
from tuner.errors import EXIT_UNCONFIRMED, UsageError
from tuner.space.nearest import did_you_mean

if TYPE_CHECKING:
    from tuner.report.comparing.sides import Named

FORMATS = ("html", "markdown", "json")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(report)
    app.command()(compare)


def report(
    space: MaybeSpace = None,
    study: StudyName = None,
    storage: Storage = None,
    form: Annotated[str, typer.Option("--format", help="html, markdown or json.")] = "html",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File; default: STUDY.html for html, else stdout. - is stdout."),
    ] = None,
) -> None:
    """Write what a study found: one self-contained HTML page, or Markdown or JSON, from the database alone."""
    from tuner.compose import study_and_storage
    from tuner.report.facts.study_report import gather
    from tuner.study.summary import read_summary

    if form not in FORMATS:
        raise UsageError(f"--format {form}: no such format{did_you_mean(form, FORMATS)}")
    name, url = study_and_storage(space, study, storage)
    gathered = gather(read_summary(url, name))
    if form == "html" and output is None:
        output = Path(f"{gathered.summary.study}.html")
    write_file(output, _rendered(gathered, form))


def _rendered(gathered: Any, form: str) -> str:
    if form == "json":
        import json

        return json.dumps(gathered.as_json(), indent=2, sort_keys=True, allow_nan=False) + "\n"
    if form == "markdown":
        from tuner.report.markdown import to_markdown

        return to_markdown(gathered)
    from tuner.report.page.document import page

    return page(gathered)


def compare(
    studies: Annotated[
        list[str], typer.Argument(help="NAME, FILE.db, FILE.db#NAME or URL#NAME; a bare NAME lives in ./NAME.db.")
    ],
    storage: Annotated[
        str | None, typer.Option("--storage", envvar="TUNER_STORAGE", help="Where bare NAMEs live.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option("--price", help="POOL=USD or STUDY/POOL=USD per GPU-hour: re-score without new trials."),
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="ttft_p95_s=SECONDS or tpot_p95_ms=MS: re-score from levels.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="What stands side by side: study, pool, engine, layout, weights or another part."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Compare studies, pools, engine versions or bundles: cost at each limit, ratios, other prices, other limits."""
    from tuner.report.assignments import assignments
    from tuner.report.comparing.comparison import compare as compared
    from tuner.report.comparing.document import as_json as document
    from tuner.report.comparing.document import print_comparison
    from tuner.report.comparing.running import offered
    from tuner.report.comparing.sides import limits_of, offers_of

    named = _read(studies, storage)
    limits = limits_of(named, assignments("--limit", limit or []))
    comparison = compared(offers_of(named, by, assignments("--price", price or [])), limits)
    commands = offered(comparison.decision, named, limits)
    if as_json:
        print_json(document(comparison, named, commands))
    else:
        show(lambda: print_comparison(comparison, named, commands, sys.stdout))
    if comparison.decision.undecided:
        say("undecided; see the commands above" if not as_json else "undecided; see `commands`")
        raise typer.Exit(EXIT_UNCONFIRMED)


def _read(references: list[str], storage: str | None) -> list[Named]:
    from tuner.report.comparing.reference import study_address
    from tuner.report.comparing.sides import Named
    from tuner.study.summary import read_summary

    found = []
    for reference in dict.fromkeys(references):
        name, url = study_address(reference, storage)
        found.append(Named(reference, read_summary(url, name)))
    return found
