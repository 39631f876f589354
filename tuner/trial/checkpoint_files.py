"""Whether the checkpoints an engine is to load are all there: names, sizes, and nothing of their content.

Knows Hugging Face's folder layout (an index that lists shards) and the safetensors header. A folder with metadata
alone passes for a model until the engine has spent minutes on it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.trial.effective import asked_of

INDEX_NAME = "model.safetensors.index.json"

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# These read weights from files beside the configuration; others (dummy, remote, sharded states) have ways of their own.
_FROM_FILES = (None, "auto", "safetensors")
# safetensors refuses longer headers.
_HEADER_BYTES = 100_000_000


def incomplete_checkpoint(argv: Sequence[str]) -> str:
    """What is missing from a local checkpoint this command line names: "" or a path and what is wrong with it."""
    asked = asked_of(argv)
    if asked.get("load_format") not in _FROM_FILES:
        return ""
    for name in ("model_path", "speculative_draft_model_path"):
        folder = asked.get(name)
        if isinstance(folder, str) and Path(folder).is_dir() and (missing := missing_from(Path(folder))):
            return missing
    return ""


def missing_from(folder: Path) -> str:
    """The first file of this checkpoint that is not there, empty or cut, or "" if it is complete."""
    index = folder / INDEX_NAME
    if not index.exists():
        return "" if _has_weights(folder) else f"{folder}: no weights in this folder"
    try:
        shards = [folder / name for name in sorted(set(_weight_map(index).values()))]
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f"{index}: cannot be read ({error})"
    problems = map(_problem, shards)
    return next((problem for problem in problems if problem), "")


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in _WEIGHTS and path.is_file() and path.stat().st_size > 0 for path in folder.iterdir())


def _weight_map(index: Path) -> dict[str, str]:
    weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return weight_map


def _problem(shard: Path) -> str:
    try:
        size = shard.stat().st_size  # follows links: a hub cache links to blobs that may be gone
        if size == 0:
            return f"{shard}: is empty"
        wanted = _safetensors_bytes(shard) if shard.suffix == ".safetensors" else size
    except FileNotFoundError:
        return f"{shard}: is not there"
    except (OSError, ValueError, struct.error, AttributeError, KeyError, TypeError) as error:
        return f"{shard}: cannot be read ({error})"
    return "" if size >= wanted else f"{shard}: is cut, {size} of {wanted} bytes"


def _safetensors_bytes(shard: Path) -> int:
    """How long this file must be by its own header: 8 bytes, the header, and tensors at offsets behind it."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _HEADER_BYTES:
            raise ValueError("its header is not one of safetensors")
        header: dict[str, Any] = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return 8 + int(length) + int(max(ends, default=0))
