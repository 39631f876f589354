"""One namespace of one cluster as the controller sees it: its latest lists, its outage, and what may be asked of it.

Knows which objects belong to the study, not what they mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.runtime.kubernetes.client import ApiError, Cluster
from tuner.runtime.kubernetes.names import FINALIZER, LABEL_ATTEMPT, LABEL_TRIAL, selector
from tuner.runtime.kubernetes.objects import at, text
from tuner.runtime.kubernetes.outage import Allowance, Outage

Json = dict[str, Any]

POLL_S = 2.5
"""Between two looks at a site: a finished trial is seen within 5 s, and two requests a look stay below one a second."""

# In looks. A pod tells nearly everything: its Job, why it waits, and the nodes are asked for more seldom.
_JOBS_EVERY = 4
_EVENTS_EVERY = 4
_NODES_EVERY = 12


@dataclass(frozen=True, slots=True)
class Key:
    """Which attempt of which trial."""

    trial_id: str
    attempt: int


def key_of(thing: Mapping[str, Any]) -> Key:
    """From the labels that every object of a trial carries."""
    attempt = text(thing, "metadata", "labels", LABEL_ATTEMPT)
    name = text(thing, "metadata", "labels", LABEL_TRIAL) or text(thing, "metadata", "name")
    return Key(name, int(attempt) if attempt.isdigit() else 0)


@dataclass
class Site:
    """`jobs` and `pods` are the latest ones of the study, by trial and attempt; what cannot be read is under its name."""

    cluster: Cluster
    outage: Outage = field(default_factory=Outage)
    every_s: float = POLL_S
    dirty: bool = False
    allowance: Allowance = field(default_factory=Allowance)
    jobs: dict[Key, Json] = field(default_factory=dict)
    pods: dict[Key, list[Json]] = field(default_factory=dict)
    next_look_s: float = 0.0
    _jobs_at_s: float = float("-inf")
    _nodes: list[Json] | None = None
    _nodes_at_s: float = float("-inf")
    _events: dict[str, tuple[float, list[Json]]] = field(default_factory=dict)

    def look(self, study_uid: str, now_s: float, expected: Iterable[Key], *, whole: bool = False) -> None:
        """List the study's pods; and its Jobs, if one of the `expected` has no pod, now and then, or for a `whole` look.

        Raises:
            ApiError: the server did not answer, or refused.
        """
        wanted = selector(study_uid)
        pods: dict[Key, list[Json]] = {}
        for pod in self.cluster.list_pods(wanted):
            pods.setdefault(key_of(pod), []).append(pod)
        self.allowance.spend(now_s, 1)
        stale = now_s - self._jobs_at_s >= _JOBS_EVERY * self.every_s
        if whole or stale or any(key not in pods for key in expected):
            self.allowance.spend(now_s, 1)
            jobs = self.cluster.list_jobs(wanted)
            self.jobs = {key_of(job): job for job in jobs}
            self._jobs_at_s = now_s
        self.pods = pods
        self.outage.over()

    def pod(self, key: Key) -> Json | None:
        """The latest of a trial's pods."""
        found = self.pods.get(key, [])
        return max(found, key=lambda pod: text(pod, "metadata", "creationTimestamp"), default=None)

    def nodes(self, now_s: float) -> list[Json] | None:
        """All nodes, at most half a minute old; None where they may not be read."""
        if now_s - self._nodes_at_s < _NODES_EVERY * self.every_s:
            return self._nodes
        self._nodes_at_s = now_s
        self.allowance.spend(now_s, 1)
        try:
            self._nodes = self.cluster.nodes()
        except ApiError as error:
            self._nodes = None if error.status in (401, 403) else self._nodes
        return self._nodes

    def events(self, uids: list[str], now_s: float) -> list[Json]:
        """Events about these objects, asked for every few looks, and as far as the allowance goes."""
        for uid in uids:
            asked_s, _ = self._events.get(uid, (float("-inf"), []))
            if now_s - asked_s < _EVENTS_EVERY * self.every_s or not self.allowance.has(now_s):
                continue
            self.allowance.spend(now_s, 1)
            try:
                self._events[uid] = (now_s, self.cluster.events(uid))
            except ApiError:
                self._events[uid] = (now_s, self._events.get(uid, (0.0, []))[1])
        return [event for uid in uids for event in self._events.get(uid, (0.0, []))[1]]

    def left(self) -> set[Key]:
        """Trials of which something is there that nobody has deleted yet."""
        return {key for key in {*self.jobs, *self.pods} if self._held_pods(key) or not _leaving(self.jobs.get(key))}

    def _held_pods(self, key: Key) -> list[Json]:
        return [pod for pod in self.pods.get(key, []) if FINALIZER in (at(pod, "metadata", "finalizers") or ())]

    def remove(self, key: Key) -> None:
        """Delete what there is of a trial: its Job with its pods, and the hold on each pod.

        Raises:
            ApiError: it could not be done.
        """
        self.dirty = True
        for pod in self._held_pods(key):
            self.cluster.remove_finalizer(pod, FINALIZER)
        job = self.jobs.get(key)
        if job is not None and not _leaving(job):
            self.cluster.delete_job(text(job, "metadata", "name"), text(job, "metadata", "uid"))
        for pod in self.pods.pop(key, []):
            self._events.pop(text(pod, "metadata", "uid"), None)
        self.jobs.pop(key, None)


def _leaving(job: Json | None) -> bool:
    """Gone, or told to go."""
    return job is None or bool(text(job, "metadata", "deletionTimestamp"))
