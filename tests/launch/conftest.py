"""Deployments and platforms of the reference case: GLM-5.2 on MI355X and B200."""

from __future__ import annotations

import pytest

from tuner.launch.platform import platform
from tuner.space.config import Layout, ServingConfig
from tuner.space.deployment import Deployment

EXPLICIT = {
    "kv-cache-dtype": "fp8_e4m3",
    "mem-fraction-static": 0.84,
    "chunked-prefill-size": 32768,
    "max-running-requests": 128,
}


def make_deployment(
    *,
    version="0.5.23",
    tp=8,
    dp=1,
    attn_dp=1,
    ep=1,
    model="zai-org/GLM-5.2-FP8",
    precision="fp8",
    accelerator="mi355x",
    only=(),
    env=None,
    command=(),
    bare=False,
    **flags,
):
    """A valid deployment unless told otherwise; `max_running_requests=64` sets that flag, None leaves it out."""
    given = ({} if bare else EXPLICIT) | {name.replace("_", "-"): value for name, value in flags.items()}
    return Deployment(
        config=ServingConfig("pool", Layout(tp, dp, attn_dp, ep), (), tuple(only)),
        engine_kind="sglang",
        engine_version=version,
        command=tuple(command),
        image="image",
        model=model,
        precision=precision,
        flags={name: value for name, value in given.items() if value is not None},
        env=env or {},
        accelerator=accelerator,
        architecture="glm-5.2",
        usd_per_hour=16.8,
    )


@pytest.fixture(scope="session")
def a_deployment():
    return make_deployment


@pytest.fixture(scope="session")
def mi355x():
    # GiB the faked gfx950 reported when the resolution cases were taken
    return platform("mi355x", 286.5)


@pytest.fixture(scope="session")
def b200():
    return platform("b200", 179.0)
