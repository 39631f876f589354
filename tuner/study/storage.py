"""Opens the database of studies by URL or path, with timeouts, or says in one line why it cannot.

Knows nothing of trials. Passwords in URLs are never shown. Optuna's own logging is silenced here: what happens is
told by our events.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, Engine, make_url

from tuner.errors import UsageError

_SQLITE_BUSY_S = 60.0  # a reader (status, report) holds the file for milliseconds; a backup for seconds
_CONNECT_S = 10
_STATEMENT_MS = 60_000
_OPENINGS = 20  # a database is made once, in a fraction of a second
_OPENING_PAUSE_S = 0.1
_SQLITE_MAGIC = b"SQLite format 3\x00"

# File systems whose locks SQLite cannot trust (sqlite.org/faq.html#q5, sqlite.org/lockingv3.html).
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "orangefs", "ocfs2", "gfs2"}
    | {"glusterfs", "davfs", "wekafs"}
)
_NETWORK_FUSE = ("sshfs", "gluster", "ceph", "s3", "gcsfuse", "blobfuse", "juicefs", "rclone", "davfs", "mountpoint")


@dataclass(frozen=True, slots=True)
class Storage:
    """An open database of studies. `label` is its address without a password; `path` is set for SQLite."""

    backend: RDBStorage
    label: str
    path: Path | None

    @property
    def dialect(self) -> str:
        return self.backend.engine.dialect.name

    @contextmanager
    def one_commit(self) -> Iterator[None]:
        """What Optuna writes within, on this thread, is committed at once at the end, or not at all.

        Optuna commits after every attribute, and a disk takes tens of milliseconds for each.
        """
        sessions = self.backend.scoped_session
        sessions.remove()
        with self.backend.engine.begin() as connection:
            sessions(bind=connection, join_transaction_mode="rollback_only")
            try:
                yield
            finally:
                sessions.remove()

    def close(self) -> None:
        """Give back every connection."""
        self.backend.scoped_session.remove()
        self.backend.engine.dispose()


def silence_optuna() -> None:
    """Keep Optuna's log lines and tracebacks off the terminal."""
    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def open_storage(address: str, *, must_exist: bool = False) -> Storage:
    """Open `sqlite:///file`, a bare path, `postgresql://...` or any other SQLAlchemy URL.

    Raises:
        UsageError: it cannot be opened; nothing was created.
    """
    silence_optuna()
    url = _parse(address)
    path = _sqlite_path(url)
    if path is not None:
        _check_sqlite_file(path, must_exist=must_exist)
    label = url.render_as_string(hide_password=True)
    try:
        backend = _backend(url)
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as exc:
        raise UsageError(f"{label}: no driver for this database; {_driver_hint(url)}") from exc
    except sqlalchemy.exc.SQLAlchemyError as exc:
        raise UsageError(f"{label}: cannot be opened: {_first_line(exc, url)}") from exc
    except RuntimeError as exc:
        raise UsageError(f"{label}: {_first_line(exc, url)}; run `optuna storage upgrade` on a copy of it") from exc
    return Storage(backend, label, path)


class _Backend(RDBStorage):
    """Optuna's, which gives its connections back also where opening it fails half-way."""

    def __init__(self, url: str, **options: Any) -> None:
        try:
            super().__init__(url, **options)
        except BaseException:
            if hasattr(self, "scoped_session"):
                self.scoped_session.remove()
                self.engine.dispose()
            raise


def _backend(url: URL) -> RDBStorage:
    """Optuna looks which of its tables are missing and then makes them: whoever else does so meanwhile fails."""
    for attempt in range(1, _OPENINGS + 1):
        try:
            return _Backend(url.render_as_string(hide_password=False), engine_kwargs=_engine_options(url))
        except sqlalchemy.exc.DBAPIError as exc:
            if attempt == _OPENINGS or not _made_meanwhile(exc):
                raise
            time.sleep(_OPENING_PAUSE_S)
    raise AssertionError("the loop above returns or raises")


def _made_meanwhile(exc: sqlalchemy.exc.DBAPIError) -> bool:
    return isinstance(exc, sqlalchemy.exc.IntegrityError) or "already exists" in str(exc.orig)


