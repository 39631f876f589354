"""The command line as a real process in a folder of its own, and the search for what it leaves running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.trials import wait_for

DATA = Path(__file__).parent / "data"
MARK = "TUNER_E2E_TEST"
ENGINE = [sys.executable, "-m", "tuner.simulator", "--accelerator", "mi355x", "--startup-scale", "0", "--world", "1"]
LONGEST_S = 900.0
"""Against hangs alone. A search of half a minute, but on a busy machine all is slow, invalid and repeated."""


class Folder:
    """A user's folder: a space file, the study, and every process started from here."""

    def __init__(self, path):
        self.path = path
        self.space = path / "tiny.yaml"
        self.engine = [*ENGINE, "--architecture", str(path / "tiny-model.json"), "--precision", "bf16"]
        for name in ("tiny.yaml", "tiny-model.json"):
            shutil.copy(DATA / name, path)
        # Without coverage: it would slow the load client down, which makes measurements invalid.
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
        self.env |= {MARK: str(path), "PATH": f"{path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.env.pop("TUNER_STORAGE", None)

    def edit(self, *edits):
        text = self.space.read_text()
        for old, new in edits:
            assert old in text, old
            text = text.replace(old, new, 1)
        self.space.write_text(text)

    def begin(self, *args):
        """Start `tuner ARGS`, in a session of its own as a shell does; its progress goes to `err`."""
        command = [sys.executable, "-c", "from tuner.cli import main; main()", *map(str, args)]
        with (self.path / "out").open("w") as out, (self.path / "err").open("w") as err:
            return subprocess.Popen(
                command, cwd=self.path, env=self.env, stdout=out, stderr=err, start_new_session=True
            )

    def tuner(self, *args, code=0):
        """Run `tuner ARGS` to its end; what it printed."""
        child = self.begin(*args)
        with suppress(subprocess.TimeoutExpired):
            child.wait(LONGEST_S)
        assert child.poll() == code, self.err
        return (self.path / "out").read_text()

    def json(self, *args, code=0):
        return json.loads(self.tuner(*args, "--json", code=code))

    @property
    def err(self):
        return (self.path / "err").read_text()

    def left(self):
        """Processes that were started from here and still run: pid -> command line."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self.path}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def wait_until_loaded(self):
        """Until the engine of the running trial has requests of the load in it."""

        def running():
            for line in self.left().values():
                if found := re.search(r"tuner\.simulator .*--port[= ](\d+)", line):
                    with suppress(OSError), urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=5) as answer:
                        counts = re.findall(r"^sglang:num_running_reqs\S* (\S+)", answer.read().decode(), re.MULTILINE)
                        return sum(map(float, counts)) >= 2
            return False

        wait_for(running, "an engine under load", 180.0)


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    yield made
    for pid in made.left():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
