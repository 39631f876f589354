"""One namespace of one cluster as the controller sees it: its latest lists, its outage, and what may be asked of it.

Knows which objects belong to the study, not what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.runtime.kubernetes.client import ApiError, Cluster
from tuner.runtime.kubernetes.names import ANNOTATION_SPEC, FINALIZER, selector
from tuner.runtime.kubernetes.objects import at, many, text
from tuner.runtime.kubernetes.outage import Allowance, Outage
from tuner.trial.spec import TrialSpec

Json = dict[str, Any]

_JOBS_EVERY_S = 10.0
_NODES_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Key:
    """Which attempt of which trial."""

    trial_id: str
    attempt: int


@dataclass
class Site:
    """`jobs` and `pods` are the latest ones of the study, by trial and attempt; what cannot be read is under its name."""

    cluster: Cluster
    outage: Outage
    allowance: Allowance = field(default_factory=Allowance)
    jobs: dict[Key, Json] = field(default_factory=dict)
    pods: dict[Key, list[Json]] = field(default_factory=dict)
    next_look_s: float = 0.0
    _jobs_at_s: float = float("-inf")
    _nodes: list[Json] | None = None
    _nodes_at_s: float = float("-inf")
    _events: dict[str, tuple[float, list[Json]]] = field(default_factory=dict)

    def look(self, study_uid: str, now_s: float, needs_job: Callable[[Key], bool], expected: Iterator[Key]) -> None:
        """List the study's pods, and its Jobs where pods do not tell enough.

        Raises:
            ApiError: the server did not answer, or refused.
        """
        wanted = selector(study_uid)
        pods: dict[Key, list[Json]] = {}
        for pod in self.cluster.list_pods(wanted):
            pods.setdefault(key_of(at(pod, "metadata"), pod), []).append(pod)
        self.allowance.spend(now_s, 1)
        stale = now_s - self._jobs_at_s >= _JOBS_EVERY_S
        if stale or any(key not in pods or needs_job(key) for key in expected):
            self.allowance.spend(now_s, 1)
            jobs = self.cluster.list_jobs(wanted)
            self.jobs = {key_of(at(job, "spec", "template", "metadata"), job): job for job in jobs}
            self._jobs_at_s = now_s
        self.pods = pods
        self.outage.over()

    def pod(self, key: Key) -> Json | None:
        """The latest of a trial's pods."""
        found = self.pods.get(key, [])
        return max(found, key=lambda pod: text(pod, "metadata", "creationTimestamp"), default=None)

    def nodes(self, now_s: float) -> list[Json] | None:
        """All nodes, at most half a minute old; None where they may not be read."""
        if now_s - self._nodes_at_s < _NODES_EVERY_S:
            return self._nodes
        self._nodes_at_s = now_s
        self.allowance.spend(now_s, 1)
        try:
            self._nodes = self.cluster.nodes()
        except ApiError as error:
            self._nodes = None if error.status in (401, 403) else self._nodes
        return self._nodes

    def events(self, uids: list[str], now_s: float, every_s: float) -> list[Json]:
        """Events about these objects, asked for at most every `every_s`, and as far as the allowance goes."""
        for uid in uids:
            asked_s, _ = self._events.get(uid, (float("-inf"), []))
            if now_s - asked_s < every_s or not self.allowance.has(now_s):
                continue
            self.allowance.spend(now_s, 1)
            try:
                self._events[uid] = (now_s, self.cluster.events(uid))
            except ApiError:
                self._events[uid] = (now_s, self._events.get(uid, (0.0, []))[1])
        return [event for uid in uids for event in self._events.get(uid, (0.0, []))[1]]

    def remove(self, key: Key) -> None:
        """Delete what there is of a trial: its Job with its pods, and the hold on each pod.

        Raises:
            ApiError: it could not be done.
        """
        for pod in self.pods.get(key, []):
            if FINALIZER in at(pod, "metadata", "finalizers", default=[]):
                self.cluster.remove_finalizer(pod, FINALIZER)
        job = self.jobs.get(key)
        if job is not None:
            self.cluster.delete_job(text(job, "metadata", "name"), text(job, "metadata", "uid"))
        for pod in self.pods.pop(key, []):
            self._events.pop(text(pod, "metadata", "uid"), None)
        self.jobs.pop(key, None)
