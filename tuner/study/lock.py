"""One controller owns ask and tell of a study: a lock that dies with its process, and an epoch that fences a late one.

SQLite: `flock` on a file beside the database. PostgreSQL: an advisory lock on a connection of its own. Any other
database: the epoch alone. Knows nothing of trials.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.engine import Connection, Engine

from tuner.errors import EXIT_RUNTIME_UNUSABLE, TunerError, UsageError
from tuner.study.storage import Storage

EPOCH = "epoch"
"""Study attribute: how many controllers have owned the study so far."""


_APPLICATION_NAME_BYTES = 63  # PostgreSQL cuts longer names (NAMEDATALEN - 1)
_GRACE_S = 2.0
_RETRY_S = 0.05


class OwnershipLost(TunerError):  # noqa: N818 - reads as the state it reports
    """Another controller took the study over; this one must not write any more."""

    exit_code = EXIT_RUNTIME_UNUSABLE


class Lock(Protocol):
    """Held from construction until `release`, or until this process dies."""

    def check(self) -> None:
        """Raise `OwnershipLost` when it is no longer held."""

    def release(self) -> None: ...


def acquire(storage: Storage, study_name: str) -> Lock:
    """Take the study's lock.

    Raises:
        UsageError: another controller holds it.
    """
    if storage.path is not None:
        return FileLock(lock_path(storage.path, study_name), study_name)
    if storage.dialect == "postgresql":
        return AdvisoryLock(storage.backend.engine, study_name)
    return NoLock()


def lock_path(database: Path, study_name: str) -> Path:
    """`<database>.<study>.lock`, beside the database."""
    return database.with_name(f"{database.name}.{re.sub(r'[^A-Za-z0-9._-]', '_', study_name)}.lock")


def _within_grace(try_lock: Callable[[], bool]) -> bool:
    """Try for `_GRACE_S`: a holder that was just killed may hold its lock for a moment longer.

    A server has to notice that its connection is gone; a file is held until a process that was being started by the
    dead one is its own program.
    """
    give_up_s = time.monotonic() + _GRACE_S
    while not try_lock():
        if time.monotonic() >= give_up_s:
            return False
        time.sleep(_RETRY_S)
    return True


class FileLock:
    """`flock` on a file: released by the kernel however the process ends. The file stays; its content is a hint."""

    def __init__(self, path: Path, study_name: str) -> None:
        try:
            self._file: IO[str] = path.open("a+", encoding="utf-8")
        except OSError as exc:
            raise UsageError(f"{path}: the study's lock file cannot be opened: {exc.strerror}") from exc
        if not _within_grace(self._try_lock):
            holder = _holder(self._file)
            self._file.close()
            raise _in_use(study_name, holder)
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname()}, self._file)
        self._file.flush()

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def check(self) -> None:
        """A file lock cannot be lost while the process lives."""

    def release(self) -> None:
        self._file.close()


def _holder(file: IO[str]) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        file.seek(0)
        doc = json.load(file)
        return f"process {doc['pid']} on {doc['host']}"
    return "another process"


def _in_use(study_name: str, holder: str) -> UsageError:
    return UsageError(
        f"study {study_name}: already being searched by {holder}; wait for it, stop it, or choose another study name"
    )


class AdvisoryLock:
    """A PostgreSQL advisory lock: released by the server when the connection ends."""

    def __init__(self, engine: Engine, study_name: str) -> None:
        self._engine = engine
        self._study = study_name
        self._key = advisory_key(study_name)
        self._connection: Connection | None = None
        if not self._take():
            raise _in_use(study_name, self._find_holder())

    def _take(self) -> bool:
        return _within_grace(self._try_lock)

    def _try_lock(self) -> bool:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # A connection of its own: not the pool's, so that nobody else ever gets it back.
        connection.detach()
        try:
            held = self._ask_for(connection)
        except BaseException:
            connection.close()
            raise
        if not held:
            connection.close()
            return False
        self._connection = connection
        return True

    def _ask_for(self, connection: Connection) -> bool:
        name = f"tuner {socket.gethostname()} pid {os.getpid()}"[:_APPLICATION_NAME_BYTES]
        connection.execute(sqlalchemy.text("SELECT set_config('application_name', :name, false)"), {"name": name})
        return bool(
            connection.execute(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}).scalar()
        )

    def _find_holder(self) -> str:
        query = sqlalchemy.text(
            "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
            "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
            "AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
        )
        with suppress(sqlalchemy.exc.SQLAlchemyError), self._engine.connect() as connection:
            name = connection.execute(query, {"key": self._key}).scalar()
            if name:
                return str(name)
        return "another process"

    def check(self) -> None:
        """Still held? A cut connection lost it: take it again, unless somebody else was faster."""
        if self._connection is not None:
            try:
                self._connection.execute(sqlalchemy.text("SELECT 1"))
            except sqlalchemy.exc.SQLAlchemyError:
                self._drop()
            else:
                return
        if not self._take():
            raise OwnershipLost(
                f"study {self._study}: the database connection was cut and {self._find_holder()} took the study over; "
                "this search stops without writing"
            )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.invalidate()
            with suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.close()

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.execute(sqlalchemy.text("SELECT pg_advisory_unlock(:key)"), {"key": self._key})
            with suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.close()


class NoLock:
    """For databases without a lock we know: the epoch alone fences."""

    def check(self) -> None:
        """Nothing to lose."""

    def release(self) -> None:
        """Nothing to give back."""


def advisory_key(study_name: str) -> int:
    """63 bits of SHA-256 of the name, in a name space of ours; advisory locks are per database."""
    digest = hashlib.sha256(f"sglang-tuner/{study_name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Ownership:
    """The right to write one study: the lock and the epoch it was taken at."""

    def __init__(self, storage: Storage, study_name: str) -> None:
        self._storage = storage
        self._study_name = study_name
        self._lock = acquire(storage, study_name)
        self._study_id: int | None = None
        self.epoch = 0

    def begin(self) -> None:
        """Raise the epoch of the study, which exists by now: whoever held an older one is fenced."""
        backend = self._storage.backend
        self._study_id = backend.get_study_id_from_name(self._study_name)
        self.epoch = self._stored() + 1
        backend.set_study_user_attr(self._study_id, EPOCH, self.epoch)

    def check(self) -> None:
        """Call before every write.

        Raises:
            OwnershipLost: a newer controller owns the study.
        """
        self._lock.check()
        if self._study_id is not None and (newer := self._stored()) != self.epoch:
            raise OwnershipLost(
                f"study {self._study_name}: another controller took it over (epoch {newer}, ours was {self.epoch}); "
                "this search stops without writing"
            )

    def _stored(self) -> int:
        assert self._study_id is not None
        return int(self._storage.backend.get_study_user_attrs(self._study_id).get(EPOCH, 0))

    def release(self) -> None:
        self._lock.release()
