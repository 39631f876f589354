"""A scripted runtime with a clock of its own: trials end when the script says, nothing waits in real time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tuner.errors import RuntimeUnusable
from tuner.runtime.protocol import Ended, Fate, Notice, Stage
from tuner.trial.result import TrialResult
from tuner.trial.spec import TrialSpec

Script = Callable[[TrialSpec], TrialResult]
Shown = Callable[[TrialSpec, TrialResult, float], float | None]
"""What a running trial has shown of its capacity, so many seconds after its start."""


@dataclass
class Trial:
    """One started attempt: `ends_s` on the cluster's clock."""

    spec: TrialSpec
    ends_s: float
    result: TrialResult
    began_s: float = 0.0


@dataclass
class FakeCluster:
    """What outlives a controller: the trials, the clock, and a log of everything that was ever started.

    `survives`: trials go on when the controller dies, as Jobs do. Otherwise they die with it, as local processes do.
    """

    script: Script
    duration_s: Callable[[TrialSpec], float] = lambda _spec: 600.0
    slots: Mapping[str, int] = field(default_factory=dict)
    shown: Shown = lambda _spec, _result, _elapsed_s: None
    survives: bool = True
    now_s: float = 0.0
    live: dict[str, Trial] = field(default_factory=dict)
    started: list[tuple[str, int]] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    most_at_once: dict[str, int] = field(default_factory=dict)

    def controller(self) -> FakeRuntime:
        """A fresh runtime on this cluster, as a restarted controller has one."""
        if not self.survives:
            self.live.clear()
        return FakeRuntime(self)


@dataclass
class FakeRuntime:
    """`Runtime` over a `FakeCluster`. `unusable` makes every call raise; `on_poll` runs before each poll."""

    cluster: FakeCluster
    name: str = "fake"
    simulated: bool = True
    unusable: bool = False
    closed: bool = False
    on_poll: Callable[[], None] = lambda: None
    _told: set[str] = field(default_factory=set)

    def _check(self) -> None:
        if self.unusable:
            raise RuntimeUnusable("namespace demo: forbidden (403); ask for the role in k8s/rbac.yaml")

    def slots(self, pool: str) -> int:
        return self.cluster.slots.get(pool, 1)

    def start(self, spec: TrialSpec) -> None:
        self._check()
        if spec.id in self.cluster.live and self.cluster.live[spec.id].spec.attempt == spec.attempt:
            return
        running = [t for t in self.cluster.live.values() if t.ends_s > self.cluster.now_s]
        if spec.id in self.cluster.live or any(
            t.spec.fingerprint == spec.fingerprint and not spec.confirm and not t.spec.confirm for t in running
        ):
            self.cluster.overlaps.append(spec.id)
        self.cluster.started.append((spec.id, spec.attempt))
        ends_s = self.cluster.now_s + self.cluster.duration_s(spec)
        self.cluster.live[spec.id] = Trial(spec, ends_s, self.cluster.script(spec), self.cluster.now_s)
        busy = sum(t.spec.pool == spec.pool for t in running) + 1
        self.cluster.most_at_once[spec.pool] = max(busy, self.cluster.most_at_once.get(spec.pool, 0))

    def poll(self, timeout_s: float) -> Sequence[Notice]:
        self._check()
        self.on_poll()
        pending = [t.ends_s for t in self.cluster.live.values() if t.spec.id not in self._told]
        until = self.cluster.now_s + timeout_s
        self.cluster.now_s = max(self.cluster.now_s, min([*pending, until]))
        ended = [
            t for t in self.cluster.live.values() if t.ends_s <= self.cluster.now_s and t.spec.id not in self._told
        ]
        self._told |= {t.spec.id for t in ended}
        stages = [self._stage(t) for t in self.cluster.live.values() if t.ends_s > self.cluster.now_s]
        return [*stages, *(Ended(t.spec.id, t.spec.attempt, t.result) for t in ended)]

    def _stage(self, trial: Trial) -> Stage:
        elapsed_s = self.cluster.now_s - trial.began_s
        return Stage(trial.spec.id, "running", self.cluster.shown(trial.spec, trial.result, elapsed_s))

    def reconcile(self, study_uid: str, expected: Mapping[str, int]) -> dict[str, Fate]:
        self._check()
        live = self.cluster.live
        for trial_id in [i for i, t in live.items() if expected.get(i) != t.spec.attempt]:
            del live[trial_id]
        return {i: self._fate(i) for i in expected}

    def _fate(self, trial_id: str) -> Fate:
        trial = self.cluster.live.get(trial_id)
        if trial is None:
            return "gone"
        return "finished" if trial.ends_s <= self.cluster.now_s else "running"

    def release(self, trial_id: str) -> None:
        if self.cluster.live.pop(trial_id, None):
            self.cluster.released.append(trial_id)

    def now_s(self) -> float:
        return self.cluster.now_s

    def close(self) -> None:
        self.closed = True
        if not self.cluster.survives:
            self.cluster.live.clear()
