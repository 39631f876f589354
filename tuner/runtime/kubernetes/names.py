"""What our objects in a cluster are called: names, labels, annotations, containers and paths. Pure."""

from __future__ import annotations

import hashlib
import json
import re

from tuner.trial.spec import TrialSpec

MOST_CHARS = 52
"""Of a Job's name: pods append a suffix, and some controllers another one; 63 is the limit of a label."""

LABEL_STUDY = "sglang-tuner/study-uid"
LABEL_STUDY_NAME = "sglang-tuner/study"
LABEL_TRIAL = "sglang-tuner/trial"
LABEL_ATTEMPT = "sglang-tuner/attempt"
LABEL_POOL = "sglang-tuner/pool"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "sglang-tuner"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
FINALIZER = "sglang-tuner/harvest"

ANNOTATION_SPEC = "sglang-tuner/spec"
ANNOTATION_SPEC_SHA256 = "sglang-tuner/spec-sha256"

CONTAINER = "trial"
INIT_CONTAINER = "tuner"

_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_OWNER_CHARS = 6


def job_name(spec: TrialSpec) -> str:
    """`<study>-<trial>-<fingerprint>-<attempt>-<owner>`: the same trial has the same name, another one never has it.

    Two users of one space file have trials of the same id: the owner, six characters of the study's uid, keeps them
    apart in one namespace.
    """
    tail = f"-{spec.attempt}{_owner(str(spec.context.get('study_uid', '')))}"
    if _DNS_LABEL.fullmatch(spec.id) and len(spec.id) + len(tail) <= MOST_CHARS:
        return f"{spec.id}{tail}"
    tail = f"-{_digest(spec.id)[:8]}{tail}"
    room = MOST_CHARS - len(tail)
    return f"{_slug(spec.id)[:room].strip('-') or 'trial'}{tail}"


def _owner(study_uid: str) -> str:
    return f"-{_digest(study_uid)[:_OWNER_CHARS]}" if study_uid else ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-0123456789")


def label_value(text: str) -> str:
    """The text as a label may hold it: for people who select by it, not for identity."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:63].strip("-_.")


def selector(study_uid: str) -> str:
    """Selects every object of one study."""
    return f"{LABEL_STUDY}={study_uid}"


def spec_text(spec: TrialSpec) -> str:
    """The specification as it travels in the pod's annotation: canonical, ASCII."""
    return json.dumps(spec.as_json(), sort_keys=True, separators=(",", ":"))


def spec_sha256(spec: TrialSpec) -> str:
    """What tells a Job of this very specification from another one of its name."""
    return _digest(spec_text(spec))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
