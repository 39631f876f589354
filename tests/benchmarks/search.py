"""Regret of every sampler after 5 to 40 trials over synthetic worlds, through the real study machinery.

    python tests/benchmarks/search.py --split final --worlds 50 --jobs 2   # the table in search-results.md
    python tests/benchmarks/search.py --split design --worlds 12 --methods prior-gp --qualities weak
    python tests/benchmarks/search.py --speed                          # CPU time of one ask

Worlds are those of tests/support/worlds.py. Seeds of the split `design` were looked at while the sampler was built;
those of `final` were not. Regret is the true cost of the configuration with the lowest measured cost so far, relative
to the best of the world. `model` tries the engine model's list from the cheapest down, without a search; `tpe-blind`
and `nsga2` see a flat model; `random` sees none. `holds` is the share of worlds whose exported (confirmed) point
truly meets its limits at the exported rate, `naive` the share for the cheapest measured one at its measured
capacity.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import math
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fake_runtime import FakeCluster
from support.worlds import World, duration_s, shown

from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.study.summary import StudySummary, summarize

FIRST_SEED = {"design": 0, "final": 30_000}
AFTER = (5, 10, 15, 20, 40)
TORCH = importlib.util.find_spec("torch") is not None
METHODS = ("prior-gp", "model", "tpe", *(("gp",) if TORCH else ()), "tpe-blind", "nsga2", "random")
QUALITIES = ("good", "weak", "misleading")
NO_MODEL = ("tpe-blind", "nsga2", "random")
"""Methods that see no model: one row serves all qualities."""


@dataclass(frozen=True, slots=True)
class Run:
    """One search of one world. `regret[n]` is after n counted trials; `useless` counts failures and missed limits."""

    regret: dict[int, float]
    reached_5: int | None
    useless_20: int
    holds: bool | None
    naive: bool | None
    cpu_s: float


def main() -> None:
    """Print one row per method and quality of the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=FIRST_SEED, default="design")
    parser.add_argument("--worlds", type=int, default=12)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--qualities", nargs="+", default=QUALITIES)
    parser.add_argument("--confirm", type=int, default=3, help="candidates to confirm; 0 is none")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at a time, each on a core")
    parser.add_argument("--speed", action="store_true")
    asked = parser.parse_args()
    if asked.speed:
        print_speed()
        return
    print(
        f"{asked.split} seeds {FIRST_SEED[asked.split]}..{FIRST_SEED[asked.split] + asked.worlds - 1}, "
        f"{asked.parallel} trial(s) at once; regret in %, median / p90"
    )
    print(
        "| method | model | "
        + " | ".join(f"@{n}" for n in AFTER)
        + " | trials to 5 %, median | within 5 % at 20 | useless of 20 | holds | naive | CPU s |"
    )
    print("|" + "---|" * (len(AFTER) + 8))
    for method, quality in itertools.product(asked.methods, asked.qualities):
        if method in NO_MODEL and quality != asked.qualities[0]:
            continue
        seeds = range(FIRST_SEED[asked.split], FIRST_SEED[asked.split] + asked.worlds)
        one = partial(
            run, quality=quality, method=method, trials=asked.trials, parallel=asked.parallel, confirm=asked.confirm
        )
        with ProcessPoolExecutor(asked.jobs) as pool:
            runs = list(pool.map(one, seeds))
        print(row(method, "-" if method in NO_MODEL else quality, runs), flush=True)


