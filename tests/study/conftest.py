"""Fixtures of the study's tests: SQLite without waiting for the disk, and a private PostgreSQL."""

from __future__ import annotations

import os

import pytest
import sqlalchemy.event
from sqlalchemy.engine import Engine
from support.postgres import server, server_programs


def _do_not_wait_for_the_disk(connection, _record):
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def _fast_sqlite():
    """The tests end processes, not machines: nothing here depends on fsync."""
    sqlalchemy.event.listen(Engine, "connect", _do_not_wait_for_the_disk)
    yield
    sqlalchemy.event.remove(Engine, "connect", _do_not_wait_for_the_disk)


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture(scope="session")
def postgres_url():
    programs = server_programs()
    if programs is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have PostgreSQL's server programs installed")
        pytest.skip("PostgreSQL's server programs are not installed")
    with server(programs) as url:
        yield url
