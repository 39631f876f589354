"""A private PostgreSQL server on a Unix socket, for tests marked `postgres`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVER_USER = "postgres"  # initdb refuses root
_START_S = 60


def server_programs() -> Path | None:
    """The newest installed server's bin directory, or None."""
    found = [p for p in Path("/usr/lib/postgresql").glob("*/bin") if (p / "initdb").exists()]
    if found:
        return max(found, key=lambda p: float(p.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """Start a server in a new directory; yields the URL of its `postgres` database."""
    home = Path(tempfile.mkdtemp(prefix="tuner-pg-"))  # short: a socket's path is limited to 107 bytes
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["setpriv", f"--reuid={_SERVER_USER}", f"--regid={_SERVER_USER}", "--clear-groups"]
        shutil.chown(home, _SERVER_USER, _SERVER_USER)
    data = home / "data"
    run = [*as_user, f"{programs}/initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync"]
    control = [*as_user, f"{programs}/pg_ctl", "-D", str(data), "-w", "-t", str(_START_S)]
    options = f"-c listen_addresses='' -k {home} -c fsync=off"
    try:
        subprocess.run(run, check=True, capture_output=True, timeout=_START_S, cwd=home)
        log = str(home / "log")
        subprocess.run(
            [*control, "-l", log, "-o", options, "start"],
            check=True,
            timeout=_START_S,
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"postgresql://postgres@/postgres?host={home}"
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"],
                check=False,
                timeout=_START_S,
                cwd=home,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
    finally:
        shutil.rmtree(home, ignore_errors=True)
