from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy.event
from sqlalchemy.engine import Engine

from tuner.errors import UsageError
from tuner.study.storage import network_filesystem, open_storage

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/me/scratch tmpfs rw 0 0
//share/x /mnt/with\\040space cifs rw 0 0
lustre /lus lustre rw 0 0
me@host: /remote fuse.sshfs rw 0 0
app /app fuse.appimage rw 0 0
tmpfs /twice tmpfs rw 0 0
server:/twice /twice nfs rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/var/study.db", None),
        ("/home/me/study.db", "nfs4"),
        ("/home/me/scratch/study.db", None),
        ("/homes/study.db", None),
        ("/mnt/with space/study.db", "cifs"),
        ("/lus/a/b", "lustre"),
        ("/remote/x", "fuse.sshfs"),
        ("/app/x", None),
        ("/twice/x", "nfs"),
    ],
)
def test_a_network_file_system_is_found_by_the_deepest_mount(path, found):
    assert network_filesystem(MOUNTS, Path(path)) == found


@pytest.mark.parametrize("form", ["{}/study.db", "sqlite:///{}/study.db"])
def test_a_path_and_its_url_are_the_same_database(tmp_path, form):
    storage = open_storage(form.format(tmp_path))
    assert storage.path == tmp_path / "study.db"
    assert storage.dialect == "sqlite"
    storage.close()
    open_storage(str(tmp_path / "study.db"), must_exist=True).close()


def test_nothing_is_created_by_a_refusal(tmp_path):
    with pytest.raises(UsageError, match="no such study database"):
        open_storage(str(tmp_path / "study.db"), must_exist=True)
    with pytest.raises(UsageError, match=r"directory .*absent does not exist"):
        open_storage(str(tmp_path / "absent" / "study.db"))
    assert list(tmp_path.iterdir()) == []


def test_another_files_content_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, not a database")
    with pytest.raises(UsageError, match="not an SQLite database"):
        open_storage(str(path))
    assert path.read_text() == "these are my notes, not a database"
    with pytest.raises(UsageError, match="is not a file"):
        open_storage(str(tmp_path))


def test_a_damaged_database_is_a_usage_error(tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 2000)
    with pytest.raises(UsageError, match=r"study\.db: cannot be opened"):
        open_storage(str(path))


def test_a_database_of_another_optuna_is_refused(tmp_path):
    path = tmp_path / "study.db"
    open_storage(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v0.0.1'")
    connection.close()
    with pytest.raises(UsageError, match="optuna storage upgrade") as caught:
        open_storage(str(path))
    assert caught.value.__cause__ is not None  # what it refers to is still there, and yet:
    assert str(path) not in open_files(), "a refused database is left open"


def open_files():
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(link.readlink()))
    return found


def made_while_another_comes(address, at):
    """Make the database; another opens it right before the write with the number `at`. How many writes there were."""
    writes, visitors = [], []

    def before(_connection, _cursor, statement, *_):
        if not visitors and statement.lstrip().startswith(("CREATE", "INSERT")):
            writes.append(statement)
            if len(writes) == at:
                visitors.append("now")
                visitors.append(open_storage(address))

    sqlalchemy.event.listen(Engine, "before_cursor_execute", before)
    try:
        storage = open_storage(address)
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", before)
    for one in (storage, *visitors[1:]):
        assert one.backend.get_all_studies() == []
        one.close()
    return len(writes)


def test_a_status_asked_for_while_the_search_makes_its_database_disturbs_neither(tmp_path):
    """Optuna looks which tables are missing and then makes them: whoever comes between finds them made."""
    count = made_while_another_comes(str(tmp_path / "alone.db"), 0)
    assert count > 10
    for at in (1, count // 2, count):
        assert made_while_another_comes(str(tmp_path / f"{at}.db"), at) == at


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_study_in_memory_is_refused(address):
    with pytest.raises(UsageError, match="never be resumed"):
        open_storage(address)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:s3cret@127.0.0.1:1/db",
        "postgres://me:s3cret@127.0.0.1:1/db",
        "nonsense://me:s3cret@host/db",
        "mysql+absent://me:s3cret@host/db",
        "://me:s3cret@host",
    ],
)
def test_no_message_shows_a_password(address):
    with pytest.raises(UsageError) as caught:
        open_storage(address)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__suppress_context__ or caught.value.__cause__)


@pytest.mark.postgres
def test_postgresql_opens_with_our_driver(postgres_url):
    storage = open_storage(postgres_url)
    assert storage.dialect == "postgresql"
    assert storage.path is None
    storage.close()
