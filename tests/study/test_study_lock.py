"""One controller owns a study; whoever is late is fenced."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from support.fake_runtime import FakeCluster
from support.problems import a_problem, measured

from tuner.errors import RuntimeUnusable, UsageError
from tuner.study import lock
from tuner.study.lock import NoLock, Ownership, OwnershipLost, acquire, advisory_key, lock_path
from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.study.writer import Writer


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def address(request, database):
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else database


@pytest.fixture
def storages(address):
    pair = [open_storage(address), open_storage(address)]
    yield pair
    for storage in pair:
        storage.close()


@pytest.fixture
def study(storages):
    name = "owned"
    optuna.create_study(study_name=name, storage=storages[0].backend)
    yield name
    optuna.delete_study(study_name=name, storage=storages[0].backend)


def test_a_second_controller_is_refused_and_told_who_holds_the_study(storages, study):
    first = Ownership(storages[0], study)
    first.begin()
    with pytest.raises(UsageError, match=rf"study {study}: already being searched by .*{os.getpid()}"):
        Ownership(storages[1], study)
    first.check()
    Ownership(storages[1], "another study").release()
    first.release()
    second = Ownership(storages[1], study)
    second.begin()
    assert second.epoch == first.epoch + 1
    second.release()


def test_a_late_controller_is_fenced_by_the_epoch(storages, study):
    """It lost the lock without noticing, as after a long pause or behind a cut network."""
    late = Ownership(storages[0], study)
    late.begin()
    late.release()
    newer = Ownership(storages[1], study)
    newer.begin()
    write = Writer(late)
    with pytest.raises(OwnershipLost, match="took"):
        write("spec", lambda: pytest.fail("a fenced controller wrote"))
    newer.check()
    newer.release()


def test_a_file_that_a_child_of_the_dead_controller_still_holds_is_waited_for(database, tmp_path, monkeypatch):
    """Between fork and exec a child holds all its parent had open."""
    monkeypatch.setattr(lock, "_GRACE_S", 60.0)
    storage = open_storage(database)
    with lock_path(storage.path, "ending").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "0.3"], pass_fds=[held.fileno()])
    acquire(storage, "ending").release()
    assert child.wait() == 0
    storage.close()


@pytest.mark.postgres
def test_a_lock_whose_holder_is_just_ending_is_waited_for(postgres_url, monkeypatch):
    """The server frees the lock of a killed controller a moment after its connection ends."""
    monkeypatch.setattr(lock, "_GRACE_S", 60.0)
    storage, other = open_storage(postgres_url), open_storage(postgres_url)
    ending = acquire(other, "ending")
    timer = threading.Timer(0.3, _cut, [other])
    timer.start()
    acquire(storage, "ending").release()
    timer.join()
    ending.release()
    storage.close()
    other.close()


@pytest.mark.postgres
def test_a_cut_connection_takes_its_lock_again_unless_another_was_faster(postgres_url):
    storage, other = open_storage(postgres_url), open_storage(postgres_url)
    lock = acquire(storage, "cut")
    _cut(other)
    lock.check()
    _cut(other)
    thief = acquire(other, "cut")
    with pytest.raises(OwnershipLost, match="connection was cut"):
        lock.check()
    lock.release()
    thief.release()
    storage.close()
    other.close()


def _cut(storage):
    """End every connection that holds an advisory lock, as a failing network does."""
    with storage.backend.engine.connect() as connection:
        connection.execute(
            sqlalchemy.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'")
        )


def test_other_databases_have_the_epoch_alone():
    lock = NoLock()
    lock.check()
    lock.release()


def test_lock_names_are_per_study(tmp_path):
    database = tmp_path / "s.db"
    assert lock_path(database, "a").name == "s.db.a.lock"
    assert lock_path(database, "a/b").name == "s.db.a_b.lock"
    assert advisory_key("a") != advisory_key("b")
    assert 0 <= advisory_key("a") < 2**63


def test_a_lock_file_that_cannot_be_made_is_a_usage_error(database, tmp_path):
    storage = open_storage(database)
    lock_path(storage.path, "s").mkdir()
    with pytest.raises(UsageError, match="lock file cannot be opened"):
        Ownership(storage, "s")
    storage.close()


def test_a_second_search_of_one_study_is_refused_while_the_first_runs(database):
    cluster = FakeCluster(measured)
    refused = []

    def try_too():
        if refused:
            return
        with pytest.raises(UsageError, match="already being searched"):
            search(a_problem(), database, cluster.controller())
        refused.append(True)

    runtime = cluster.controller()
    runtime.on_poll = try_too
    assert search(a_problem(), database, runtime, poll_s=1e4).exit_reason == "confirmed"
    assert refused


def test_a_fenced_search_ends_without_writing(database):
    cluster = FakeCluster(measured)
    runtime = cluster.controller()

    def take_over():
        storage = open_storage(database)
        study = optuna.load_study(study_name="demo", storage=storage.backend)
        study.set_user_attr("epoch", 99)
        storage.close()

    runtime.on_poll = take_over
    with pytest.raises(OwnershipLost):
        search(a_problem(), database, runtime, poll_s=1e4)
    assert runtime.closed
    storage = open_storage(database)
    study = optuna.load_study(study_name="demo", storage=storage.backend)
    assert [t.state.name for t in study.trials] == ["RUNNING"]
    assert study.user_attrs["exit_reason"] is None
    storage.close()


class _Owner:
    def check(self):
        pass


def test_a_write_is_repeated_while_the_database_is_away():
    waits, answers = [], [StorageInternalError(), sqlalchemy.exc.OperationalError("x", {}, Exception()), "done"]

    def write():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Writer(_Owner(), sleep=waits.append)("tell", write) == "done"
    assert len(waits) == 2


def test_a_database_that_stays_away_makes_the_runtime_unusable():
    def write():
        raise StorageInternalError

    waits = []
    with pytest.raises(RuntimeUnusable, match="did not take `tell`"):
        Writer(_Owner(), sleep=waits.append)("tell", write)
    assert sum(waits) > 300
