"""What the engine's start-up looks at besides its flags: the GPU, and a few facts of the model.

A small value; the catalogue of accelerators and architectures lives in `tuner.model`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuner.errors import UsageError

# (is ROCm, compute capability as torch reports it): gfx950, gfx942, sm_90, sm_100, sm_103.
_GPUS: dict[str, tuple[bool, float]] = {
    "mi355x": (True, 9.5),
    "mi325x": (True, 9.4),
    "mi300x": (True, 9.4),
    "h200": (False, 9.0),
    "b200": (False, 10.0),
    "b300": (False, 10.3),
}


@dataclass(frozen=True, slots=True)
class Platform:
    """One kind of GPU and the model it serves. `dsa`: sparse MLA attention of the DeepSeek-V3.2 and GLM-5 family."""

    name: str
    hbm_gib: float
    is_hip: bool
    capability: float
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
        UsageError: an accelerator whose start-up rules are not known.
    """
    gpu = _GPUS.get(accelerator.lower())
    if gpu is None:
        raise UsageError(f"accelerator {accelerator!r} is not known to the launcher; it knows {', '.join(_GPUS)}")
    return Platform(accelerator.lower(), hbm_gib, *gpu, dsa, attention_heads, routed_experts, context_tokens)
