"""What every test shares: no deadline per example, and SQLite that does not wait for the disk."""

from __future__ import annotations

import os

# Before NumPy is loaded: the matrices here are small, and threads of every worker would fight over the same cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
import sqlalchemy.event
from hypothesis import settings
from sqlalchemy.engine import Engine

settings.register_profile("no-deadline", deadline=None)  # shared cores: time per example says nothing
settings.load_profile("no-deadline")


def _do_not_wait_for_the_disk(connection, _record):
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(autouse=True)
def _fast_sqlite():
    """The tests end processes, not machines: nothing here depends on fsync."""
    sqlalchemy.event.listen(Engine, "connect", _do_not_wait_for_the_disk)
    yield
    sqlalchemy.event.remove(Engine, "connect", _do_not_wait_for_the_disk)
