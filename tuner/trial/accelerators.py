"""How much memory of the accelerators a trial gets is in use now: sysfs on AMD, nvidia-smi on NVIDIA.

Answers with nothing where there is no accelerator, or none that tells. Reads only; every call has a time limit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys/class")
_DEV_DRI = Path("/dev/dri")
_NVIDIA_SMI = "nvidia-smi"
# Seconds; a driver that starts up answers within 10. One that hangs keeps the program unkillable in the kernel.
_SMI_S = 20.0
_MIB = 2**20

_QUERY = ("--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Memory:
    """One accelerator: `name` is how the visibility variables call it, `unique` is its other name there."""

    name: str
    unique: str
    used_bytes: int
    total_bytes: int

    @property
    def used_share(self) -> float:
        return self.used_bytes / self.total_bytes


def memory_in_use(
    env: Mapping[str, str],
    gpus: int,
    *,
    sys_class: Path = _SYS,
    dev_dri: Path = _DEV_DRI,
    nvidia_smi: str = _NVIDIA_SMI,
) -> tuple[Memory, ...]:
    """The accelerators an engine with this environment would take: the first `gpus` of those it sees."""
    amd = _amd(sys_class, dev_dri)
    if amd:
        # HIP numbers what ROCR leaves over, and takes CUDA's variable for its own.
        seen = visible(amd, env.get("ROCR_VISIBLE_DEVICES"))
        seen = visible(_renumbered(seen), env.get("HIP_VISIBLE_DEVICES", env.get("CUDA_VISIBLE_DEVICES")))
    else:
        seen = visible(_nvidia(nvidia_smi), env.get("CUDA_VISIBLE_DEVICES"))
    return tuple(seen[:gpus])


def visible(memories: Sequence[Memory], wanted: str | None) -> list[Memory]:
    """Those a visibility variable names, by number or (the beginning of) unique name, up to the first it gets wrong."""
    if wanted is None:
        return list(memories)
    found: list[Memory] = []
    for part in (text.strip() for text in wanted.split(",")):
        named = [m for m in memories if m.name == part or (part and not part.isdigit() and m.unique.startswith(part))]
        if not named:
            break
        found.append(named[0])
    return found


def _renumbered(memories: Sequence[Memory]) -> list[Memory]:
    return [Memory(str(i), m.unique, m.used_bytes, m.total_bytes) for i, m in enumerate(memories)]


def _amd(sys_class: Path, dev_dri: Path) -> list[Memory]:
    """In the compute driver's order, which is HIP's; a container sees all cards in sysfs, but opens only its own."""
    nodes = sorted((sys_class / "kfd/kfd/topology/nodes").glob("*/properties"), key=_number)
    found: list[Memory] = []
    for properties in map(_text, nodes):
        minor = _property(properties, "drm_render_minor")
        if _property(properties, "simd_count") > 0 and minor > 0:
            unique = _property(properties, "unique_id")
            found.append(_amd_memory(sys_class / f"drm/renderD{minor}/device", f"GPU-{unique:x}", len(found)))
    if not nodes:  # the compute driver is not shown: the cards whose device nodes are here, in their own order
        cards = sorted(
            (path for path in (sys_class / "drm").glob("card*/device") if _is_here(path, dev_dri)), key=_number
        )
        found = [_amd_memory(device, "", index) for index, device in enumerate(cards)]
    return [memory for memory in found if memory.total_bytes > 0]


def _amd_memory(device: Path, unique: str, index: int) -> Memory:
    used, total = (int(_text(device / f"mem_info_vram_{what}").strip() or 0) for what in ("used", "total"))
    return Memory(str(index), unique, used, total)


def _is_here(device: Path, dev_dri: Path) -> bool:
    """Whether a card with memory of its own can be opened from here."""
    render = [path.name for path in (device / "drm").glob("renderD*")]
    return (device / "mem_info_vram_total").exists() and any((dev_dri / name).exists() for name in render)


def _number(path: Path) -> int:
    found = re.search(r"(\d+)$", path.parent.name)
    return int(found[1]) if found else -1


def _property(properties: str, name: str) -> int:
    found = re.search(rf"^{name} (\d+)", properties, re.MULTILINE)
    return int(found[1]) if found else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _nvidia(program: str) -> list[Memory]:
    path = shutil.which(program)
    return parse_smi(_output([path, *_QUERY])) if path else []


def parse_smi(text: str) -> list[Memory]:
    """Rows `index, uuid, used MiB, total MiB`; a GPU that does not tell (`[N/A]`) is left out."""
    found = []
    for row in text.splitlines():
        fields = [field.strip() for field in row.split(",")]
        if len(fields) == 4 and fields[2].isdigit() and fields[3].isdigit() and int(fields[3]):
            found.append(Memory(fields[0], fields[1], int(fields[2]) * _MIB, int(fields[3]) * _MIB))
    return found


def _output(command: Sequence[str], timeout_s: float = _SMI_S) -> str:
    """What it prints, or "" if it fails. One that cannot even be killed is left behind, not waited for."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ)
        )
    except OSError:
        return ""
    try:
        out, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=1.0)
        return ""
    return out.decode(errors="replace") if child.returncode == 0 else ""
