"""`make bundle`: the runner and its dependencies as a folder that any stock serving image can run.

    python -m tuner.runtime.kubernetes.bundle --requirements requirements-bundle.txt --output build/bundle

Asks the package index of pip's own configuration, by hash, for wheels alone; so it can be built on any machine that
has pip, for interpreters it does not have. The folder:

    launch.py       started by the image's python3 (`tuner.trial.bundle_launch`)
    any/            what is pure Python: tuner itself, httpx and its dependencies, once
    cp310/ ...      what is compiled: httptools and uvloop, for each CPython

No bytecode: the copy of each trial would outdate it, and compiling takes a second of the minutes of a trial.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tuner.trial import bundle_launch
from tuner.trial.bundle_launch import OLDEST_GLIBC, PURE_FOLDER, compiled_folder

PYTHONS = ((3, 10), (3, 11), (3, 12), (3, 13))
LAUNCHER = "launch.py"

# What `python -m tuner.trial` imports; a test holds it against the real imports.
_OWN = (
    "__init__.py",
    "errors.py",
    "space/__init__.py",
    "space/secrets.py",
    "space/traffic.py",
    "space/workload.py",
    "probe",
    "trial",
)
_MACHINE = "x86_64"
# Names of the same promise (glibc 2.17 or older): pip takes none for another.
_PLATFORMS = (f"manylinux_{OLDEST_GLIBC[0]}_{OLDEST_GLIBC[1]}", "manylinux2014", "manylinux2010", "manylinux1")
# Sources of compiled modules and stubs: half of some wheels, read by nobody at run time.
_NOT_NEEDED = (".c", ".h", ".pxd", ".pxi", ".pyi", ".pyx", ".pyc")
_PIP_S = 600.0


class BundleError(Exception):
    """The bundle cannot be built, for this reason."""


def build(requirements: Path, output: Path, python: str = sys.executable) -> None:
    """Build the bundle anew; `output` is replaced only by a complete one.

    Raises:
        BundleError: pip cannot get the wheels.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".bundle-") as draft_name:
        draft = Path(draft_name) / "bundle"
        (draft / PURE_FOLDER).mkdir(parents=True)
        for version in PYTHONS:
            wheels = Path(draft_name) / compiled_folder(version)
            download(requirements, wheels, version, python)
            for wheel in sorted(wheels.glob("*.whl")):
                unpack(wheel, draft / folder_of(wheel.name, version))
        _copy_own(draft)
        if output.exists():
            shutil.rmtree(output)
        draft.rename(output)


def download(requirements: Path, folder: Path, version: tuple[int, int], python: str) -> None:
    """Wheels of these pinned requirements for one CPython.

    Raises:
        BundleError: pip's last words.
    """
    command = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--implementation", "cp", "--python-version", "{}.{}".format(*version)]
    command += ["--abi", compiled_folder(version), "--abi", "abi3", "--abi", "none"]
    for platform in _PLATFORMS:
        command += ["--platform", f"{platform}_{_MACHINE}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_S, check=False)
    if done.returncode != 0:
        words = "; ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR")) or done.stderr[-500:]
        raise BundleError(f"no wheels for CPython {version[0]}.{version[1]} - {requirements}: {words}")


def folder_of(wheel: str, version: tuple[int, int]) -> str:
    """Where a wheel belongs, by the last tag of its name: what is for any machine is unpacked once for all."""
    return PURE_FOLDER if wheel.endswith("-none-any.whl") else compiled_folder(version)


def unpack(wheel: Path, folder: Path) -> None:
    """The wheel's files that are needed at run time, with its licence and metadata."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith(_NOT_NEEDED):
                archive.extract(name, folder)


def _copy_own(bundle: Path) -> None:
    package = Path(bundle_launch.__file__).parents[1]
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in _OWN:
        source, target = package / name, bundle / PURE_FOLDER / "tuner" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copyfile(source, target)
    shutil.copyfile(bundle_launch.__file__, bundle / LAUNCHER)


def main(argv: Sequence[str] | None = None) -> int:
    """Build it, and say how large it is."""
    parser = argparse.ArgumentParser(description="Build the bundle that runs trials inside serving images.")
    parser.add_argument("--requirements", type=Path, required=True, help="pinned and hashed, without addresses")
    parser.add_argument("--output", type=Path, required=True, help="the folder to make or replace")
    options = parser.parse_args(argv)
    try:
        build(options.requirements, options.output)
    except (BundleError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"make bundle: {error}\n")
        return 1
    files = [path for path in options.output.rglob("*") if path.is_file()]
    size_mib = sum(path.stat().st_size for path in files) / 2**20
    sys.stdout.write(f"{options.output}: {len(files)} files, {size_mib:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
