"""Whether a study's database could be used, found out without changing it."""

from __future__ import annotations

import os

import pytest
import sqlalchemy

from tuner.errors import UsageError
from tuner.study.access import check_access
from tuner.study.lock import acquire
from tuner.study.storage import open_storage


def test_a_file_that_is_not_there_is_not_created(tmp_path):
    said = check_access(f"sqlite:///{tmp_path}/new.db", "mine")

    assert said == f"{tmp_path}/new.db will be created"
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_is_being_searched_names_its_holder(tmp_path):
    address = str(tmp_path / "study.db")
    storage = open_storage(address)
    lock = acquire(storage, "mine")

    with pytest.raises(UsageError, match=rf"being searched by process {os.getpid()}"):
        check_access(address, "mine")
    assert "study other is not being searched" in check_access(address, "other")
    lock.release()
    assert "study mine is not being searched" in check_access(address, "mine")
    storage.close()


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "study.db").write_text("not a database at all")

    with pytest.raises(UsageError, match="is not an SQLite database"):
        check_access(str(tmp_path / "study.db"), "mine")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_file_that_may_not_be_written(tmp_path):
    open_storage(str(tmp_path / "study.db")).close()
    (tmp_path / "study.db").chmod(0o444)

    with pytest.raises(UsageError, match="not writable"):
        check_access(str(tmp_path / "study.db"), "mine")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/studies", "cannot be opened"),
        ("nosuch://me:hunter2@host/studies", "no driver"),
    ],
)
def test_a_database_that_cannot_be_reached_shows_no_password(address, said):
    with pytest.raises(UsageError, match=said) as error:
        check_access(address, "mine")

    assert "hunter2" not in str(error.value)


def tables(url):
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        return set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()


@pytest.mark.postgres
def test_postgresql_is_asked_for_its_lock_and_left_as_it_was(postgres_url):
    before = tables(postgres_url)
    assert "study access is not being searched" in check_access(postgres_url, "access")
    assert tables(postgres_url) == before

    storage = open_storage(postgres_url)
    lock = acquire(storage, "access")
    try:
        with pytest.raises(UsageError, match=rf"being searched by tuner .* pid {os.getpid()}"):
            check_access(postgres_url, "access")
    finally:
        lock.release()
        storage.close()
