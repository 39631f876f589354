"""Single trials of a study, as its database has them. Reads only."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
