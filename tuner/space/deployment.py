"""`Deployment`: everything a configuration asks for, merged from pool, bundles and numbers, before any dialect.

Made by `Space.deployment`; `tuner.launch` turns it into a command line. Knows no flag spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.space.config import Scalar, ServingConfig


@dataclass(frozen=True, slots=True)
class Deployment:
    """What one configuration deploys.

    `flags` are the engine flags as users write them (full name without dashes -> value; `True` is a bare flag), from
    pool, bundles, numeric dimensions and derived ones; the layout and the model are not among them. `precision` is
    the weights' (`bf16`, `fp8`, `mxfp4`, `nvfp4`). `command` replaces the engine's usual program when given.
    `usd_per_hour` is the trial's cost under the pool's billing. `architecture` is a catalogue name or a path.
    """

    config: ServingConfig
    engine_kind: str
    engine_version: str
    command: tuple[str, ...]
    image: str
    model: str
    precision: str
    flags: Mapping[str, Scalar]
    env: Mapping[str, str]
    accelerator: str
    architecture: str
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a point is not tried: the rule's id, and a sentence with its reason (and source, where it has one)."""

    rule: str
    reason: str
