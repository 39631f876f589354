"""Headless Chromium for tests of pages: a screenshot, the console's errors, and every address that was asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 90
_QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
]


@dataclass(frozen=True)
class Rendered:
    """What came of a page. `requests` are the addresses the page itself asked for."""

    dom: str
    console: list[str]
    requests: list[str]


def browser() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def render(page: Path, folder: Path, *flags: str, size: str = "1280,5200", shot: Path | None = None) -> Rendered:
    """Load a file, let it settle, read it back; with `shot` also take its picture."""
    program = browser()
    assert program is not None
    net, profile = folder / "net.json", folder / "profile"
    what = [f"--screenshot={shot}"] if shot else ["--dump-dom"]
    command = [
        program, *_QUIET, f"--user-data-dir={profile}", f"--window-size={size}", f"--log-net-log={net}", *flags,
        *what, page.as_uri(),
    ]  # fmt: skip
    environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=True)
    shutil.rmtree(profile, ignore_errors=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Rendered(done.stdout, console, _requests(net))


def _requests(net: Path) -> list[str]:
    """Addresses in the log of the network, but for those the browser itself asks for at every start."""
    text = net.read_text()
    try:
        events = json.loads(text)["events"]
    except ValueError:  # the browser was faster than its log: the last event may be cut
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    found = [e.get("params", {}) for e in events]
    urls = [p["url"] for p in found if "url" in p and str(p.get("initiator", "")).startswith(("file", "null"))]
    return sorted(set(urls))
