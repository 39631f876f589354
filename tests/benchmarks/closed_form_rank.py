"""Does the closed form order configurations as the simulator does? Rank correlation of cost over a space's points.

    python tests/benchmarks/closed_form_rank.py [--space amd-mi355x.yaml] [--points 300] [--seed 0]

Points are drawn evenly from every combination of layout and bundles (stratified), priced by capacity under the space's
limits; the simulator finds the capacity with the probe's own load search. A point without any capacity costs infinitely
much: such points tie. Bar: Spearman 0.9.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time

import numpy as np
from scipy.stats import rankdata, spearmanr

from tuner.launch.spaces import open_space
from tuner.model.catalogue import accelerator
from tuner.runtime.steady import Laboratory
from tuner.space.config import Choice
from tuner.study.points import Point, Points, architecture_of, evaluate


def main() -> None:
    """Print the correlation and how far both are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="amd-mi355x.yaml")
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    points = evaluate(open_space(asked.space))
    chosen = stratified(points, asked.points, asked.seed)
    started = time.monotonic()
    pairs = [(p, p.prediction.capacity_req_per_s, _simulated(points, p)) for p in chosen]
    closed = np.array([_cost(p, rate) for p, rate, _ in pairs])
    simulated = np.array([_cost(p, rate) for p, _, rate in pairs])
    rank = float(spearmanr(rankdata(closed), rankdata(simulated)).statistic)
    finite = np.isfinite(closed) & np.isfinite(simulated)
    both = float(spearmanr(closed[finite], simulated[finite]).statistic)
    ratios = [a / b for _, a, b in pairs if a and b]
    print(f"{points.space.name}: {len(chosen)} of {len(points.valid)} points, {time.monotonic() - started:.0f} s")
    print(
        f"rank correlation of cost, closed form against simulator: {rank:.3f} ({both:.3f} where both have a capacity)"
    )
    print(
        f"capacity, closed form over simulated: median {statistics.median(ratios):.2f},"
        f" 5 % to 95 %: {np.quantile(ratios, 0.05):.2f} to {np.quantile(ratios, 0.95):.2f};"
        f" without capacity: {sum(a == 0 for _, a, _ in pairs)} closed form, {sum(b == 0 for *_, b in pairs)} simulated"
    )
    for p, a, b in sorted(pairs, key=lambda x: -abs(math.log(max(x[1], 0.01) / max(x[2], 0.01))))[:5]:
        print(f"  furthest apart: {a:.2f} against {b:.2f} req/s, {p.config.describe()}")
    sys.exit(0 if rank >= 0.9 else 1)


def stratified(points: Points, count: int, seed: int) -> list[Point]:
    """As many points from every combination of pool, layout and bundles as there are, in turn."""
    strata: dict[tuple[object, ...], list[Point]] = {}
    for p in points.valid:
        names = tuple(v.label for _, v in p.config.values if isinstance(v, Choice))
        strata.setdefault((p.config.pool, p.config.layout, *names), []).append(p)
    rng = random.Random(seed)
    piles = [rng.sample(pile, len(pile)) for pile in strata.values()]
    rng.shuffle(piles)
    chosen: list[Point] = []
    while len(chosen) < count and any(piles):
        chosen += [pile.pop() for pile in piles if pile][: count - len(chosen)]
    return chosen


def _simulated(points: Points, point: Point) -> float:
    if not point.prediction.fits:
        return 0.0
    space = points.space
    acc = accelerator(point.deployment.accelerator)
    return Laboratory(architecture_of(space), acc, point.settings, space.workload).capacity(space.limits)


def _cost(point: Point, rate: float) -> float:
    return point.deployment.usd_per_hour / rate if rate else math.inf


if __name__ == "__main__":
    main()