def row(method: str, quality: str, runs: list[Run]) -> str:
    """One line of the table."""
    cells = [method, quality]
    for n in AFTER:
        values = [100 * r.regret.get(n, math.nan) for r in runs]
        cells.append(f"{statistics.median(values):.1f} / {percentile(values, 0.9):.1f}")
    reached = sorted(math.inf if r.reached_5 is None else r.reached_5 for r in runs)
    cells.append(f"{statistics.median(reached):.0f}" if statistics.median(reached) < math.inf else "> 40")
    cells.append(f"{statistics.mean(r.regret.get(20, math.inf) <= 0.05 for r in runs):.0%}")
    cells.append(f"{statistics.mean(r.useless_20 for r in runs):.1f}")
    for flags in ([r.holds for r in runs], [r.naive for r in runs]):
        known = [flag for flag in flags if flag is not None]
        cells.append(f"{sum(known)}/{len(known)}" if known else "-")
    cells.append(f"{statistics.mean(r.cpu_s for r in runs):.1f}")
    return "| " + " | ".join(cells) + " |"


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def down_the_list(world: World, trials: int) -> Run:
    """No search at all: the engine model's cheapest, one after the other. What the model alone is worth."""
    problem = world.problem(trials, 0)
    cheapest, picked, regret = math.inf, [], {}
    useless = 0
    ordered = sorted(problem.candidates, key=lambda c: c.predicted_usd_per_million)
    for n, candidate in enumerate(ordered[:trials], start=1):
        result = world.run(problem.make_spec(candidate.config, f"world-{n}", 1, world.seed + n, None, None))
        useless += n <= 20 and result.state in ("infeasible", "failed")
        cost = candidate.config.layout.gpus / result.capacity_req_per_s if result.capacity_req_per_s else math.inf
        if cost < cheapest:
            cheapest = cost
            picked.append(candidate.config.fingerprint)
        regret[n] = world.regret(picked)
    reached = next((n for n, value in regret.items() if value <= 0.05), None)
    return Run(regret, reached, useless, None, None, 0.0)


def run(seed: int, quality: str, method: str, trials: int, parallel: int = 1, confirm: int = 3) -> Run:
    """One search, and what the truth says of it."""
    if method == "model":
        return down_the_list(World(seed, quality), trials)
    world = World(seed, "flat" if method in NO_MODEL else quality)
    name = {"tpe-blind": "tpe"}.get(method, method)
    cluster = FakeCluster(world.run, duration_s=duration_s, slots={"lab": parallel}, shown=shown)
    started_s = time.process_time()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        url = f"sqlite:///{folder}/study.db"
        search(world.problem(trials, confirm), url, cluster.controller(), sampler=name, seed=seed, poll_s=1e5)  # type: ignore[arg-type]
        storage = open_storage(url)
        summary = summarize(storage, world.problem_name)
        storage.close()
    return judge(world, summary, time.process_time() - started_s)


def judge(world: World, summary: StudySummary, cpu_s: float) -> Run:
    """Regret after every counted trial, and whether what is exported holds."""
    told = [f for f in summary.trials_in_order if f.state in ("measured", "pruned", "infeasible", "failed")]
    regret, cheapest, picked, reached = {}, math.inf, [], None
    for n, figures in enumerate(told, start=1):
        cost = figures.usd_per_million_output_tokens
        if cost is not None and cost < cheapest:
            cheapest = cost
            picked.append(figures.fingerprint)
        regret[n] = world.regret(picked)
        if reached is None and regret[n] <= 0.05:
            reached = n
    best, measured = summary.best, summary.ranked
    return Run(
        regret,
        reached,
        sum(f.state in ("infeasible", "failed") for f in told[:20]),
        world.holds(best.fingerprint, best.confirmed_rate_req_per_s or 0.0) if best and best.confirmed else None,
        world.holds(measured[0].fingerprint, measured[0].capacity_req_per_s or 0.0) if measured else None,
        cpu_s,
    )


def print_speed() -> None:
    """CPU time of one ask with 50 trials behind it, on two sizes of space, and of one with 1,000 behind it."""
    for label, candidates, trials in (("10,000", 10_000, 50), ("100,000", 100_000, 50), ("10,000", 10_000, 1000)):
        print(f"{label} candidates, {trials} trials: {time_of_ask(candidates, trials):.0f} ms CPU")


def time_of_ask(candidates: int, trials: int) -> float:
    """Milliseconds, the median of three, each with a trial more behind it; the table of candidates is made before."""
    import numpy as np
    from support.big_space import a_big_problem, a_history

    from tuner.study.prior_gp.proposal import propose

    problem = a_big_problem(candidates)
    history = a_history(problem, trials, np.random.default_rng(1))
    propose(problem, history[:1], number=1, seed=1)
    spent = []
    for known in range(trials - 2, trials + 1):
        before = time.process_time()
        propose(problem, history[:known], number=known, seed=1)
        spent.append(1e3 * (time.process_time() - before))
    return statistics.median(spent)


if __name__ == "__main__":
    main()
