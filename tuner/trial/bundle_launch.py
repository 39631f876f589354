"""`launch.py` of the bundle: runs `tuner.trial` under whatever CPython 3.10 to 3.13 a serving image has, as PID 1.

    python3 -I -S -B launch.py ARGUMENTS OF tuner.trial

Picks the compiled packages of this interpreter and touches nothing else: the engine must find the environment as the
image made it. Standard library only, importable without the rest of the project, readable by old interpreters.
"""

import os
import signal
import sys

# As PID 1 of a container an unhandled SIGTERM is ignored, and the imports take their time: a blocked one waits until
# `tuner.trial` has set its handlers and lets them through.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_EXIT_UNFIT = 2
_MESSAGE_OPTION = "--termination-message"
PURE_FOLDER = "any"
OLDEST_GLIBC = (2, 17)


def compiled_folder(version):
    """The folder of packages compiled for this CPython, as `cp312`."""
    return f"cp{version[0]}{version[1]}"


def unfit(bundle):
    """Why this interpreter cannot run a trial, or ""."""
    version = ".".join(map(str, sys.version_info[:2]))
    known = sorted((int(name[3:]) for name in os.listdir(bundle) if name.startswith("cp3")))
    supported = ", ".join(f"3.{minor}" for minor in known)
    if sys.implementation.name != "cpython" or "t" in getattr(sys, "abiflags", ""):
        return f"it is {sys.implementation.name} {version} with ABI flags {sys.abiflags!r}; plain CPython is needed"
    if sys.version_info[0] != 3 or sys.version_info[1] not in known:
        return f"it is {version}; the bundle has packages for CPython {supported}"
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return f"it runs on {sys.platform} {os.uname().machine}; the bundle is for linux x86_64"
    return unfit_libc(_glibc())


def unfit_libc(release):
    """The same of the C library; `release` is what confstr calls it, or "" where it is another one (musl)."""
    name, _, number = release.partition(" ")
    needed = ".".join(map(str, OLDEST_GLIBC))
    if name != "glibc":
        return f"the image has no glibc (musl, as in Alpine?); glibc {needed} or newer is needed"
    if tuple(map(int, number.split(".")[:2])) < OLDEST_GLIBC:
        return f"the image has glibc {number}; {needed} or newer is needed"
    return ""


def _glibc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""


def refuse(why, arguments):
    """Say it in the log and where a pod's message is read; the exit code."""
    text = f"tuner.trial: the image's python3 ({sys.executable}) cannot run a trial - {why} - use another image"
    sys.stderr.write(text + "\n")
    if _MESSAGE_OPTION in arguments[:-1]:
        path = arguments[arguments.index(_MESSAGE_OPTION) + 1]
        try:
            with open(path, "w", encoding="ascii", errors="replace") as file:
                file.write(text)
        except OSError:
            pass  # it is on stderr already
    return _EXIT_UNFIT


def restore_environment(given):
    """Undo what the interpreter itself changed: in the C locale it sets LC_CTYPE, for its children too."""
    for name in set(os.environ) - given:
        del os.environ[name]


def given_names(environ):
    """Names of the variables this process was started with, from the bytes of /proc/self/environ."""
    return {os.fsdecode(item.partition(b"=")[0]) for item in environ.split(b"\0") if item}


def main(arguments):
    """Run the trial in this process; does not return, but with the code of a refusal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    bundle = os.path.dirname(os.path.abspath(__file__))
    why = unfit(bundle)
    if why:
        return refuse(why, arguments)
    with open("/proc/self/environ", "rb") as file:
        restore_environment(given_names(file.read()))
    folders = (PURE_FOLDER, compiled_folder(sys.version_info))
    sys.path[:0] = [os.path.join(bundle, folder) for folder in folders]
    import runpy  # noqa: PLC0415 - after the signals

    runpy.run_module("tuner.trial", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
