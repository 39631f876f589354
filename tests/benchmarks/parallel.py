"""What do several trials at once cost? The regret after n trials, one at a time and several, paired by world.

    python tests/benchmarks/parallel.py --quality weak --first 1000 --worlds 200 [--parallel 4] [--trials 20]

The choices are those of `tuner search`, by the same functions; the study is kept in memory, which is ten times cheaper
than a database and has the same regrets as search.py: hundreds of worlds tell a loss of a few points from chance.
A trial chosen while three others run knows three results less, but for what those have shown by then. So beside it
stands what one at a time has after three trials less: a loss beyond that would be the choice's own fault.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from support.worlds import World, duration_s, shown

from tuner.study import retry
from tuner.study.history import PastTrial, counted
from tuner.study.incumbent import cost_to_beat
from tuner.study.problem import Problem
from tuner.study.record import Pick
from tuner.study.sampler import choose, trial_seed
from tuner.study.score import bound_cost, rate_to_beat
from tuner.study.starter import trial_name
from tuner.study.verdict import judge
from tuner.trial.result import TrialResult
from tuner.trial.spec import TrialSpec

RESAMPLES = 4000


def main() -> None:
    """Medians, their difference with its interval, and the share of worlds in which each is ahead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", default="weak")
    parser.add_argument(
        "--first", type=int, nargs="+", default=[1000], help="the first seed; those from 30000 on are the final ones"
    )
    parser.add_argument("--worlds", type=int, nargs="+", default=[200], help="as many numbers as first seeds")
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--trials", type=int, default=20)
    asked = parser.parse_args()
    if asked.trials < asked.parallel:
        parser.error("--trials must be at least --parallel")
    spans = [range(first, first + count) for first, count in zip(asked.first, asked.worlds, strict=True)]
    worlds = [World(seed, asked.quality) for span in spans for seed in span]
    alone, several = (
        np.array([regrets(world, asked.trials, slots) for world in worlds]) for slots in (1, asked.parallel)
    )
    behind = asked.parallel - 1
    seeds = ", ".join(f"{span[0]}..{span[-1]}" for span in spans)
    print(f"{asked.quality}, seeds {seeds}: median regret in %, and what is lost")
    for n in sorted({min(n, asked.trials) for n in (10, 15, 20, 40)}):
        one, more, less = alone[:, n - 1], several[:, n - 1], alone[:, n - 1 - behind]
        low, high = interval(one, more)
        print(
            f"@{n}: one at a time {np.median(one):.1f}, {asked.parallel} at once {np.median(more):.1f}: "
            f"{np.median(more) - np.median(one):.1f} points lost, 95 % interval {low:.1f} to {high:.1f}; "
            f"one at a time @{n - behind} {np.median(less):.1f}"
        )


def interval(one: np.ndarray, more: np.ndarray) -> tuple[float, float]:
    """Of the difference of medians, the worlds drawn again with replacement."""
    drawn = np.random.default_rng(0).integers(0, len(one), (RESAMPLES, len(one)))
    lost = np.median(more[drawn], axis=1) - np.median(one[drawn], axis=1)
    low, high = np.quantile(lost, (0.025, 0.975))
    return float(low), float(high)


def regrets(world: World, trials: int, slots: int) -> list[float]:
    """Regret in percent after every trial, in the order they were begun; 1000 before anything was measured."""
    told = [trial for trial in history_of(world, trials, slots) if trial.counted]
    cheapest, picked, found = math.inf, [], []
    for trial in told:
        if trial.usd_per_million is not None and trial.usd_per_million < cheapest:
            cheapest = trial.usd_per_million
            picked.append(trial.fingerprint)
        found.append(min(1000.0, 100 * world.regret(picked)))
    return found[:trials]


@dataclass(frozen=True, slots=True)
class Running:
    """A trial under way, whose end is fixed already."""

    spec: TrialSpec
    result: TrialResult
    began_s: float

    @property
    def ends_s(self) -> float:
        return self.began_s + duration_s(self.spec)

    def bound(self, problem: Problem, now_s: float) -> float | None:
        """The least it can cost by what it has shown."""
        rate, spec = shown(self.spec, self.result, now_s - self.began_s), self.spec
        return bound_cost(rate, spec.usd_per_hour, spec.guard, problem.token_weights, spec.workload) if rate else None


def history_of(world: World, trials: int, slots: int) -> list[PastTrial]:
    """One search: as `tuner.study.search` runs it, without database, seeds and confirmation."""
    problem = world.problem(trials, 0)
    candidates = {candidate.config.fingerprint: candidate for candidate in problem.candidates}
    history: list[PastTrial] = []
    running: dict[int, Running] = {}
    now_s = 0.0
    while True:
        while len(running) < slots and counted(history) + len(running) < trials:
            number = len(history)
            for other, trial in running.items():
                history[other] = replace(history[other], bound_usd_per_million=trial.bound(problem, now_s))
            near = partial(near_certain, candidates)
            again = retry.due(history, "lab", 2, near)
            pick = (
                Pick(candidates[again.fingerprint].config, "retry")
                if again
                else choose(problem, history, number=number, seed=world.seed, pool="lab", method="prior-gp")
            )
            assert pick is not None
            earlier = [trial.attempt for trial in history if trial.fingerprint == pick.config.fingerprint]
            spec = spec_of(problem, history, pick, number, 1 + max(earlier, default=0), world.seed)
            running[number] = Running(spec, world.run(spec), now_s)
            history.append(
                PastTrial(
                    number=number,
                    state="running",
                    counted=False,
                    fingerprint=pick.config.fingerprint,
                    origin=pick.origin,
                    config_json=pick.config.as_json(),
                    params={},
                    constraints={},
                    attempt=spec.attempt,
                )
            )
        if not running:
            return history
        first = min(running, key=lambda number: running[number].ends_s)
        trial = running.pop(first)
        now_s = trial.ends_s
        verdict = judge(trial.result, trial.spec, problem.token_weights)
        history[first] = replace(
            history[first],
            state=verdict.state,
            counted=verdict.told != "FAIL",
            usd_per_million=verdict.value,
            bound_usd_per_million=verdict.bound_usd_per_million,
            result=trial.result.as_json(),
        )


def near_certain(candidates, fingerprint: str) -> bool:
    """Whether a crash of it would be a puzzle."""
    return candidates[fingerprint].margin_gib >= retry.NEAR_CERTAIN_MARGIN_GIB


def spec_of(problem, history, pick: Pick, number: int, attempt: int, seed: int) -> TrialSpec:
    """The trial with its traffic's seed and the rate it must beat."""
    name = trial_name(problem.name, number, pick.config, confirmation=False)
    make = partial(problem.make_spec, pick.config, name, attempt, trial_seed(seed, number))
    spec = make(None, None)
    cost = cost_to_beat(problem, history)
    if cost is None:
        return spec
    rate = rate_to_beat(cost, spec.usd_per_hour, spec.guard, problem.token_weights, spec.workload)
    return make(rate, None)


if __name__ == "__main__":
    main()
