"""The search: own the study, adopt what still runs, try configurations until the budget ends, confirm the best.

The one loop of the project. It decides nothing by itself: `sampler` chooses, `retry` repeats, `budget` ends,
`confirm` ranks, `record` writes, the runtime runs. Knows nothing of engines, clusters or terminals.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from tuner.errors import RuntimeUnusable
from tuner.runtime.protocol import Runtime
from tuner.study import budget, confirm, endings, recheck, retry, sampler, telling
from tuner.study.bulletin import Bulletin
from tuner.study.converged import expected_gain
from tuner.study.events import (
    BaselineDeviates,
    Closing,
    Event,
    ExitReason,
    OnEvent,
    SearchOutcome,
    SearchStopped,
    Stop,
    StopOffered,
    StoppedBy,
    StudyOpened,
)
from tuner.study.floor import Flight, Floor
from tuner.study.history import PastTrial, counted, measured_by_cost
from tuner.study.incumbent import by_posterior
from tuner.study.ledger import ledger
from tuner.study.lock import Ownership
from tuner.study.opening import EXIT_REASON, STOPPED_BY, open_confirmations, open_study
from tuner.study.problem import Problem
from tuner.study.record import Pick, Recorder
from tuner.study.starter import Starter
from tuner.study.storage import Storage, open_storage
from tuner.study.writer import OnWrite, Writer
from tuner.trial.spec import TrialSpec

_TURN_S = 1.0  # so long trials are chosen and started before those that have ended are looked after
_LOST_ATTEMPTS = 5  # a trial that vanished this often with its controller is told lost instead of begun again


def search(
    problem: Problem,
    storage_url: str,
    runtime: Runtime,
    *,
    sampler: sampler.Method = sampler.DEFAULT,
    seed: int | None = None,
    on_event: OnEvent | None = None,
    on_write: OnWrite | None = None,
    retries: int = 2,
    poll_s: float = 5.0,
    stop_when_converged: bool = False,
    stopping: Callable[[], Stop] = lambda: "",
) -> SearchOutcome:
    """Search a problem, or go on with its study, until budget, space or patience ends.

    `retries` bounds how often a lost trial's configuration is tried again. `seed` (0 where None) is that of a
    new study; a resumed one keeps its own.
    `stop_when_converged` takes the stop that is otherwise only offered (see `converged`). `stopping` is
    asked between steps: `stop` interrupts the search, `drain` does so once the running trials have ended.

    Raises:
        UsageError: the storage cannot be opened, another controller owns the study, or its identity differs.
        OwnershipLost: another controller took the study over meanwhile.
    """
    storage = open_storage(storage_url)
    try:
        owner = Ownership(storage, problem.name)
        try:
            write = Writer(owner, on_write)
            session = _Search(problem, storage, runtime, owner, write, sampler, seed, on_event, retries, poll_s)
            session.stop_when_converged = stop_when_converged
            session.stopping = stopping
            return session.run()
        finally:
            owner.release()
    finally:
        storage.close()


class _Search:
    """One session of a search; everything that must outlive it is in the database."""

    def __init__(
        self,
        problem: Problem,
        storage: Storage,
        runtime: Runtime,
        owner: Ownership,
        write: Writer,
        method: sampler.Method,
        seed: int | None,
        on_event: OnEvent | None,
        retries: int,
        poll_s: float,
    ) -> None:
        self._problem = problem
        self._storage = storage
        self._runtime = runtime
        self._owner = owner
        self._write = write
        self._method = method
        self._retries = retries
        self._poll_s = poll_s
        self._on_event: OnEvent = on_event or (lambda _event: None)
        self._floor = Floor(runtime, self._emit)
        self._opened = open_study(problem, storage, owner, write, simulated=runtime.simulated, seed=seed)
        self._bulletin = Bulletin(self._opened.study, owner)
        self._trials = self._opened.trials
        self._confirmations = open_confirmations(problem, storage, write, create=False)
        self._starter = Starter(problem, self._trials, self._floor, self._opened.uid, self._opened.seed)
        self._started_s = runtime.now_s()
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._stopped_by: StoppedBy | None = None
        self.stop_when_converged = False
        self.stopping: Callable[[], Stop] = lambda: ""
        self._offered = False
        self._hurried = False

    def _emit(self, event: Event) -> None:
        self._bulletin.note(event)
        self._on_event(event)

    # --- the session

    def run(self) -> SearchOutcome:
        try:
            self._resume()
            self._try_configurations()
            reason, message = self._confirm()
        except KeyboardInterrupt:
            self._emit(Closing(len(self._floor.flights)))
            self._runtime.close()
            return self._end("interrupted", "interrupted; run the same command to go on")
        except RuntimeUnusable as exc:
            with suppress(RuntimeUnusable):
                self._runtime.close()
            return self._end("runtime_unusable", str(exc))
        except Exception:
            # A fault of ours or a lost study: end what this controller started, write nothing more.
            with suppress(RuntimeUnusable):
                self._runtime.close()
            raise
        self._runtime.close()
        return self._end(reason, message)

    def _end(self, reason: ExitReason, message: str) -> SearchOutcome:
        count = 0
        try:
            count = counted(self._trials.history())
            self._note_session()
            self._note(STOPPED_BY, self._stopped_by)
            self._note(EXIT_REASON, reason)
        except Exception:
            # The database itself may be what is unusable; the reason to end stands either way.
            if reason not in ("runtime_unusable", "interrupted"):
                raise
        return SearchOutcome(self._problem.name, self._opened.uid, reason, message, count, self._stopped_by)

    def _note(self, key: str, value: object) -> None:
        self._write(key, lambda: self._opened.study.set_user_attr(key, value))

    def _note_session(self) -> None:
        """How long this controller has owned the study, by the clock trials are timed by."""
        session = {
            "wall_s": round(self._runtime.now_s() - self._started_s, 3),
            "started_at": self._started_at,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self._note(f"{budget.SESSION}{self._owner.epoch}", session)

    # --- resuming

    def _resume(self) -> None:
        recorders = [r for r in (self._trials, self._confirmations) if r is not None]
        halfway = [(r, trial) for r in recorders for trial in r.finish_told_halfway()]
        running = {
            trial.spec["id"]: (recorder, trial)
            for recorder in recorders
            for trial in recorder.history()
            if not trial.finished and trial.spec is not None
        }
        fates = self._runtime.reconcile(
            self._opened.uid, {trial_id: trial.attempt for trial_id, (_, trial) in running.items()}
        )
        for _, trial in halfway:
            if trial.spec is not None:
                self._runtime.release(trial.spec["id"])
        self._note(EXIT_REASON, None)
        self._note_session()
        self._bulletin.slots = sum(self._runtime.slots(pool) for pool in self._problem.pools)
        self._emit(
            StudyOpened(self._problem.name, self._opened.uid, self._opened.resumed, counted(self._trials.history()))
        )
        self._tell_ledger()
        for trial_id, (recorder, trial) in running.items():
            self._take_up(recorder, trial, gone=fates.get(trial_id, "gone") == "gone")

    def _take_up(self, recorder: Recorder, trial: PastTrial, *, gone: bool) -> None:
        assert trial.spec is not None
        spec = TrialSpec.from_json(trial.spec)
        if gone and spec.attempt >= _LOST_ATTEMPTS:
            recorder.finish(trial.number, spec, endings.lost(spec))
            return
        if gone:
            spec = replace(spec, attempt=spec.attempt + 1)
            recorder.commit(trial.number, spec)
        flight = Flight(
            recorder, trial.number, spec, self._starter.config(trial), trial.origin, recorder is self._confirmations
        )
        self._floor.start(flight, adopted=not gone)

    # --- trying configurations

    def _try_configurations(self) -> None:
        while True:
            self._heed_stop()
            waiting = self._floor.count(confirmation=False) > 0
            if not waiting or any(self._floor.free(pool) for pool in self._problem.pools):
                history = self._trials.history()
                why = self._fill(history)
                if self._floor.count(confirmation=False) == 0 and why is not None:
                    self._stopped_by = why
                    self._emit(SearchStopped(why, counted(history)))
                    return
            self._collect()

    def _fill(self, history: list[PastTrial]) -> StoppedBy | None:
        """Start what may be started, a turn of it; why nothing more may ever be, or None."""
        exhausted = set()
        until_s = self._runtime.now_s() + _TURN_S
        for pool in self._problem.pools:
            for _ in range(self._floor.free(pool)):
                if why := self._spent(history):
                    return why
                pick = self._pick(history, pool)
                if pick is None:
                    exhausted.add(pool)
                    break
                self._starter.launch(self._trials, pick, None)
                history = self._trials.history()
                if self._runtime.now_s() >= until_s:
                    self._hurried = True
                    return None
        if why := self._spent(history):
            return why
        open_pools = [pool for pool in self._problem.pools if not self._floor.health(pool).closed]
        if set(open_pools) <= exhausted and self._floor.count(confirmation=False) == 0:
            self._refuse_closed_pools(history)
            return "chosen" if self._problem.chosen else "space_exhausted"
        return None

    def _refuse_closed_pools(self, history: list[PastTrial]) -> None:
        """When every pool is closed the runtime is unusable; with one left the search simply ends there."""
        closed = {p: h for p, h in self._floor.pools.items() if h.closed and p in self._problem.pools}
        if closed and (len(closed) == len(self._problem.pools) or not measured_by_cost(history)):
            pool, health = next(iter(closed.items()))
            raise RuntimeUnusable(
                f"pool {pool}: {health.in_a_row} trials in a row gave nothing usable (last: {health.last_reason}); "
                "repair it and run the same command again"
            )

    def _pick(self, history: list[PastTrial], pool: str) -> Pick | None:
        again = retry.due(sampler.in_question(self._problem, history), pool, self._retries, self._starter.near_certain)
        if again is not None:
            return Pick(self._starter.config(again), "retry")
        every = None if self._problem.chosen else self._problem.budget.recheck_every
        if check := recheck.due(self._problem.seeds, history, pool, every):
            return Pick(check.config, recheck.ORIGIN, node=check.node)
        return sampler.choose(
            self._problem,
            history,
            number=self._trials.next_number(),
            seed=self._opened.seed,
            pool=pool,
            method=self._method,
        )

    def _spent(self, history: list[PastTrial]) -> StoppedBy | None:
        if self.stop_when_converged and expected_gain(history) is not None:
            return "converged"
        best = next(iter(measured_by_cost(history)), None)
        left = budget.without(self._problem.budget, budget.reserve(self._problem.confirm, best))
        in_flight = self._floor.count(confirmation=False)
        why = budget.spent(left, self._used(history), in_flight, budget.per_trial(history))
        # The number of trials was made to fit the chosen ones: reaching it means that they have been run.
        return "chosen" if why == "trials" and self._problem.chosen else why

    def _used(self, history: list[PastTrial]) -> budget.Used:
        attrs = dict(self._opened.study.user_attrs)
        attrs[f"{budget.SESSION}{self._owner.epoch}"] = {"wall_s": self._runtime.now_s() - self._started_s}
        return budget.used(history, self._confirmed(), attrs)

    def _tell_ledger(self) -> None:
        history, confirmed = self._trials.history(), self._confirmed()
        plan = self._problem.confirm, self._problem.limits.as_json()
        used, slots = self._used(history), self._bulletin.slots
        self._emit(ledger(self._problem.budget, *plan, used, history, confirmed, slots))

    def _confirmed(self) -> list[PastTrial]:
        return self._confirmations.history() if self._confirmations else []

    # --- what ended

    def _collect(self) -> None:
        """Wait for the runtime and record what ended: all of it, before anything new is chosen."""
        self._bulletin.write_when_due()
        wait_s, self._hurried = 0.0 if self._hurried else self._poll_s, False
        while ended := self._floor.collect(wait_s):
            self._note_session()
            for flight, trial in ended:
                self._tell(flight, trial)
            wait_s = 0.0

    def _tell(self, flight: Flight, trial: PastTrial) -> None:
        history = self._trials.history()
        self._emit(telling.trial_ended(flight, trial, history))
        for found in recheck.deviations(history) if trial.origin == recheck.ORIGIN else ():
            self._emit(BaselineDeviates(found.pool, found.node, found.ratio, str(found)))
        self._tell_ledger()
        if not flight.confirmation:
            self._offer_stop()

    def _heed_stop(self) -> None:
        """Between two steps no write is under way, and none is cut short."""
        while wish := self.stopping():
            if wish == "stop" or not self._floor.flights:
                raise KeyboardInterrupt
            self._collect()

    def _offer_stop(self) -> None:
        """Once a session: a further trial of the same kind would only repeat it."""
        history = self._trials.history()
        gain = None if self._offered or self.stop_when_converged else expected_gain(history)
        if gain is not None:
            self._offered = True
            self._emit(StopOffered(gain, counted(history)))

    # --- confirming

    def _confirm(self) -> tuple[ExitReason, str]:
        history = self._trials.history()
        ranked = by_posterior(self._problem, history)
        if not ranked:
            return endings.nothing_measured(history, self._stopped_by)
        step = confirm.Step()
        while True:
            self._heed_stop()
            step, former = self._next_step(ranked), step
            runs = self._confirmed()
            for event in telling.confirmation_events(former, step, self._problem, runs, self._retries, self._starter):
                self._emit(event)
            if step.winner is not None or step.candidate is None:
                if not self._floor.flights:
                    break
            elif why := self._start_missing(step):
                return "budget", f"the {why} budget ended before a winner was confirmed; raise it and run again"
            self._collect()
        if step.winner is None:
            plan = self._problem.confirm
            return "no_confirmed_winner", confirm.unconfirmed(ranked, self._confirmed(), plan, self._retries)
        return "confirmed", f"confirmed: {self._starter.config(step.winner).describe()}"

    def _next_step(self, ranked: list[PastTrial]) -> confirm.Step:
        return confirm.next_step(ranked, self._confirmed(), self._problem.confirm, self._retries)

    def _start_missing(self, step: confirm.Step) -> StoppedBy | None:
        """Start the repetitions still owed, as far as slots and budget go; which budget forbids it, once all landed."""
        assert step.candidate is not None
        config = self._starter.config(step.candidate)
        for _ in range(min(step.missing, self._floor.free(config.pool))):
            if why := self._confirmation_spent():
                return None if self._floor.flights else why
            load = confirm.load_of(step.candidate, self._problem)
            self._starter.launch(self._sibling(), Pick(config, "confirm"), load)
        if self._floor.health(config.pool).closed and not self._floor.flights:
            self._refuse_closed_pools([])
        return None

    def _sibling(self) -> Recorder:
        if self._confirmations is None:
            self._confirmations = open_confirmations(self._problem, self._storage, self._write, create=True)
        assert self._confirmations is not None
        return self._confirmations

    def _confirmation_spent(self) -> StoppedBy | None:
        history = self._trials.history()
        limits = replace(self._problem.budget, trials=None)
        return budget.spent(limits, self._used(history), len(self._floor.flights), budget.per_trial(self._confirmed()))