def reachable_engine(address: str) -> Engine:
    """Connect to a database that is not SQLite and change nothing in it; the caller disposes of it.

    Raises:
        UsageError: it cannot be reached.
    """
    url = _parse(address)
    label = url.render_as_string(hide_password=True)
    try:
        engine = sqlalchemy.create_engine(url, **_engine_options(url))
        engine.connect().close()
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as exc:
        raise UsageError(f"{label}: no driver for this database; {_driver_hint(url)}") from exc
    except sqlalchemy.exc.SQLAlchemyError as exc:
        raise UsageError(f"{label}: cannot be opened: {_first_line(exc, url)}") from exc
    return engine


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite address, whether it is there or not, checked as far as its place allows; None: not SQLite.

    Raises:
        UsageError: no study could be kept there.
    """
    path = _sqlite_path(_parse(address))
    if path is not None:
        _check_sqlite_file(path, must_exist=False)
    return path


def _parse(address: str) -> URL:
    if "://" not in address:
        return make_url(f"sqlite:///{Path(address).expanduser().absolute()}")
    try:
        url = make_url(address)
    except sqlalchemy.exc.ArgumentError:
        raise UsageError(
            "the storage address is not a URL; give a file path, sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from None  # the cause would repeat the address with its password
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    return url


def _sqlite_path(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise UsageError("a study in memory could never be resumed: give a file, for example sqlite:///study.db")
    return Path(url.database)


def _check_sqlite_file(path: Path, *, must_exist: bool) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{path}: the directory {parent} does not exist; create it or choose another file")
    filesystem = network_filesystem(_mounts(), path.resolve())
    if filesystem:
        raise UsageError(
            f"{path}: lies on a network file system ({filesystem}), where SQLite's locks cannot be trusted; "
            "use a local file or a postgresql:// address"
        )
    if not path.exists():
        if must_exist:
            raise UsageError(f"{path}: no such study database; check the path, or start one with `tuner search`")
        if not os.access(parent, os.W_OK):
            raise UsageError(f"{path}: the directory {parent} is not writable")
        return
    _check_existing(path)


def _check_existing(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path}: is not a file")
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from exc
    if head and head != _SQLITE_MAGIC:
        raise UsageError(f"{path}: is not an SQLite database; it was left untouched")


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: nothing is known, so nothing is refused
        return ""


def network_filesystem(mounts: str, path: Path) -> str | None:
    """The type of the network file system the absolute path lies on, or None. `mounts` is /proc/mounts."""
    found, depth = "", -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        mount = Path(_unescape(fields[1]))
        # The last of equally deep mounts hides the earlier ones.
        if (path == mount or mount in path.parents) and len(mount.parts) >= depth:
            found, depth = fields[2], len(mount.parts)
    return found if _is_network(found) else None


def _is_network(filesystem: str) -> bool:
    kind, _, fuse = filesystem.partition(".")
    return kind in _NETWORK_FILE_SYSTEMS or (kind == "fuse" and any(name in fuse for name in _NETWORK_FUSE))


def _unescape(mount: str) -> str:
    r"""/proc/mounts writes space, tab, newline and backslash as octal (\040 ...)."""
    for escaped, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mount = mount.replace(escaped, plain)
    return mount


def _engine_options(url: URL) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": _SQLITE_BUSY_S}}
    options: dict[str, Any] = {"pool_pre_ping": True, "pool_timeout": 30}
    if backend == "postgresql":
        options["connect_args"] = {
            "connect_timeout": _CONNECT_S,
            "options": f"-c statement_timeout={_STATEMENT_MS}",
            "keepalives_idle": 30,
            "application_name": "tuner",
        }
    elif backend in ("mysql", "mariadb"):
        options["connect_args"] = {"connect_timeout": _CONNECT_S}
    return options


def _driver_hint(url: URL) -> str:
    if url.get_backend_name() == "postgresql":
        return "install it with `pip install 'sglang-tuner[postgres]'`"
    return f"install the driver of {url.drivername}, or use SQLite or PostgreSQL"


def _first_line(exc: Exception, url: URL) -> str:
    cause = getattr(exc, "orig", None) or exc
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0].replace(url.password, "***") if url.password else lines[0]
