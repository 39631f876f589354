"""A study's summary as a table on the terminal: the winner first, then what it is compared with, then what failed."""

from __future__ import annotations

from typing import TextIO

from rich.table import Table

from tuner.report.console import new_table, print_table
from tuner.report.words import STOPPED, duration, label, limit_name, limits_text, money, rate, seconds
from tuner.space.config import Choice, ServingConfig
from tuner.study.summary import Figures, StudySummary

TOP = 5


def print_summary(summary: StudySummary, out: TextIO) -> None:
    """What a study found, for people. Simulated figures are marked as such in the title."""
    if summary.common_failure:
        print(summary.common_failure, file=out)
    rows = _rows(summary)
    if rows:
        print_table(_table(summary, rows), out)
    for line in _sentences(summary):
        print(line, file=out)


def _rows(summary: StudySummary) -> list[tuple[str, Figures]]:
    """(what it is, figures): the best ones by the rank `tuner export` gives them, then the seeds not among them."""
    names = {f.fingerprint: name for name, f in summary.seeds.items()}
    ranked = [f for f in (summary.best, *summary.ranked) if f is not None]
    best = list({f.fingerprint: f for f in ranked}.values())[:TOP]
    rows = [
        ("best" if rank == 1 else f"{rank}. {names.get(f.fingerprint, '')}".rstrip(), f)
        for rank, f in enumerate(best, start=1)
    ]
    shown = {f.fingerprint for f in best}
    return rows + [(name, f) for name, f in summary.seeds.items() if f.fingerprint not in shown]


def _table(summary: StudySummary, rows: list[tuple[str, Figures]]) -> Table:
    mark = " - SIMULATED, nothing was measured" if summary.simulated else ""
    numbers = ("trial", "USD/M\ntokens", "req/s", "TTFT\np95 s")
    configuration = "layout and bundles;\nothers: where they differ" if summary.best else "configuration"
    columns = ("", *numbers, "con-\nfirmed", configuration)
    table = new_table(f"{summary.study}{mark}", *columns, right=numbers, whole=("", "con-\nfirmed"))
    for name, f in rows:
        best = _config(summary.best) if summary.best else None
        table.add_row(name, str(f.trial), *_cells(f), short(_config(f), best))
    return table


def _config(f: Figures) -> ServingConfig | None:
    return ServingConfig.from_json(f.config) if f.config else None


def short(config: ServingConfig | None, best: ServingConfig | None) -> str:
    """Where a configuration differs from the best, whose numbers stand below the table; in full without one."""
    if config is None:
        return ""
    if config.only:
        return " ".join([config.layout.label, *(label(v) for _, v in config.values), "engine defaults"])
    if config == best:
        bundles = [label(v) for _, v in config.values if isinstance(v, Choice)]
        return " ".join([config.pool, config.layout.label, *bundles])
    if best is None or best.only:
        return config.describe()
    place = [config.pool] if config.pool != best.pool else []
    place += [config.layout.label] if config.layout != best.layout else []
    theirs = dict(best.values)
    return " ".join(place + [f"{k}={label(v)}" for k, v in config.values if theirs.get(k) != v])


def beside(f: Figures, best: Figures | None) -> str:
    """The same of figures."""
    return short(_config(f), _config(best) if best else None)


def _cells(f: Figures) -> tuple[str, str, str, str]:
    ttft = "" if f.ttft_p95_s is None else f"{f.ttft_p95_s:.2f}"
    if f.usd_per_million_output_tokens is None:
        return f.state, "", ttft, ""
    confirmed = {"holds": "yes", "missed": "refuted", None: "-"}.get(f.standing, str(f.standing))
    return f"{f.usd_per_million_output_tokens:.3f}", f"{f.capacity_req_per_s or 0:.3f}", ttft, confirmed


def _sentences(summary: StudySummary) -> list[str]:
    counts = ", ".join(f"{n} {state}" for state, n in summary.trials.items() if n)
    used = summary.used
    lines = [
        f"trials: {counts or 'none'}; {used.gpu_hours:.1f} GPU-hours, {money(used.usd)}, {duration(used.wall_s)}",
        f"search: {ended(summary)}",
    ]
    lines += [str(found) for found in summary.deviations]
    alike = [f"{f.trial} as {f.same_as}" for f in summary.trials_in_order if f.same_as is not None]
    if alike:
        lines.append(f"asked differently, but the engine ran the same settings: trial {', '.join(alike)}")
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
    elif best.standing == "missed":
        lines.append(
            f"refuted: a confirmation run at {rate(best.confirmed_rate_req_per_s)} missed a limit (TTFT p95 "
            f"{seconds(best.confirmed_ttft_p95_s)} in the worst); do not deploy it"
        )
    else:
        lines.append("no configuration is confirmed yet")
    return lines


_ENDED = {
    "confirmed": "ended with a confirmed winner",
    "nothing_feasible": "ended, nothing tried meets the limits",
    "no_confirmed_winner": "ended without a confirmed winner",
    "budget": "ended by its budget, without a confirmed winner",
    "runtime_unusable": "stopped, the runtime was unusable; the same command goes on",
    "interrupted": "interrupted; the same command goes on",
}


def ended(summary: StudySummary) -> str:
    """How the last session ended, and what ended the trying."""
    how = _ENDED.get(summary.exit_reason or "", "running, or killed from outside; then the same command goes on")
    why = {str(key): text for key, text in STOPPED.items()}.get(summary.stopped_by or "")
    return f"{how} ({why})" if why and summary.exit_reason else how


def nearest_miss(summary: StudySummary) -> str:
    """What came closest when nothing met the limits."""
    miss = summary.nearest_miss
    if miss is None:
        failed = ", ".join(f"{n} x {kind}" for kind, n in summary.failures.items())
        return f"no trial was measured{': ' + failed if failed else ''}"
    bounds = summary.plan.get("limits") or {}
    limits = limits_text(bounds)
    over = {name: slack for name, slack in miss.constraints.items() if slack > 0 and name in bounds}
    by = "".join(
        f"; {limit_name(name)} is over by {slack:.0%}: it would hold with "
        + limits_text({name: float(f"{bounds[name] * (1 + slack):.3g}")})
        for name, slack in over.items()
    )
    if "ttft_p95_s" in over and miss.ttft_p95_s is None:
        by = "; by how much was not told"
    return (
        f"no configuration meets the limits ({limits}); nearest miss: trial {miss.trial}, TTFT p95 "
        f"{seconds(miss.ttft_p95_s)} ({miss.label}){by}"
    )
