"""The GPUs of this machine: which there are, which a trial gets, and how it is told.

Knows no trial and no process; a lock file per GPU keeps two controllers on one machine apart.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tuner.errors import UsageError
from tuner.model.definition import Said, accelerator_of

Vendor = Literal["amd", "nvidia"]

# HIP numbers what ROCR_VISIBLE_DEVICES leaves over: setting both to "4,5" leaves nothing. So only one is ever set.
_VARIABLES: dict[Vendor, str] = {"amd": "HIP_VISIBLE_DEVICES", "nvidia": "CUDA_VISIBLE_DEVICES"}
_KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
_DEV = Path("/dev")


def present_gpus(
    env: Mapping[str, str] = os.environ, *, dev: Path = _DEV, kfd_nodes: Path = _KFD_NODES
) -> tuple[str, ...]:
    """The GPUs a process started from here would see, by the names it would use for them; () if there are none."""
    for vendor, found in (("nvidia", _nvidia(dev)), ("amd", _amd(kfd_nodes))):
        if found:
            visible = env.get(_VARIABLES[vendor])  # type: ignore[index] # the tuple's literals widen to str
            return found if visible is None else tuple(part.strip() for part in visible.split(",") if part.strip())
    return ()


def _nvidia(dev: Path) -> tuple[str, ...]:
    count = sum(1 for path in dev.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    return tuple(str(index) for index in range(count))


def _amd(kfd_nodes: Path) -> tuple[str, ...]:
    """A KFD node is a GPU if it has SIMDs; CPUs have none."""
    simds = [re.search(r"^simd_count (\d+)", _text(path), re.MULTILINE) for path in kfd_nodes.glob("*/properties")]
    count = sum(1 for found in simds if found and int(found[1]) > 0)
    return tuple(str(index) for index in range(count))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def visible_variable(accelerator: Said) -> str:
    """The environment variable that hides GPUs from an engine on this accelerator."""
    try:
        return _VARIABLES[accelerator_of(accelerator).vendor]
    except UsageError:
        return _VARIABLES["amd" if _amd(_KFD_NODES) else "nvidia"]


def choose(free: Sequence[str], present: Sequence[str], count: int) -> tuple[str, ...]:
    """`count` of the free GPUs, or () if there are not so many.

    An aligned block first (0-3 or 4-7, not 2-5): on boards with fewer links between halves it is the faster one, and it
    leaves the other block whole.
    """
    if count <= 0 or count > len(free):
        return ()
    for first in range(0, len(present) - count + 1, count):
        block = tuple(present[first : first + count])
        if set(block) <= set(free):
            return block
    return tuple(free[:count])


class GpuLocks:
    """One lock file per GPU. The lock lives as long as any process holds its descriptor, then the kernel frees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, gpu: str) -> int | None:
        """A descriptor that holds the GPU, or None if another process does."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._folder / f"gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        return handle
