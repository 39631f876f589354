"""Which precision a checkpoint and a `--quantization` flag give, and which of them an engine or a GPU refuses.

Judges by names: no file of the model is read. Where a name says nothing, weights are bf16.
"""

from __future__ import annotations

from tuner.model.settings import Precision

# `--quantization` -> precision of the weights; values not listed leave it to the checkpoint.
_BY_FLAG: dict[str, Precision] = {
    "fp8": "fp8",
    "w8a8_fp8": "fp8",
    "modelopt_fp8": "fp8",
    "mxfp8": "fp8",
    "mxfp4": "mxfp4",
    "quark_mxfp4": "mxfp4",
    "modelopt_fp4": "nvfp4",
    "nvfp4_online": "nvfp4",
    "petit_nvfp4": "nvfp4",
    "unquant": "bf16",
}

# The engine's own name of the method it finds in such a checkpoint (Quark writes MXFP4, ModelOpt writes NVFP4).
_CHECKPOINT_METHOD: dict[Precision, str | None] = {
    "bf16": None,
    "fp8": "fp8",
    "mxfp4": "quark",
    "nvfp4": "modelopt_fp4",
}

# sglang 0.5.23 configs/model_config.py, the list a ROCm build accepts.
_ROCM = frozenset(
    [
        "awq",
        "fp8",
        "compressed-tensors",
        "w8a8_fp8",
        "petit_nvfp4",
        "quark",
        "mxfp4",
        "mxfp8",
        "auto-round",
        "auto-round-int8",
        "quark_int4fp8_moe",
        "quark_mxfp4",
    ]
)

# Requantized while loading (same file): flag -> precisions of checkpoints it takes besides its own and bf16.
_ONLINE: dict[str, frozenset[Precision]] = {
    "quark_mxfp4": frozenset(("fp8", "nvfp4")),
    "modelopt_fp4": frozenset(("fp8",)),
    "nvfp4_online": frozenset(("fp8",)),
    "petit_nvfp4": frozenset(("nvfp4",)),
}


def checkpoint_precision(model: str) -> Precision:
    """By the last part of a path or repository name; MXFP4 before FP8, for names like `GLM-5.2-Quark-MXFP4-AttnFP8`."""
    name = model.rstrip("/").upper()
    if "MXFP4" in name:
        return "mxfp4"
    if "NVFP4" in name:
        return "nvfp4"
    return "fp8" if "FP8" in name else "bf16"


def weights_precision(flag: str | None, model: str) -> Precision:
    """What the weights are served in: the flag where it says, else the checkpoint."""
    return _BY_FLAG.get(flag or "") or checkpoint_precision(model)


def method(flag: str | None, precision: Precision) -> str | None:
    """The quantization method the engine resolves to: the flag, or what the checkpoint's own config names."""
    return flag if flag is not None else _CHECKPOINT_METHOD[precision]


def refused_on_rocm(flag: str | None, precision: Precision) -> str | None:
    """The method's name if a ROCm build of the engine does not take it."""
    name = method(flag, precision)
    return name if name is not None and name not in _ROCM and name != "unquant" else None


def contradicts_checkpoint(flag: str | None, model: str) -> bool:
    """Whether the flag names another method than the checkpoint's own, and is not one that requantizes it."""
    wanted, found = _BY_FLAG.get(flag or ""), checkpoint_precision(model)
    if flag is None or wanted is None or found in ("bf16", wanted):
        return False
    return found not in _ONLINE.get(flag, frozenset())
