"""`launch.py` of the bundle: runs `tuner.trial` under whatever CPython 3.10 to 3.13 a serving image has, as PID 1.

    python3 -I -S -B launch.py ARGUMENTS OF tuner.trial

Picks the compiled packages of this interpreter and touches nothing else: the engine must find the environment as the
image made it. Standard library only; importable without the rest of the project.
"""

from __future__ import annotations

import os
import signal
import sys

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

if __name__ == "__main__":
    # PID 1 of a container ignores what it has no handler for, and the imports take their time: a blocked signal waits
    # until `tuner.trial` has set its handlers and lets it through.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

# ruff: noqa: E402
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PURE_FOLDER = "any"
OLDEST_GLIBC = (2, 17)

_EXIT_UNFIT = 2
_MESSAGE_OPTION = "--termination-message"


@dataclass(frozen=True)
class Interpreter:
    """What decides which compiled modules can be loaded. `libc` is as confstr says it, "" where it is not glibc."""

    version: tuple[int, int]
    implementation: str
    abiflags: str
    machine: str
    libc: str

    @classmethod
    def running(cls) -> Interpreter:
        libc = ""
        with suppress(ValueError, OSError):  # musl knows no such name
            libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
        version = (sys.version_info[0], sys.version_info[1])
        return cls(version, sys.implementation.name, sys.abiflags, os.uname().machine, libc)


def compiled_folder(version: tuple[int, int]) -> str:
    """The folder of packages compiled for this CPython, as `cp312`."""
    return f"cp{version[0]}{version[1]}"


def unfit(running: Interpreter, folders: Sequence[str]) -> str:
    """Why this interpreter cannot run a trial with these folders, or ""."""
    version = "{}.{}".format(*running.version)
    if running.implementation != "cpython" or "t" in running.abiflags:
        return f"it is {running.implementation} {version}{running.abiflags}; plain CPython is needed"
    if compiled_folder(running.version) not in folders:
        supported = sorted(int(name[3:]) for name in folders if name.startswith("cp3"))
        return f"it is {version}; the bundle has packages for {', '.join(f'3.{minor}' for minor in supported)}"
    if running.machine != "x86_64":
        return f"the machine is {running.machine}; the bundle is for x86_64"
    needed = "{}.{}".format(*OLDEST_GLIBC)
    name, _, release = running.libc.partition(" ")
    if name != "glibc":
        return f"the image has no glibc (musl, as in Alpine?); glibc {needed} or newer is needed"
    if tuple(int(part) for part in release.split(".")[:2]) < OLDEST_GLIBC:
        return f"the image has glibc {release}; {needed} or newer is needed"
    return ""


def refuse(why: str, arguments: Sequence[str]) -> int:
    """Say it in the log and where a pod's message is read; the exit code."""
    text = f"tuner.trial: the image's python3 ({sys.executable}) cannot run a trial - {why} - use another image"
    sys.stderr.write(f"{text}\n")
    if _MESSAGE_OPTION in arguments[:-1]:
        with suppress(OSError):  # it is on stderr already
            path = Path(arguments[arguments.index(_MESSAGE_OPTION) + 1])
            path.write_text(text, encoding="ascii", errors="replace")
    return _EXIT_UNFIT


def restore_environment(given: bytes) -> None:
    """Remove what the interpreter added to the environment of /proc/self/environ: LC_CTYPE, in the C locale."""
    names = {os.fsdecode(item.partition(b"=")[0]) for item in given.split(b"\0")}
    for name in set(os.environ) - names:
        del os.environ[name]


def main(arguments: Sequence[str]) -> int:
    """Run the trial in this process: it ends with the trial's exit code, or returns that of a refusal."""
    bundle = Path(__file__).resolve().parent
    running = Interpreter.running()
    if why := unfit(running, [path.name for path in bundle.iterdir()]):
        return refuse(why, arguments)
    restore_environment(Path("/proc/self/environ").read_bytes())
    sys.path[:0] = [str(bundle / PURE_FOLDER), str(bundle / compiled_folder(running.version))]
    import runpy  # noqa: PLC0415 - only now: it is not needed for a refusal

    runpy.run_module("tuner.trial", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
