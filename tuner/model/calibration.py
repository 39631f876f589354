"""The constants of the step times that no data sheet gives: fitted ones, with the few that could not be fitted.

`tests/benchmarks/calibrate.py` reproduces `data/calibration.json` from published measurements and prints residuals.
Knows no formula; `tuner.model.steps` says what each constant multiplies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

FILE = "calibration.json"


@dataclass(frozen=True, slots=True)
class Stack:
    """What differs between the vendors' software stacks, whatever the GPU.

    `layer_overhead_s`: launch and scheduling of one graph-replayed layer, indexer not counted. `gather_efficiency`:
    share of HBM bandwidth that the scattered reads of sparse attention reach.
    """

    layer_overhead_s: float
    gather_efficiency: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Constants shared by all accelerators, and one `Stack` per vendor. Efficiencies are shares of the data sheet."""

    read_efficiency: float
    gemm_efficiency: float
    expert_efficiency: float
    indexer_overhead_s: float
    fp8_layer_s: float
    stacks: Mapping[str, Stack]

    def stack(self, vendor: str) -> Stack:
        return self.stacks[vendor]

    def __hash__(self) -> int:
        return id(self)


@cache
def calibration() -> Calibration:
    """The shipped constants."""
    text = (resources.files("tuner.model") / "data" / FILE).read_text(encoding="utf-8")
    return from_doc(json.loads(text)["constants"])


def from_doc(doc: Mapping[str, Any]) -> Calibration:
    """Constants from their flat JSON names (units in the names, microseconds)."""
    return Calibration(
        read_efficiency=doc["read_efficiency"],
        gemm_efficiency=doc["gemm_efficiency"],
        expert_efficiency=doc["expert_efficiency"],
        indexer_overhead_s=doc["indexer_overhead_us"] * 1e-6,
        fp8_layer_s=doc["fp8_layer_us"] * 1e-6,
        stacks={
            vendor: Stack(doc[f"layer_overhead_us_{vendor}"] * 1e-6, doc[f"gather_efficiency_{vendor}"])
            for vendor in ("amd", "nvidia")
        },
    )
