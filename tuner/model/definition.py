"""Accelerators and architectures as others name them: a catalogue name, a path, or a definition of their own.

A definition is a JSON document, so that it can travel with a trial; the space file's shape for it is
`tuner.space.definitions`. Raises `UsageError` for whatever cannot be built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tuner.errors import UsageError
from tuner.model.architecture import Architecture
from tuner.model.catalogue import GIB, Accelerator, accelerator, architecture
from tuner.model.hf_config import from_config

Said = str | Mapping[str, Any]
"""A name or path, or `{"name": ..., ...}` with the keys of the space file."""

_HOP_US = {"amd": 3.0, "nvidia": 2.0}


def accelerator_of(said: Said) -> Accelerator:
    """The accelerator a name or a definition stands for."""
    if isinstance(said, str):
        return accelerator(said)
    given = {key: value for key, value in said.items() if value is not None}
    base = accelerator(given["like"]) if "like" in given else _bare(given)
    vendor = given.get("vendor", base.vendor)
    resource = base.resource_name if vendor == base.vendor else f"{vendor}.com/gpu"
    return replace(
        base,
        name=given["name"],
        vendor=vendor,
        resource_name=given.get("resource_name", resource),
        hbm_bytes=round(given["hbm_gib"] * GIB) if "hbm_gib" in given else base.hbm_bytes,
        hbm_bytes_per_s=given["hbm_tb_s"] * 1e12 if "hbm_tb_s" in given else base.hbm_bytes_per_s,
        scaleup_bytes_per_s=given["scaleup_gb_s"] * 1e9 if "scaleup_gb_s" in given else base.scaleup_bytes_per_s,
        flops_per_s=_flops(given["tflops"]) if "tflops" in given else base.flops_per_s,
        compute_capability=given.get("compute_capability", base.compute_capability),
        collective_latency_s=given.get("collective_latency_us", base.collective_latency_s * 1e6) * 1e-6,
        price=None,
        source="the space file",
    )


def _bare(given: Mapping[str, Any]) -> Accelerator:
    """A definition that leans on nothing: every figure is replaced by its own."""
    vendor = given["vendor"]
    return Accelerator(
        name="",
        vendor=vendor,
        resource_name=f"{vendor}.com/gpu",
        hbm_bytes=0,
        hbm_bytes_per_s=0.0,
        flops_per_s=(),
        scaleup_bytes_per_s=0.0,
        collective_latency_s=_HOP_US[vendor] * 1e-6,
        compute_capability=0.0,
        price=None,
        source="",
    )


def _flops(tflops: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple((number_format, tera * 1e12) for number_format, tera in tflops.items())


def architecture_of(said: Said) -> Architecture:
    """The architecture a name, a path or a definition stands for."""
    if isinstance(said, str):
        return architecture(said)
    name, config = said["name"], said["config"]
    if isinstance(config, str):
        found = replace(architecture(config), name=name)
    else:
        found = from_config(config, name=name, where=f"the config of {name}", source="the space file")
    curve = said.get("tokens_per_verify")
    return replace(found, acceptance=tuple(curve)) if curve else found


def refuse_taken(name: str, known: tuple[str, ...], kind: str, next_step: str) -> None:
    """A definition must not hide a catalogue entry: two readers would take the name for different things."""
    if name.lower() in known:
        raise UsageError(f"the catalogue has {kind} {name} already; {next_step}")
