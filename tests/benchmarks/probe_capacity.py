"""How true and how dear the capacity search is, on five modelled engines in virtual time.

    python tests/benchmarks/probe_capacity.py [--seeds 20] [--first-seed 0] [--engine NAME ...] [--truth]

Prints one line per engine and bar. The truth is the highest rate whose TTFT p95 over 20,000 requests meets the limit;
`--truth` finds it again by bisection (minutes), otherwise the figures kept here are used. Exit 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.queue_engine import QueueEngine, VirtualRun

from tuner.probe.capacity import CapacitySearch, ProbeSettings
from tuner.probe.events import Command, Event, Finished, FirstToken, OpenLoop, Sent, Stop
from tuner.probe.measurement import Level
from tuner.probe.outcome import Outcome
from tuner.probe.plan import RequestStream
from tuner.space.workload import Length, Limits, Workload

TRUTH_REQUESTS = 20_000
MEAN_ERROR, WORST = 0.05, 1.06
LOSER = 1.15
"""A loser's incumbent: the configuration is 15 % below it."""


@dataclass(frozen=True)
class Case:
    """An engine, its traffic and limit; `truth_req_per_s` and `e2e_s` (one request at the cap) as `--truth` finds."""

    name: str
    engine: QueueEngine
    output_tokens: int
    limit_s: float
    truth_req_per_s: float
    e2e_s: float

    def stream(self, seed: int) -> RequestStream:
        return RequestStream(Workload(Length.fixed(20000), Length.fixed(self.output_tokens), 0.6, 32), seed)


CASES = (
    Case("A prefill-first, 256 slots", QueueEngine(), 1000, 2.0, 4.520, 53.6),
    Case("B mixed chunks of 2048", QueueEngine(prefill_first=False), 1000, 2.0, 4.328, 53.7),
    Case("C prefill-first, 96 slots", QueueEngine(slots=96, step_s=0.03), 1000, 2.0, 1.811, 45.6),
    Case("D prefill queueing binds", QueueEngine(prefill_s_per_token=37.5e-6, step_s=0.003), 50, 2.0, 2.562, 77.8),
    Case("E slow decode, 256 slots", QueueEngine(step_s=0.2, step_s_per_request=1.2e-4), 1000, 5.0, 0.921, 254.2),
)


class _OneRate:
    """A search that only listens: one rate until `requests` first tokens came, or far too many came late."""

    def __init__(self, rate_req_per_s: float, requests: int, limit_s: float) -> None:
        self._rate, self._requests, self._limit_s = rate_req_per_s, requests, limit_s
        self._allowed = requests // 20
        self._due: dict[int, float] = {}
        self.late = self.seen = 0
        self.outcome: Outcome | None = None
        self.wake_at_s: float | None = None
        self.ended_levels: tuple[Level, ...] = ()

    def start(self, now_s: float) -> list[Command]:
        return [OpenLoop(0, self._rate)]

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, Sent) and event.index < self._requests:
            self._due[event.index] = event.scheduled_s
        if isinstance(event, FirstToken) and (due_s := self._due.pop(event.index, None)) is not None:
            self.seen += 1
            self.late += event.at_s - due_s > self._limit_s
        if self.seen >= self._requests or self.late > self._allowed:
            self.outcome = Outcome("measured", "")
            return [Stop()]
        return []

    def interrupt(self, why: str) -> None:
        self.outcome = Outcome("failed", why)

    @property
    def holds(self) -> bool:
        return self.late <= self._allowed


