"""Trials as Jobs: creates them, looks at them every few seconds, tells what became of them, deletes them when told.

They outlive this controller; a new one adopts them by the study's uid. Decides nothing by itself: `diagnose` says what
an object means, `call_refused` what a refusal means. Knows no Optuna and no search.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from tuner.errors import RuntimeUnusable
from tuner.runtime.kubernetes.booking import Pins
from tuner.runtime.kubernetes.client import ApiError
from tuner.runtime.kubernetes.diagnosis import diagnose
from tuner.runtime.kubernetes.ended import AT_ONCE
from tuner.runtime.kubernetes.ending import result_of
from tuner.runtime.kubernetes.job import gpus_requested, job_manifest
from tuner.runtime.kubernetes.names import ANNOTATION_SPEC, ANNOTATION_SPEC_SHA256, CONTAINER, LABEL_STUDY
from tuner.runtime.kubernetes.objects import text
from tuner.runtime.kubernetes.outage import Allowance
from tuner.runtime.kubernetes.place import Place, expectation
from tuner.runtime.kubernetes.pods import started_at, terminated
from tuner.runtime.kubernetes.refusals import call_refused
from tuner.runtime.kubernetes.site import POLL_S, Json, Key, Site
from tuner.runtime.kubernetes.tails import Tails
from tuner.runtime.kubernetes.tracked import Tracked, doubtful, ended_at, waits
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot, Verdict, lost
from tuner.runtime.protocol import Ended, Fate, Notice, Stage
from tuner.trial.spec import TrialSpec

_START_PATIENCE_S = 60.0
"""A server that does not answer when a search begins: somebody is there to look after it."""
_CLOSE_PATIENCE_S = 20.0
_REFUSED_PAUSE_S = 15.0
_LOG_TRIES = 3
_HARVEST_S = 1.0
"""When many trials end at once, those whose logs could be read so far are told before the others' are read."""


