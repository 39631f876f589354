"""How good is the search after 30 trials, against random sampling? Prints the regret over many worlds.

    python tests/benchmarks/regret.py [--space amd-mi355x.yaml] [--trials 30] [--worlds 20]

`random` draws from the valid points and knows neither seeds nor the engine model; `prior-gp` is what `tuner search`
does, `tpe` what it does with `--sampler tpe`.
Every world distorts the simulated hardware by hidden factors (`tuner search --world N`). Regret is the measured cost of
the best configuration found, relative to the best configuration known of that world: the cheapest of everything the
methods measured and of the 30 points that look best when the closed-form model is given the world's own factors.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from tuner.launch.spaces import open_space
from tuner.model.capacity import predict
from tuner.model.catalogue import accelerator
from tuner.model.steps import RooflineSteps
from tuner.runtime.simulated import SimulatedRuntime, simulate
from tuner.simulator.world import DistortedSteps, World
from tuner.space.space import Space
from tuner.study.assemble import Where, problem_of
from tuner.study.points import Points, architecture_of, evaluate
from tuner.study.problem import ConfirmPlan, Problem
from tuner.study.score import bound_cost, score
from tuner.study.search import search
from tuner.study.summary import read_summary
from tuner.trial.spec import Deadlines

INFORMED = 30
Costs = dict[str, float]


def main() -> None:
    """Run the benchmark and print one line per world and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="amd-mi355x.yaml")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=["prior-gp", "tpe", "random"])
    parser.add_argument("--jobs", type=int, default=1, help="worlds at a time, each on a core")
    asked = parser.parse_args()
    points = evaluate(open_space(asked.space))
    print(f"{points.space.name}: {len(points.valid)} valid points, {asked.trials} trials, {asked.worlds} worlds")
    regrets: dict[str, list[float]] = {method: [] for method in asked.methods}
    with ProcessPoolExecutor(asked.jobs) as pool:
        work = partial(_one_world, asked.space, asked.trials, tuple(asked.methods))
        for world, best, found, took_s in pool.map(work, range(1, asked.worlds + 1)):
            for method, cost in found.items():
                regrets[method].append(cost / best - 1)
            told = ", ".join(f"{m} {r[-1]:.1%}" for m, r in regrets.items())
            print(f"world {world:2}: best known {best:.3f} USD/M, regret {told} ({took_s:.0f} s)", flush=True)
    medians = {method: statistics.median(values) for method, values in regrets.items()}
    print("median regret: " + ", ".join(f"{method} {value:.1%}" for method, value in medians.items()))
    if {"prior-gp", "random"} <= set(medians):
        print(f"ratio prior-gp / random: {medians['prior-gp'] / medians['random']:.2f}")
        sys.exit(0 if medians["prior-gp"] <= medians["random"] / 2 else 1)


def _one_world(space_name: str, trials: int, methods: tuple[str, ...], world: int) -> tuple[int, float, Costs, float]:
    """(world, cost of the best known, cost each method found, seconds)."""
    started_s = time.monotonic()
    space = open_space(space_name)
    points = evaluate(space)
    problem = _problem(points, world, trials)
    blind = replace(problem, seeds=())
    found = {m: _search(blind if m == "random" else problem, space, world, m) for m in methods}
    return world, min(*found.values(), _informed(points, problem, world)), found, time.monotonic() - started_s


def _problem(points: Points, world: int, trials: int) -> Problem:
    where = Where(simulated=True, world=world)
    problem = problem_of(points, name="regret", where=where, trials=trials, deadlines=Deadlines())
    return replace(
        problem, confirm=ConfirmPlan(top=0), budget=replace(problem.budget, wall_s=None, gpu_hours=None, usd=None)
    )


def _search(problem: Problem, space: Space, world: int, method: str) -> float:
    nodes = dict.fromkeys(space.spec.pools, 1)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'study.db'}"
        search(problem, url, SimulatedRuntime(nodes, world=world), sampler=method, seed=world)  # type: ignore[arg-type]
        best = read_summary(url).best
    return best.usd_per_million_output_tokens if best and best.usd_per_million_output_tokens else float("inf")


def _informed(points: Points, problem: Problem, world: int) -> float:
    """The cheapest measured cost among the points that look best to someone who knows the world's factors."""
    space, arch = points.space, architecture_of(points.space)
    costs = []
    for point in points.valid:
        acc = accelerator(point.deployment.accelerator)
        steps = DistortedSteps(RooflineSteps(arch, acc, point.settings), World(world), point.settings)
        rate = predict(arch, acc, point.settings, space.workload, space.limits, steps=steps).capacity_req_per_s
        costs.append(
            (
                bound_cost(rate, point.deployment.usd_per_hour, problem.guard, problem.token_weights, space.workload),
                point,
            )
        )
    costs.sort(key=lambda pair: pair[0])
    measured = [float("inf")]
    for _, point in costs[:INFORMED]:
        spec = problem.make_spec(point.config, "informed", 1, world, None, None)
        result, _ = simulate(spec, world)
        if result.state == "measured":
            scored = score(
                result, spec.usd_per_hour, problem.guard, problem.token_weights, space.workload, space.limits
            )
            measured.append(scored.usd_per_million_output_tokens)
    return min(measured)


if __name__ == "__main__":
    main()
