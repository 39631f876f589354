"""What commands other than `search` ask of clusters: a trial's pod and log, and what trials have left behind.

Knows no study; an object is known by the labels it carries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tuner.errors import RuntimeUnusable
from tuner.probe.measurement import Level
from tuner.runtime.kubernetes import names
from tuner.runtime.kubernetes.booking import digest_of
from tuner.runtime.kubernetes.client import ApiError, Cluster, connect
from tuner.runtime.kubernetes.objects import condition, moment, text
from tuner.runtime.kubernetes.site import Key, Site
from tuner.runtime.stages import level_text
from tuner.space.space import Space
from tuner.trial.records import read_records

_FOLLOW_EVERY_S = 2.0
ABANDONED_S = 600.0
"""A controller that lives takes a finished trial in within seconds."""


def clusters_of(space: Space | None, namespace: str | None, context: str | None) -> list[Cluster]:
    """Every namespace the trials of a space may be in; without a space the one the options name.

    Raises:
        UsageError: no kubeconfig, or no such context.
    """
    pools = list(space.spec.pools.values()) if space else []
    wanted = {(pool.context or context, pool.namespace or namespace) for pool in pools} or {(context, namespace)}
    found = [connect(*where) for where in sorted(wanted, key=str)]
    return list({(cluster.server, cluster.namespace): cluster for cluster in found}.values())


def pod_of(clusters: Sequence[Cluster], study_uid: str, trial_id: str) -> tuple[Cluster, dict[str, Any]] | None:
    """The latest pod of a trial, and where it is; None if there is none (any more).

    Raises:
        RuntimeUnusable: a cluster does not answer, or refuses.
    """
    selector = f"{names.selector(study_uid)},{names.LABEL_TRIAL}={trial_id}"
    with _said():
        pods = [(cluster, pod) for cluster in clusters for pod in cluster.list_pods(selector)]
    return max(pods, key=lambda item: text(item[1], "metadata", "creationTimestamp"), default=None)


def log_of(cluster: Cluster, pod: dict[str, Any]) -> str:
    """The whole log of a trial's pod; what is not there yet is empty.

    Raises:
        RuntimeUnusable: the cluster does not answer, or refuses.
    """
    with _said():
        try:
            return cluster.pod_log(text(pod, "metadata", "name"), names.CONTAINER)
        except ApiError as error:
            if error.status in (400, 404):  # not started yet, or gone
                return ""
            raise


def readable(log: str) -> list[str]:
    """Stages, levels and the end of a trial as lines for people; other lines as they are."""
    lines: list[str] = []
    for line in log.splitlines():
        reading = read_records([line])
        lines += [_told(record.kind, record.value) for record in reading.records] if reading.records else [line]
    return [line for line in lines if line]


def _told(kind: str, value: Any) -> str:
    if kind == "level":
        with suppress(TypeError):  # another version's
            return level_text(Level(**value))
    if kind == "result":
        failure = value.get("failure") or {}
        return f"{value.get('state')}: {failure.get('kind', '')} {failure.get('message', '')}".rstrip(": ")
    return f"trial {value['id']}, attempt {value['attempt']}" if kind == "begin" else str(value)


def follow(
    read: Callable[[], tuple[str, bool]], write: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Write what is new in a log until its pod has ended. `read` gives the whole log, and whether it is all."""
    written = 0
    while True:
        log, over = read()
        lines = readable(log)
        for line in lines[written:]:
            write(line)
        written = len(lines)
        if over:
            return
        sleep(_FOLLOW_EVERY_S)


def has_ended(pod: dict[str, Any]) -> bool:
    """Whether its log is whole."""
    return text(pod, "status", "phase") in ("Succeeded", "Failed")