class KubernetesRuntime:
    """Runs trials on the clusters of its pools. `cancel`: closing deletes trials that still run, else they go on.

    `pins` are the digests that image tags meant when the study began.
    """

    name = "kubernetes"
    simulated = False  # a result says itself whether a simulated engine answered

    def __init__(
        self,
        places: Mapping[str, Place],
        *,
        pins: Mapping[str, str] | None = None,
        cancel: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._places = dict(places)
        self._sites = list({id(place.site): place.site for place in places.values()}.values())
        self._pins = Pins(dict(pins or {}))
        self._ran_before = frozenset(pins or ())
        self._cancel = cancel
        self._clock = clock
        self._sleep = sleep
        self._study_uid = ""
        self._trials: dict[str, Tracked] = {}
        self._notices: list[Notice] = []
        self._finished: dict[str, tuple[Tracked, Verdict, Json | None]] = {}
        self._proven: set[str] = set()
        # One a second for all sites together, at the ordinary pace of looks.
        allowance = Allowance(per_s=POLL_S / min((site.every_s for site in self._sites), default=POLL_S))
        for site in self._sites:
            site.allowance = allowance
        self._tails = Tails(allowance)

    # --- the Protocol

    def slots(self, pool: str) -> int:
        place = self._places.get(pool)
        return max(1, place.slots) if place else 1

    def start(self, spec: TrialSpec) -> None:
        known = self._trials.get(spec.id)
        if known is not None and known.spec.attempt == spec.attempt:
            return
        self.release(spec.id)
        self._study_uid = self._study_uid or str(spec.context.get("study_uid", ""))
        trial = self._taken_up(spec)
        self._create(trial)

    def poll(self, timeout_s: float) -> Sequence[Notice]:
        give_up_s = self._clock() + timeout_s
        while True:
            for site in self._sites:
                if self._clock() >= max(site.next_look_s, site.outage.next_try_s):
                    self._look(site)
            self._harvest_oldest()
            self._read_a_tail()
            left_s = give_up_s - self._clock()
            if self._notices or left_s <= 0:
                break
            self._sleep(min(left_s, self._until_due_s()))
        notices, self._notices = self._notices, []
        return notices

    def reconcile(self, study_uid: str, expected: Mapping[str, int]) -> dict[str, Fate]:
        self._study_uid = study_uid
        for trial_id in [i for i, trial in self._trials.items() if expected.get(i) != trial.spec.attempt]:
            self.release(trial_id)
        for site in self._sites:
            self._look_patiently(site)
            for key in {*site.jobs, *site.pods}:
                if expected.get(key.trial_id) == key.attempt and key.trial_id not in self._trials:
                    self._adopt(site, key)
            self._sweep(site)
        return {trial_id: self._fate(trial_id) for trial_id in expected}

    def release(self, trial_id: str) -> None:
        trial = self._trials.pop(trial_id, None)
        if trial is None:
            return
        self._notices = [notice for notice in self._notices if notice.trial_id != trial_id]
        self._finished.pop(trial_id, None)
        trial.place.site.dirty = True
        with suppress(ApiError):  # what is left is nobody's, and goes with the next look
            trial.place.site.remove(trial.key)

    def now_s(self) -> float:
        return self._clock()

    def close(self) -> None:
        """Trials that run go on without us, unless they are to be cancelled."""
        for trial in list(self._trials.values()):
            if self._cancel and not trial.ended:
                self.release(trial.spec.id)
        give_up_s = self._clock() + _CLOSE_PATIENCE_S
        for site in self._sites:
            while site.dirty and self._clock() < give_up_s:
                if not self._cleaned(site):
                    self._sleep(site.every_s)
        self._trials.clear()
        self._notices.clear()
        self._finished.clear()

    # --- creating and adopting

    def _taken_up(self, spec: TrialSpec) -> Tracked:
        place = self._places[spec.pool]
        trial = Tracked(spec, place, job_manifest(spec, place.target, self._study_uid))
        self._trials[spec.id] = trial
        return trial

    def _create(self, trial: Tracked) -> None:
        """Create the Job, now or, when the server cannot, later."""
        site, now_s = trial.place.site, self._clock()
        if now_s < max(trial.next_try_s, site.outage.next_try_s):
            return
        try:
            job = site.cluster.create_job(trial.manifest)
        except ApiError as error:
            if error.status == 409:
                error = self._compare(trial) or error
            if not trial.created:
                self._refused(trial, error)
            return
        trial.created = True
        site.jobs[trial.key] = job

    def _compare(self, trial: Tracked) -> ApiError | None:
        """The name is taken: by our own earlier call, if study and specification are the same."""
        site, name = trial.place.site, trial.manifest["metadata"]["name"]
        try:
            job = site.cluster.read_job(name)
        except ApiError as error:
            return ApiError(503, error.reason, error.message) if error.status == 404 else error
        if text(job, "metadata", "deletionTimestamp"):
            return ApiError(503, "Conflict", f"the job {name} before this one is still being deleted")
        wanted, found = trial.manifest["metadata"], job["metadata"]
        same = all(
            text(wanted, kind, key) == text(found, kind, key)
            for kind, key in (("labels", LABEL_STUDY), ("annotations", ANNOTATION_SPEC_SHA256))
        )
        if same:
            trial.created = True
            site.jobs[trial.key] = job
        return None

    def _refused(self, trial: Tracked, error: ApiError) -> None:
        doing = f"creating job {trial.manifest['metadata']['name']}"
        verdict = call_refused(error.status, error.reason, error.message, self._expected(trial), doing)
        trial.next_try_s = self._clock() + min(_REFUSED_PAUSE_S, 6 * trial.place.site.every_s)
        if verdict.kind == "waiting" and error.status != 403:
            self._note_outage(trial.place.site, error, verdict)
        self._heed(trial, verdict, None)

    def _adopt(self, site: Site, key: Key) -> None:
        """Take up a trial of an earlier controller, by the specification it carries."""
        job, pod = site.jobs.get(key), site.pod(key)
        written = text(pod, "metadata", "annotations", ANNOTATION_SPEC)
        written = written or text(job, "spec", "template", "metadata", "annotations", ANNOTATION_SPEC)
        with suppress(ValueError, TypeError, KeyError):  # not one of ours any more: it is swept away and started anew
            self._taken_up(TrialSpec.from_json(json.loads(written))).created = True

    # --- looking

    def _until_due_s(self) -> float:
        if self._finished:
            return 0.0
        now_s = self._clock()
        due_s = [max(site.next_look_s, site.outage.next_try_s) for site in self._sites]
        return max(0.0, min(due_s, default=now_s + 1.0) - now_s)

    def _look(self, site: Site) -> None:
        trials = self._at(site)
        now_s = self._clock()
        busy = sum(1 for other in self._sites if self._at(other))
        site.next_look_s = now_s + site.every_s * (max(1.0, 0.55 * busy) if trials or site.dirty else 12.0)
        try:
            site.look(self._study_uid, now_s, [trial.key for trial in trials if trial.created])
        except ApiError as error:
            self._unseen(site, error, trials)
            return
        self._sweep(site)
        for trial in trials:
            self._note_start(trial)
        for trial in trials:
            if trial.ended:
                continue
            if trial.created:
                self._judge(trial)
            else:
                self._create(trial)

    def _at(self, site: Site) -> list[Tracked]:
        """Trials there that have not ended."""
        return [trial for trial in self._trials.values() if trial.place.site is site and not trial.ended]

    def _unseen(self, site: Site, error: ApiError, trials: Sequence[Tracked]) -> None:
        place = next(place for place in self._places.values() if place.site is site)
        verdict = call_refused(error.status, error.reason, error.message, expectation(place, 0), "listing trials")
        if verdict.kind == "unusable":
            raise RuntimeUnusable(verdict.message)
        self._note_outage(site, error, verdict)
        for trial in trials:
            self._tell_stage(trial, verdict.stage or verdict.message)

    def _note_outage(self, site: Site, error: ApiError, verdict: Verdict) -> None:
        now_s = self._clock()
        site.outage.note(now_s, verdict.stage or verdict.message, error.retry_after_s)
        if site.outage.too_long(now_s):
            raise RuntimeUnusable(
                f"{site.cluster.server} has been out of order for {site.outage.lasts_s(now_s) / 60:.0f} min - "
                f"{site.outage.reason} - its trials go on; run the same command once it answers"
            )

    def _look_patiently(self, site: Site) -> None:
        """The first look of a controller, all of it."""
        while True:
            now_s = self._clock()
            try:
                site.look(self._study_uid, now_s, (), whole=True)
            except ApiError as error:
                self._unseen(site, error, ())
            else:
                return
            if site.outage.lasts_s(self._clock()) > _START_PATIENCE_S:
                raise RuntimeUnusable(f"{site.outage.reason} - is the cluster up? - run the same command again")
            self._sleep(max(0.0, site.outage.next_try_s - self._clock()))

    def _sweep(self, site: Site) -> bool:
        """Delete what is of this study and of no trial we know; whether nothing was left to do."""
        known = {trial.key for trial in self._trials.values() if trial.place.site is site}
        found = site.left() - known
        for key in found:
            with suppress(ApiError):
                site.remove(key)
        return not found

    def _cleaned(self, site: Site) -> bool:
        """Whether a whole look finds nothing that should not be there."""
        with suppress(ApiError):
            site.look(self._study_uid, self._clock(), (), whole=True)
            site.dirty = not self._sweep(site)
        return not site.dirty

    # --- judging

    def _judge(self, trial: Tracked) -> None:
        site = trial.place.site
        job, pod = site.jobs.get(trial.key), site.pod(trial.key)
        if job is None and pod is None:
            gone = f"the trial's job was deleted by somebody - {trial.manifest['metadata']['name']} - it is repeated"
            self._heed(trial, lost("job_deleted", gone), None)
            return
        now_s = self._clock()
        events = site.events([text(o, "metadata", "uid") for o in (job, pod) if o], now_s) if waits(pod) else []
        nodes = site.nodes(now_s) if pod and doubtful(pod) else None
        snapshot = Snapshot(job or {}, pod, events, nodes, site.cluster.now())
        self._heed(trial, diagnose(snapshot, self._expected(trial)), pod)

    def _note_start(self, trial: Tracked) -> None:
        """A trial that runs shows that its pool can; and every trial of an image must run the same one."""
        pod = trial.place.site.pod(trial.key)
        if pod is None or (since := started_at(pod, CONTAINER)) is None:
            return
        if not terminated(pod, CONTAINER) and trial.place.site.cluster.now() - since > AT_ONCE:
            self._proven.add(trial.spec.pool)
        if why := self._pins.differs(trial.spec.image, pod):
            self._end(trial, lost("image_changed", why), pod, None)

    def _expected(self, trial: Tracked) -> Expectation:
        expected = expectation(trial.place, gpus_requested(trial.spec, trial.place.target))
        own_image = trial.spec.image not in ("", trial.place.target.image)
        proven = trial.spec.pool in self._proven or trial.spec.image in self._ran_before
        return replace(expected, own_image=own_image, proven=proven)

    def _heed(self, trial: Tracked, verdict: Verdict, pod: Json | None) -> None:
        if verdict.kind == "unusable":
            self._give_up(trial, verdict)
        runs = pod is not None and verdict.kind == "running" and not doubtful(pod)
        trial.runs_in = text(pod, "metadata", "name") if runs else ""
        if verdict.kind in ("waiting", "running"):
            self._tell_stage(trial, verdict.stage)
        elif verdict.kind == "finished":
            self._finished[trial.spec.id] = (trial, verdict, pod)
        else:
            self._end(trial, verdict, pod, None)

    def _harvest_oldest(self) -> None:
        """Harvest what has ended, the first one first, for as long as the others' news may wait."""
        until_s = self._clock() + _HARVEST_S
        for trial_id, ended in sorted(self._finished.items(), key=lambda item: ended_at(item[1][2])):
            del self._finished[trial_id]
            self._harvest(*ended)
            if self._clock() >= until_s:
                return

    def _harvest(self, trial: Tracked, verdict: Verdict, pod: Json | None) -> None:
        """Read the log, which has every level; a server that cannot give it is asked again."""
        log = None
        try:
            log = trial.place.site.cluster.pod_log(text(pod, "metadata", "name"), CONTAINER)
        except ApiError as error:
            trial.log_tries += 1
            if error.status not in (400, 404) and trial.log_tries < _LOG_TRIES:
                return
        self._end(trial, verdict, pod, log)

    def _end(self, trial: Tracked, verdict: Verdict, pod: Json | None, log: str | None) -> None:
        trial.ended = True
        self._finished.pop(trial.spec.id, None)
        result, ran = result_of(trial.spec, verdict, pod, log, trial.place.site.cluster.now())
        own = result.failure is None or result.failure.kind != verdict.failure_kind
        if verdict.otherwise == "unusable" and not own:
            self._give_up(trial, verdict)
        if ran:  # evicted or lost later: image, volumes and node were right all the same
            self._proven.add(trial.spec.pool)
        self._notices.append(Ended(trial.spec.id, trial.spec.attempt, result))

    def _give_up(self, trial: Tracked, verdict: Verdict) -> NoReturn:
        """Every further trial would meet the same; this one leaves nothing behind."""
        self.release(trial.spec.id)
        raise RuntimeUnusable(verdict.message)

    def _tell_stage(self, trial: Tracked, stage: str) -> None:
        if stage != trial.stage:
            trial.stage, trial.told = stage, ""
            self._notices.append(Stage(trial.spec.id, stage))

    def _read_a_tail(self) -> None:
        if not self._finished and (stage := self._tails.read_next(self._trials.values(), self._clock())):
            self._notices.append(stage)

    def _fate(self, trial_id: str) -> Fate:
        trial = self._trials.get(trial_id)
        if trial is None:
            return "gone"
        pod = trial.place.site.pod(trial.key)
        return "finished" if trial.ended or text(pod, "status", "phase") in ("Succeeded", "Failed") else "running"
