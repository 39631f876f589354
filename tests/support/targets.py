"""Pools as a cluster sees them, with defaults for tests."""

from __future__ import annotations

from typing import Any

from tuner.runtime.kubernetes.target import PoolTarget, target_of
from tuner.space.schema import Pool

TUNER_IMAGE = "registry.example/tuner:1"
STUDY_UID = "0123456789abcdef"


def a_pool(**changes: Any) -> Pool:
    """An MI355X pool of one node; `changes` are keys of the space file."""
    document = {
        "accelerator": "mi355x",
        "engine": {"version": "0.5.23"},
        "image": "registry.example/sglang:v1",
        "usd_per_gpu_hour": 2.0,
    }
    return Pool.model_validate({**document, **changes})


def a_target(**changes: Any) -> PoolTarget:
    """The target of such a pool, called `here`."""
    return target_of("here", a_pool(**changes), namespace="ml", context=None, tuner_image=TUNER_IMAGE)
