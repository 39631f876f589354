"""What the engine's start-up looks at besides its flags: the GPU, and a few facts of the model.

A small value, made of the catalogue's entries in `tuner.model`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.model.architecture import Architecture
from tuner.model.catalogue import GIB, Accelerator
from tuner.model.catalogue import accelerator as find_accelerator


@dataclass(frozen=True, slots=True)
class Platform:
    """One kind of GPU and the model it serves. `dsa`: sparse MLA attention of the DeepSeek-V3.2 and GLM-5 family.

    `capability` as torch reports it, `precisions` of weights that run natively.
    """

    name: str
    hbm_gib: float
    is_hip: bool
    capability: float
    precisions: frozenset[str]
    dsa: bool = True
    attention_heads: int = 64
    routed_experts: int = 256
    context_tokens: int = 1_048_576


def platform(
    accelerator: str,
    hbm_gib: float,
    *,
    dsa: bool = True,
    attention_heads: int = 64,
    routed_experts: int = 256,
    context_tokens: int = 1_048_576,
) -> Platform:
    """A platform by the accelerator's name; the model's facts default to GLM-5.2's (published config.json).

    Raises:
        UsageError: an accelerator the catalogue does not have.
    """
    acc = find_accelerator(accelerator)
    return Platform(
        acc.name,
        hbm_gib,
        acc.vendor == "amd",
        acc.compute_capability,
        acc.precisions,
        dsa,
        attention_heads,
        routed_experts,
        context_tokens,
    )


def platform_of(acc: Accelerator, arch: Architecture) -> Platform:
    """The platform of these two, whether the catalogue has them or not."""
    return Platform(
        acc.name,
        acc.hbm_bytes / GIB,
        acc.vendor == "amd",
        acc.compute_capability,
        acc.precisions,
        arch.sparse,
        arch.heads,
        arch.experts,
        arch.max_context_tokens,
    )
