"""Single trials of a study, as its database has them. Reads only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import optuna

from tuner.errors import UsageError
from tuner.study.confirm import sibling
from tuner.study.history import PastTrial, read_history
from tuner.study.storage import Storage, open_storage
from tuner.study.summary import only_study, study_names


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study's uid, its trials in order, and its confirmations."""

    name: str
    uid: str
    trials: tuple[PastTrial, ...]
    confirmations: tuple[PastTrial, ...]

    def stored(self, asked: str) -> StoredTrial:
        """The trial with what identifies it; see `trial`."""
        trial = self.trial(asked)
        return StoredTrial(self.uid, str((trial.spec or {}).get("id") or asked), trial)

    def trial(self, asked: str) -> PastTrial:
        """By number (`17`), by number of a confirmation (`c3`), or by id; of an id's attempts the stored one.

        Raises:
            UsageError: there is no such trial.
        """
        for trial in (*self.trials, *self.confirmations):
            if (trial.spec or {}).get("id") == asked:
                return trial
        found = re.fullmatch(r"(c?)(\d+)", asked)
        numbered = self.confirmations if found and found[1] else self.trials
        if found and int(found[2]) < len(numbered):
            return numbered[int(found[2])]
        last = f"0 to {len(self.trials) - 1}" if self.trials else "none"
        confirmed = f", confirmations c0 to c{len(self.confirmations) - 1}" if self.confirmations else ""
        raise UsageError(f"study {self.name} has no trial {asked}; its trials: {last}{confirmed}")


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """One trial, whose `document` is all there is for people: no seed, no prompt, no stored specification."""

    study_uid: str
    trial_id: str
    trial: PastTrial

    @property
    def ending(self) -> str:
        """What is left of its log once its pod is gone."""
        failure = (self.trial.result or {}).get("failure") or {}
        said = f"trial {self.trial_id}: {self.trial.state}"
        said += f" - {self.trial.failure}" if self.trial.failure else ""
        tail = str(failure.get("log_tail") or "").rstrip()
        return f"{said} (it has no pod any more)" + (f"; the end of its engine's log:\n{tail}" if tail else "")

    @property
    def document(self) -> dict[str, Any]:
        result, spec = self.trial.result or {}, self.trial.spec or {}
        failure = result.get("failure") or {}
        return {
            "trial": self.trial.number,
            "id": self.trial_id,
            "state": self.trial.state,
            "simulated": bool(result.get("simulated", spec.get("simulated"))),
            "origin": self.trial.origin,
            "proposal": dict(self.trial.proposal),
            "attempt": self.trial.attempt,
            "same_as": self.trial.same_as,
            "config": dict(self.trial.config_json),
            "argv": list(spec.get("argv") or []),
            "env": dict(spec.get("env") or {}),
            "image": spec.get("image"),
            "image_digest": result.get("image_digest"),
            "node": result.get("node"),
            "usd_per_million_output_tokens": self.trial.usd_per_million,
            "at_least_usd_per_million_output_tokens": self.trial.bound_usd_per_million,
            "constraints": dict(self.trial.constraints),
            "capacity_req_per_s": self.trial.capacity_req_per_s,
            "ttft_p95_s": self.trial.ttft_p95_s,
            "output_tokens_per_s": result.get("output_tokens_per_s"),
            "start_up_s": result.get("start_up_s"),
            "gpu_seconds": result.get("gpu_seconds"),
            "levels": list(result.get("levels") or []),
            "measurement": dict(result.get("measurement") or {}),
            "effective": dict(result.get("effective") or {}),
            "client": dict(result.get("client") or {}),
            "versions": dict(result.get("versions") or {}),
            "failure": {key: failure[key] for key in ("class", "kind", "message") if failure.get(key)},
            "log_tail": failure.get("log_tail"),
        }


def read_study(storage_url: str, name: str | None) -> StoredStudy:
    """Open a database, read one study, close it.

    Raises:
        UsageError: no such database or study, or several studies and no name.
    """
    storage = open_storage(storage_url, must_exist=True)
    try:
        return _read(storage, name or only_study(storage))
    finally:
        storage.close()


def _read(storage: Storage, name: str) -> StoredStudy:
    known = study_names(storage)
    if name not in known:
        raise UsageError(f"{storage.label}: no study {name}; it holds {', '.join(known) or 'none'}")
    study = optuna.load_study(study_name=name, storage=storage.backend)
    confirmations: tuple[PastTrial, ...] = ()
    if sibling(name) in optuna.get_all_study_names(storage.backend):
        confirmations = tuple(read_history(optuna.load_study(study_name=sibling(name), storage=storage.backend)))
    return StoredStudy(name, str(study.user_attrs.get("uid", "")), tuple(read_history(study)), confirmations)


def image_digests(storage_url: str, name: str) -> dict[str, str]:
    """Which digest each image was when it first ran in the study; nothing for a study that is not there yet."""
    try:
        stored = read_study(storage_url, name)
    except UsageError:
        return {}
    digests: dict[str, str] = {}
    for trial in (*stored.trials, *stored.confirmations):
        digest = str((trial.result or {}).get("image_digest") or "")
        image = str((trial.spec or {}).get("image") or "")
        if digest and image and trial.failure_kind != "image_changed":
            digests.setdefault(image, digest)
    return digests