class _AtCap:
    """A search that keeps an engine full and times whole requests."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._times_s: list[float] = []
        self.outcome: Outcome | None = None
        self.wake_at_s: float | None = None
        self.ended_levels: tuple[Level, ...] = ()

    def start(self, now_s: float) -> list[Command]:
        from tuner.probe.events import ClosedLoop

        return [ClosedLoop(0, self._slots, stagger=True)]

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, Finished):
            self._times_s.append(event.record.done_s - event.record.sent_s)
        if len(self._times_s) >= 4 * self._slots:
            self.outcome = Outcome("measured", "")
            return [Stop()]
        return []

    def interrupt(self, why: str) -> None:
        self.outcome = Outcome("failed", why)

    @property
    def e2e_s(self) -> float:
        return statistics.mean(self._times_s[-2 * self._slots :])


def true_capacity(case: Case) -> float:
    """Bisection to 0.25 %, each rate from an empty engine with 20,000 requests."""
    low, high = 0.3 * case.truth_req_per_s, 2.0 * case.truth_req_per_s
    while high / low > 1.0025:
        middle = math.sqrt(low * high)
        search = _OneRate(middle, TRUTH_REQUESTS, case.limit_s)
        VirtualRun(search, case.engine, case.stream(4711)).run(1e9)
        low, high = (middle, high) if search.holds else (low, middle)
    return low


def e2e_at_cap(case: Case) -> float:
    search = _AtCap(case.engine.slots)
    VirtualRun(search, case.engine, case.stream(0)).run(1e9)
    return search.e2e_s


def probe(case: Case, seed: int, incumbent: float | None, guess: float | None) -> Outcome:
    search = CapacitySearch(
        ProbeSettings(
            limits=Limits(ttft_p95_s=case.limit_s),
            mean_output_tokens=case.output_tokens,
            max_running=case.engine.slots,
            incumbent_req_per_s=incumbent,
            guess_req_per_s=guess,
        )
    )
    return VirtualRun(search, case.engine, case.stream(seed)).run()


def survivors(case: Case, seeds: range, guess: float | None) -> bool:
    outcomes = [probe(case, seed, None, guess) for seed in seeds]
    shares = [(o.capacity_low_req_per_s or 0.0) / case.truth_req_per_s for o in outcomes]
    seconds = [o.duration_s for o in outcomes]
    mean, bar_s = statistics.mean(shares), 4 * case.e2e_s + 60
    good = abs(mean - 1) <= MEAN_ERROR and max(shares) <= WORST and statistics.mean(seconds) <= bar_s
    print(
        f"{case.name:28} capacity/truth mean {mean:.3f} min {min(shares):.3f} max {max(shares):.3f}  "
        f"virtual s mean {statistics.mean(seconds):4.0f} max {max(seconds):4.0f} (bar {bar_s:.0f})  "
        f"{'ok' if good else 'MISSED'}",
        flush=True,
    )
    return good


def losers(case: Case, seeds: range) -> bool:
    outcomes = [probe(case, seed, LOSER * case.truth_req_per_s, None) for seed in seeds]
    pruned = sum(o.state == "pruned" for o in outcomes)
    seconds, bar_s = [o.duration_s for o in outcomes], 2 * case.e2e_s + 30
    good = pruned == len(seeds) and statistics.mean(seconds) <= bar_s
    print(
        f"{case.name:28} loser: dropped {pruned}/{len(seeds)}  "
        f"virtual s mean {statistics.mean(seconds):4.0f} max {max(seconds):4.0f} (bar {bar_s:.0f})  "
        f"{'ok' if good else 'MISSED'}",
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0, help="others than those the search was designed with")
    parser.add_argument("--engine", action="append", help="letters of the engines to run; default: all")
    parser.add_argument("--truth", action="store_true", help="find the truth again and print it")
    parser.add_argument("--guess", type=float, help="start from a prediction of this share of the truth")
    options = parser.parse_args()
    good, seeds = True, range(options.first_seed, options.first_seed + options.seeds)
    for case in (c for c in CASES if not options.engine or c.name[0] in options.engine):
        began_s = time.perf_counter()
        if options.truth:
            print(f"{case.name:28} truth {true_capacity(case):.3f} req/s, E {e2e_at_cap(case):.1f} s", flush=True)
            continue
        guess = options.guess * case.truth_req_per_s if options.guess else None
        good = survivors(case, seeds, guess) and good
        good = losers(case, seeds) and good
        print(f"{'':28} ({time.perf_counter() - began_s:.0f} s of computing)", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
