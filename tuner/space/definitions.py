"""The shape of a space file's own accelerators and architectures: what the catalogue does not have.

Figures go by the catalogue's names. What they mean, and whether the names they lean on exist, is checked above.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tuner.space.fields import Model, Positive, Text, read_number

Capability = Annotated[float, Field(gt=0, lt=100), BeforeValidator(read_number)]
Gained = Annotated[float, Field(ge=1, le=64), BeforeValidator(read_number)]

_FIGURES = ("vendor", "hbm_gib", "hbm_tb_s", "scaleup_gb_s", "tflops", "compute_capability")


class AcceleratorSpec(Model):
    """A GPU the catalogue does not have. What is left out is that of `like`, a catalogue entry."""

    like: Annotated[Text, Field(description="catalogue entry whose figures stand where none is given")] | None = None
    vendor: Literal["amd", "nvidia"] | None = None
    resource_name: (
        Annotated[Text, Field(description="of the device plugin; default amd.com/gpu or nvidia.com/gpu")] | None
    ) = None
    hbm_gib: Annotated[Positive, Field(description="GiB the engine finds on an empty device")] | None = None
    hbm_tb_s: Annotated[Positive, Field(description="HBM bandwidth, TB/s")] | None = None
    scaleup_gb_s: Annotated[Positive, Field(description="to other GPUs of the node, one direction, GB/s")] | None = None
    tflops: (
        Annotated[
            dict[Literal["bf16", "fp8", "fp4"], Positive],
            Field(description="dense, by number format; a missing format is not native"),
        ]
        | None
    ) = None
    compute_capability: (
        Annotated[Capability, Field(description="as torch reports it: 9.5 is gfx950, 10.0 sm_100")] | None
    ) = None
    collective_latency_us: Annotated[Positive, Field(description="one hop of a collective")] | None = None

    @model_validator(mode="after")
    def _whole(self) -> AcceleratorSpec:
        missing = [name for name in _FIGURES if getattr(self, name) is None]
        if self.like is None and missing:
            raise ValueError(f"without `like` it needs {', '.join(missing)}")
        if self.tflops is not None and "bf16" not in self.tflops:
            raise ValueError("tflops needs bf16, the format every other falls back to")
        return self


class ArchitectureSpec(Model):
    """A decoder the catalogue does not have, and how often drafts for it are accepted."""

    config: Annotated[
        Text | dict[str, Any],
        Field(description="path of a Hugging Face config.json beside this file, its keys, or a catalogue name"),
    ]
    tokens_per_verify: (
        Annotated[
            list[Gained],
            Field(min_length=1, max_length=16, description="mean tokens gained per verify step with 1, 2, ... drafts"),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _possible(self) -> ArchitectureSpec:
        curve = self.tokens_per_verify or []
        if curve != sorted(curve):
            raise ValueError("tokens_per_verify must not fall with more drafts")
        if any(gained > drafts + 1 for drafts, gained in enumerate(curve, start=1)):
            raise ValueError("tokens_per_verify: k drafts gain at most k + 1 tokens a step")
        return self
