"""Fixtures of the study's tests: a database file, and a private PostgreSQL."""

from __future__ import annotations

import os

import pytest
from support.postgres import server, server_programs


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
