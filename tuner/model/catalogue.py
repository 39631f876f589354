"""What the project knows of accelerators and model architectures: read from `data/`, each figure with its source.

Knows no layout and no workload. An unknown name is a `UsageError` with the nearest names.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tuner.errors import UsageError
from tuner.model.architecture import Architecture
from tuner.model.hf_config import from_config, read_config

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class PriceRange:
    """Published cost of one GPU-hour, from hyperscaler to rental. `as_of` is a year and month."""

    low_usd: float
    high_usd: float
    as_of: str
    source: str


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU: its data sheet.

    `flops_per_s` is dense, by number format; a format that is missing is not native. `scaleup_bytes_per_s` is per
    GPU in one direction, `collective_latency_s` one hop of a collective. What software makes of it: `calibration`.
    A user's own entry has no published price: its pool says one.
    """

    name: str
    vendor: Literal["amd", "nvidia"]
    resource_name: str
    hbm_bytes: int
    hbm_bytes_per_s: float
    flops_per_s: tuple[tuple[str, float], ...]
    scaleup_bytes_per_s: float
    collective_latency_s: float
    compute_capability: float
    price: PriceRange | None
    source: str

    @property
    def precisions(self) -> frozenset[str]:
        """Weights that run natively here: MXFP4 has kernels on AMD's FP4 units, NVFP4 on NVIDIA's."""
        fp4 = {"amd": "mxfp4", "nvidia": "nvfp4"}[self.vendor]
        native = dict(self.flops_per_s)
        return frozenset({"bf16"} | ({"fp8"} & native.keys()) | ({fp4} if "fp4" in native else set()))

    def flops(self, number_format: str) -> float:
        """Dense FLOP/s; a format without native support runs at bf16 speed (weights are unpacked first)."""
        table = dict(self.flops_per_s)
        return table.get(number_format, table["bf16"])


def accelerator(name: str, *, also: Iterable[str] = ()) -> Accelerator:
    """The catalogue entry, whatever the case of `name`. Raises UsageError with the nearest names, `also` among them."""
    entries = _data("accelerators.json")["accelerators"]
    key = name.strip().lower()
    if key not in entries:
        raise UsageError(f"unknown accelerator {name!r}; {_suggest(key, [*entries, *also])}")
    return _accelerator(key)


def accelerators() -> tuple[str, ...]:
    """The names `accelerator` knows."""
    return tuple(_data("accelerators.json")["accelerators"])


def architecture(name_or_path: str, *, also: Iterable[str] = ()) -> Architecture:
    """A catalogue name (`glm-5.2`), or the path of a Hugging Face config.json. Raises UsageError."""
    key = name_or_path.strip().lower()
    doc = _data("architectures.json")
    key = doc["aliases"].get(key, key)
    if key in doc["architectures"]:
        return _architecture(key)
    path = Path(name_or_path).expanduser()
    if path.suffix == ".json" or path.exists():
        return read_config(path)
    names = [*doc["architectures"], *doc["aliases"], *also]
    raise UsageError(f"unknown architecture {name_or_path!r}; {_suggest(key, names)} or give the path of a config.json")


def architectures() -> tuple[str, ...]:
    """The names `architecture` knows, aliases included."""
    doc = _data("architectures.json")
    return (*doc["architectures"], *doc["aliases"])


def tokens_per_verify(arch: Architecture, steps: int) -> float:
    """Mean tokens gained per verify step with a chain of `steps` drafts; flat beyond the published curve.

    An architecture without a curve of its own borrows the default one: a prior, to be corrected by measurement.
    """
    if steps <= 0:
        return 1.0
    doc = _data("acceptance.json")
    curve: Sequence[float] = (
        arch.acceptance or doc["curves"][arch.acceptance_curve or doc["default"]]["tokens_per_verify"]
    )
    return curve[min(steps, len(curve)) - 1]


def _suggest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    return f"known are {', '.join(names)}"


@cache
def _data(file: str) -> Mapping[str, Any]:
    text = (resources.files("tuner.model") / "data" / file).read_text(encoding="utf-8")
    doc: Mapping[str, Any] = json.loads(text)
    return doc


@cache
def _accelerator(key: str) -> Accelerator:
    doc = _data("accelerators.json")
    raw = doc["accelerators"][key]
    price = raw["usd_per_gpu_hour"]
    return Accelerator(
        name=key,
        vendor=raw["vendor"],
        resource_name=raw["resource_name"],
        hbm_bytes=round(raw["hbm_gib"] * GIB),
        hbm_bytes_per_s=raw["hbm_tb_s"] * 1e12,
        flops_per_s=tuple((fmt, tera * 1e12) for fmt, tera in raw["tflops"].items()),
        scaleup_bytes_per_s=raw["scaleup_gb_s"] * 1e9,
        collective_latency_s=raw["collective_latency_us"] * 1e-6,
        compute_capability=raw["compute_capability"],
        price=PriceRange(price["low"], price["high"], price["as_of"], doc["price_source"]),
        source=doc["spec_source"],
    )


@cache
def _architecture(key: str) -> Architecture:
    raw = _data("architectures.json")["architectures"][key]
    return from_config(
        raw["config"],
        name=key,
        where=f"architectures.json: {key}",
        source=raw["source"],
        acceptance_curve=raw["acceptance_curve"],
    )