def pod_summary(pod: dict[str, Any]) -> dict[str, Any]:
    """What a person asks of a pod first."""
    return {
        "name": text(pod, "metadata", "name"),
        "namespace": text(pod, "metadata", "namespace"),
        "node": text(pod, "spec", "nodeName"),
        "phase": text(pod, "status", "phase"),
        "reason": text(pod, "status", "reason"),
        "image_digest": digest_of(pod),
    }


def as_lines(document: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A document for people: `key: value`, one a line, what is empty left out, figures to four digits."""
    for key, value in document.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from as_lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, Mapping) for item in value):
            yield f"{indent}{key}:"
            for item in value:
                said = (f"{k} {_in_words(v)}" for k, v in item.items() if v not in (None, "", [], {}))
                yield f"{indent}  - " + ", ".join(said)
        elif value not in (None, "", [], {}, ()):
            words = " ".join(map(_in_words, value)) if isinstance(value, (list, tuple)) else _in_words(value)
            yield f"{indent}{key}: {words}"


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


# --- what is left behind


@dataclass(frozen=True)
class Leftover:
    """One trial's objects in one namespace. `why` they may go, or "" if somebody may still want them."""

    site: Site
    key: Key
    study: str
    study_uid: str
    state: str
    why: str

    def __str__(self) -> str:
        what = f"{self.site.cluster.namespace}: {self.key.trial_id} attempt {self.key.attempt}"
        return f"{what} (study {self.study or '?'} {self.study_uid}): {self.state}"


def leftovers(clusters: Sequence[Cluster], study_uid: str | None, *, running: bool) -> Iterator[Leftover]:
    """What trials have left: ended for longer than a living controller would leave it; with `running` all of them.

    Raises:
        RuntimeUnusable: a cluster does not answer, or refuses.
    """
    for cluster in clusters:
        site = Site(cluster)
        selector = names.selector(study_uid) if study_uid else f"{names.LABEL_STUDY},{_OURS}"
        with _said():
            site.fill(*cluster.list_trials(selector))
        for key in sorted({*site.jobs, *site.pods}, key=lambda key: (key.trial_id, key.attempt)):
            yield _leftover(site, key, running=running)


_OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


def _leftover(site: Site, key: Key, *, running: bool) -> Leftover:
    job, pod = site.jobs.get(key), site.pod(key)
    thing = job or pod
    study, uid = (text(thing, "metadata", "labels", label) for label in (names.LABEL_STUDY_NAME, names.LABEL_STUDY))
    ended = _ended_at(job, pod)
    if ended is None:
        state = "no pod yet" if pod is None else f"pod {text(pod, 'status', 'phase').lower() or 'pending'}"
        return Leftover(site, key, study, uid, state, "asked for" if running else "")
    since = site.cluster.now() - ended
    abandoned = running or since > timedelta(seconds=ABANDONED_S)
    state = f"ended {since.total_seconds() / 60:.0f} min ago and was not taken in"
    return Leftover(site, key, study, uid, state, "abandoned" if abandoned else "")


def _ended_at(job: dict[str, Any] | None, pod: dict[str, Any] | None) -> datetime | None:
    """When the trial ended, None while it may still run."""
    for kind in ("Complete", "Failed"):
        if condition(job, kind).get("status") == "True":
            return moment(condition(job, kind), "lastTransitionTime")
    if pod is not None and (text(pod, "status", "phase") in ("Succeeded", "Failed") or job is None):
        return moment(condition(pod, "Ready"), "lastTransitionTime") or moment(pod, "metadata", "creationTimestamp")
    return None


def remove(leftover: Leftover) -> None:
    """Delete the objects and let go of the pods.

    Raises:
        RuntimeUnusable: the cluster does not answer, or refuses.
    """
    with _said():
        leftover.site.remove(leftover.key)


class _said:  # noqa: N801 - reads as the context it is
    """Turns a refused request into the error a command ends with."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ApiError):
            raise RuntimeUnusable(
                f"the cluster refuses - {error} - check --context, --namespace and k8s/rbac.yaml"
            ) from error
