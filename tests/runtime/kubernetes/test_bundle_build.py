"""Building the bundle, from an index of small wheels in a folder: what is taken, what is left, what is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tuner
from tuner.runtime.kubernetes import bundle
from tuner.runtime.kubernetes.bundle import BundleError, build, folder_of, main

ROOT = Path(tuner.__file__).parents[1]
PLATFORMS = "manylinux_2_17_x86_64.manylinux2014_x86_64"


def wheel(folder, name, tag, files):
    path = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, **metadata}.items():
            archive.writestr(inner, text)
    return path


def requirements(folder, wheels, *, hashes=True):
    lines = []
    for name in sorted({path.name.split("-")[0] for path in wheels}):
        sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels if path.name.startswith(f"{name}-")]
        lines.append(" ".join([f"{name}==1.0", *(f"--hash=sha256:{text}" for text in sums if hashes)]))
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")
    return folder / "requirements.txt"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Only this folder is asked; one CPython is enough here."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(bundle, "PYTHONS", ((3, 10),))
    return folder


def test_pure_packages_lie_once_compiled_ones_by_interpreter_and_sources_nowhere(index, tmp_path):
    wheels = [
        wheel(index, "pure", "py3-none-any", {"pure/__init__.py": "", "pure/stub.pyi": ""}),
        wheel(index, "fast", f"cp310-cp310-{PLATFORMS}", {"fast/loop.so": "elf", "fast/loop.c": "source"}),
        wheel(index, "fast", f"cp311-cp311-{PLATFORMS}", {"fast/other.so": "elf"}),
    ]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale").touch()
    build(requirements(tmp_path, wheels), tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"launch.py", "any/pure/__init__.py", "cp310/fast/loop.so", "cp310/fast-1.0.dist-info/METADATA"} <= found
    own = {"any/tuner/trial/__main__.py", "any/tuner/probe/corpus.txt", "any/tuner/errors.py"}
    assert own <= found
    assert not {name for name in found if name.endswith((".c", ".pyi", ".pyc"))}
    assert not {name for name in found if "stale" in name or "other.so" in name}


def test_the_bundle_holds_every_module_of_ours_that_a_trial_imports(index, tmp_path):
    build(requirements(tmp_path, [wheel(index, "pure", "py3-none-any", {})]), tmp_path / "out")
    ask = "import json, sys, tuner.trial.__main__; print(json.dumps([m for m in sys.modules if m.startswith('tuner')]))"
    listed = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, check=True, timeout=60)
    missing = []
    for module in json.loads(listed.stdout):
        path = tmp_path / "out" / "any" / module.replace(".", "/")
        if not path.with_suffix(".py").exists() and not (path / "__init__.py").exists():
            missing.append(module)
    assert not missing


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("cp310-cp310-manylinux_2_28_x86_64", "fast"),  # a newer libc than promised
        ("cp310-cp310-musllinux_1_2_x86_64", "fast"),
        ("cp310-cp310-manylinux2014_aarch64", "fast"),
    ],
)
def test_a_package_without_a_fitting_wheel_is_named_and_nothing_is_replaced(index, tmp_path, capsys, tag, says):
    wheels = [wheel(index, "fast", tag, {})]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    wanted = requirements(tmp_path, wheels)
    assert main(["--requirements", str(wanted), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "no wheels for CPython 3.10" in error
    assert says in error
    assert (tmp_path / "out" / "old").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"index", "out", "requirements.txt"}


@pytest.mark.parametrize("damage", ["no hashes", "another hash"])
def test_nothing_is_taken_that_is_not_pinned_by_its_hash(index, tmp_path, damage):
    path = wheel(index, "pure", "py3-none-any", {})
    wanted = requirements(tmp_path, [path], hashes=damage != "no hashes")
    if damage == "another hash":
        wanted.write_text("pure==1.0 --hash=sha256:" + "0" * 64)
    with pytest.raises(BundleError, match="hash"):
        build(wanted, tmp_path / "out")


def test_its_size_is_told(index, tmp_path, capsys):
    wanted = requirements(tmp_path, [wheel(index, "pure", "py3-none-any", {})])
    assert main(["--requirements", str(wanted), "--output", str(tmp_path / "out")]) == 0
    assert "files" in capsys.readouterr().out


def test_a_wheel_goes_where_its_last_tags_say():
    assert folder_of("idna-3.20-py3-none-any.whl", (3, 12)) == "any"
    assert folder_of("uvloop-0.23.0-cp312-cp312-manylinux2014_x86_64.whl", (3, 12)) == "cp312"


def test_the_shipped_requirements_pin_what_the_runner_declares():
    """`make lock` writes them; they follow the versions that are tested here."""
    pinned = {line.split()[0] for line in (ROOT / "requirements-bundle.txt").read_text().splitlines() if "==" in line}
    tested = {line.split()[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert {"httpx", "httptools", "uvloop"} <= {line.split("==")[0] for line in pinned}
    assert pinned - tested <= {line for line in pinned if line.startswith("exceptiongroup==")}
