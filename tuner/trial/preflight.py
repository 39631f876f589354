"""The engine's command line put to the engine's own argument parser, without starting the engine.

Importing sglang takes as long here as in the engine, which then checks the same line first: worth it only while there
is something else to wait for. An import that fails, an unknown way to start it or a slow answer mean nothing at all.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tuner.trial.engine_log import read_end
from tuner.trial.family import ProcessFamily

LOG_NAME = "preflight.log"
# argparse's own; whatever keeps the parser from being asked ends with 0.
_REFUSED = 2
_SCRIPT = """
import argparse, sys
try:
    from sglang.srt.server_args import ServerArgs
    parser = argparse.ArgumentParser(prog="sglang")
    ServerArgs.add_cli_args(parser)
except BaseException:
    sys.exit(0)
parser.parse_args(sys.argv[1:])
"""
_PYTHON = re.compile(r"(?:.*/)?python[\d.]*")
_MODULE = "sglang.launch_server"
# These are read before the parser sees the line, by code that is not asked here.
_READ_BEFORE = ("--config", "--model-type")


def parser_command(argv: Sequence[str]) -> list[str] | None:
    """The command that asks the parser about this command line, or None where it is not known how."""
    if any(item.partition("=")[0] in _READ_BEFORE for item in argv):
        return None
    if len(argv) > 2 and _PYTHON.fullmatch(argv[0]) and list(argv[1:3]) == ["-m", _MODULE]:
        return [argv[0], "-c", _SCRIPT, *argv[3:]]
    if len(argv) > 1 and Path(argv[0]).name == "sglang" and argv[1] == "serve":
        python = _interpreter(argv[0])
        return [python, "-c", _SCRIPT, *argv[2:]] if python else None
    return None


def _interpreter(script: str) -> str:
    """The Python that an installed program names in its first line, or ""."""
    found = shutil.which(script)
    with suppress(OSError):
        if found:
            with Path(found).open("rb") as file:
                first = file.readline(500).decode(errors="replace").strip()
            return first[2:] if first.startswith("#!") and _PYTHON.fullmatch(first[2:]) else ""
    return ""


class Preflight:
    """The question, while it is being answered; `end` whatever came of it."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], workdir: Path, *, mark: str) -> None:
        """Ask.

        Raises:
            OSError: the interpreter cannot be started.
        """
        self._log = workdir / LOG_NAME
        with self._log.open("wb") as log:
            self._family = ProcessFamily(
                command, env, mark=mark, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def refusal(self) -> str | None:
        """What the parser printed if it refused the line; "" if it did not; None while it is not known."""
        code = self._family.exit_code()
        if code is None:
            return None
        return read_end(self._log) if code == _REFUSED else ""

    def end(self) -> None:
        self._family.kill()
        self._log.unlink(missing_ok=True)
