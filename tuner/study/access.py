"""Whether a search could use a study's database now: reachable, writable, and not owned by another controller.

Creates nothing and changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from tuner.errors import UsageError
from tuner.study.lock import AdvisoryLock, FileLock, lock_path
from tuner.study.storage import open_storage, reachable_engine, sqlite_file


def check_access(address: str, study: str) -> str:
    """What is there, for people.

    Raises:
        UsageError: a search would be refused, and why.
    """
    path = sqlite_file(address)
    if path is not None:
        return _check_file(path, study)
    engine = reachable_engine(address)
    try:
        label = engine.url.render_as_string(hide_password=True)
        if engine.dialect.name != "postgresql":
            return f"{label} answers; it has no lock we know: run one search of a study at a time"
        AdvisoryLock(engine, study).release()
        return f"{label} answers, and study {study} is not being searched"
    finally:
        engine.dispose()


def _check_file(path: Path, study: str) -> str:
    if not path.exists():
        return f"{path} will be created"
    open_storage(str(path), must_exist=True).close()
    if not os.access(path, os.W_OK):
        raise UsageError(f"{path}: is not writable; correct its permissions or choose another file")
    lock = lock_path(path, study)
    if lock.exists():
        FileLock(lock, study).release()
    return f"{path} is there, and study {study} is not being searched"
