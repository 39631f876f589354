"""A study's summary as a table on the terminal: the winner first, then what it is compared with, then what failed."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.table import Table

from tuner.report.words import duration, money, rate, seconds
from tuner.space.config import Choice, ServingConfig
from tuner.study.summary import Figures, StudySummary

TOP = 5


def print_summary(summary: StudySummary, out: TextIO) -> None:
    """What a study found, for people. Simulated figures are marked as such in the title."""
    if summary.common_failure:
        print(summary.common_failure, file=out)
    rows = _rows(summary)
    if rows:
        Console(file=out, highlight=False, soft_wrap=not out.isatty()).print(_table(summary, rows))
    for line in _sentences(summary):
        print(line, file=out)


def _rows(summary: StudySummary) -> list[tuple[str, Figures]]:
    """(what it is, figures): the best ones by rank, then the seeds that are not among them."""
    names = {f.fingerprint: name for name, f in summary.seeds.items()}
    rows = [
        ("best" if f is summary.best else f"{i + 1}. {names.get(f.fingerprint, '')}".rstrip(), f)
        for i, f in enumerate(summary.ranked[:TOP])
    ]
    if summary.best is not None and summary.best not in summary.ranked[:TOP]:
        rows.insert(0, ("best", summary.best))
    shown = {f.fingerprint for _, f in rows}
    return rows + [(name, f) for name, f in summary.seeds.items() if f.fingerprint not in shown]


def _table(summary: StudySummary, rows: list[tuple[str, Figures]]) -> Table:
    mark = " - SIMULATED, nothing was measured" if summary.simulated else ""
    table = Table(title=f"{summary.study}{mark}", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("trial", justify="right")
    table.add_column("$/M output\ntokens", justify="right")
    table.add_column("req/s", justify="right")
    table.add_column("TTFT\np95 s", justify="right")
    table.add_column("confirmed")
    table.add_column("layout and bundles")
    for name, f in rows:
        table.add_row(name, str(f.trial), *_cells(f), _short(f))
    return table


def _short(f: Figures) -> str:
    """What tells configurations apart at a glance; the numbers of the best one stand below the table."""
    if not f.config:
        return ""
    config = ServingConfig.from_json(f.config)
    rest = ["engine defaults"] if config.only else [v.label for _, v in config.values if isinstance(v, Choice)]
    return " ".join([config.pool, config.layout.label, *rest])


def _cells(f: Figures) -> tuple[str, str, str, str]:
    ttft = "" if f.ttft_p95_s is None else f"{f.ttft_p95_s:.2f}"
    if f.usd_per_million_output_tokens is None:
        return f.state, "", ttft, ""
    confirmed = {"holds": "yes", "missed": "refuted", None: "-"}.get(f.standing, str(f.standing))
    return f"{f.usd_per_million_output_tokens:.3f}", f"{f.capacity_req_per_s or 0:.3f}", ttft, confirmed


def _sentences(summary: StudySummary) -> list[str]:
    counts = ", ".join(f"{n} {state}" for state, n in summary.trials.items() if n)
    used = summary.used
    lines = [f"trials: {counts or 'none'}; {used.gpu_hours:.1f} GPU-hours, {money(used.usd)}, {duration(used.wall_s)}"]
    best = summary.best
    if best is None:
        return [*lines, nearest_miss(summary)]
    lines.append(f"best: {best.label}")
    yardstick = summary.seeds.get("baseline")
    if yardstick and yardstick is not best and yardstick.usd_per_million_output_tokens:
        share = (best.usd_per_million_output_tokens or 0) / yardstick.usd_per_million_output_tokens
        lines.append(f"the best costs {share:.0%} of the baseline per output token")
    if best.confirmed:
        lines.append(
            f"confirmed at {rate(best.confirmed_rate_req_per_s)}: TTFT p95 {seconds(best.confirmed_ttft_p95_s)} in the "
            "worst of the confirmation runs"
        )
    else:
        lines.append("no configuration is confirmed yet")
    return lines


def nearest_miss(summary: StudySummary) -> str:
    """What came closest when nothing met the limits."""
    miss = summary.nearest_miss
    if miss is None:
        failed = ", ".join(f"{n} x {kind}" for kind, n in summary.failures.items())
        return f"no trial was measured{': ' + failed if failed else ''}"
    limits = ", ".join(f"{name} <= {value:g}" for name, value in (summary.plan.get("limits") or {}).items())
    worst = max(miss.constraints, key=lambda k: miss.constraints[k], default="")
    by = f"; {worst} is over by {miss.constraints[worst]:.0%}" if worst else ""
    return (
        f"no configuration meets the limits ({limits}); nearest miss: trial {miss.trial}, TTFT p95 "
        f"{seconds(miss.ttft_p95_s)} ({miss.label}){by}"
    )
