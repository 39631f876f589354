"""A winner and a target with sane defaults, and Helm itself."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tuner.export.chart import chart_path
from tuner.export.target import SecretKey, Target, Volume
from tuner.export.winner import Alternative, Figures, Winner

_ARGS = (
    "--model-path amd/GLM-5.2-MXFP4 --tp-size 4 --dp-size 2 --kv-cache-dtype fp8_e4m3 --speculative-algorithm EAGLE "
    "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4 --max-running-requests 128 "
    "--chunked-prefill-size 32768 --mem-fraction-static 0.8 --context-length 1048576"
)

_WINNER = Winner(
    study="glm52-mi355x",
    trial=17,
    rank=1,
    config={
        "pool": "mi355x",
        "layout": {"tp": 4, "dp": 2, "attn_dp": 1, "ep": 1},
        "weights": "mxfp4",
        "speculation": {"mtp": {"steps": 3}},
        "max-running-requests": 128,
    },
    program=("python3", "-m", "sglang.launch_server"),
    args=tuple(_ARGS.split()),
    env={"SGLANG_USE_AITER": "1", "ROCM_QUICK_REDUCE_QUANTIZATION": "INT8"},
    image="lmsysorg/sglang-rocm:v0.5.16-rocm720-mi35x-20260728",
    image_digest="sha256:" + "0123456789abcdef" * 4,
    engine_version="0.5.16",
    model="amd/GLM-5.2-MXFP4",
    gpus=8,
    figures=Figures(
        usd_per_million_output_tokens=1.8734567,
        capacity_req_per_s=2.5,
        guarded_req_per_s=2.375,
        ttft_p95_s=3.91,
        output_tokens_per_s=2375.0,
        limits={"ttft_p95_s": 5.0, "error_rate": 0.005},
    ),
    simulated=False,
    confirmed=True,
    alternatives=(Alternative(9, "mi355x tp8 weights=fp8", 2.0511, confirmed=True),),
)

_TARGET = Target(
    vendor="amd",
    gpu_resource="amd.com/gpu",
    node_selector={"amd.com/gpu.product-name": "AMD_Instinct_MI355X"},
    tolerations=({"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3000000},),
    model_cache=Volume(pvc="models"),
    compile_cache=Volume(host_path="/var/lib/kernels"),
    image_pull_secrets=("registry-login",),
    served_name="glm-5.2",
    secret_env={"HF_TOKEN": SecretKey("hugging-face", "token")},
)


@pytest.fixture(scope="session")
def a_winner() -> Callable[..., Winner]:
    """A confirmed MI355X configuration; a test names only what it is about."""
    return lambda **changes: dataclasses.replace(_WINNER, **changes)


@pytest.fixture(scope="session")
def a_target() -> Callable[..., Target]:
    """A cluster that uses every field once."""
    return lambda **changes: dataclasses.replace(_TARGET, **changes)


class Helm:
    """The chart in the hands of real Helm: values text in, objects out, all through Go's own YAML parser."""

    def __init__(self, library: Any, chart: Any) -> None:
        self.library, self.chart = library, chart

    def values(self, text: str) -> dict[str, Any]:
        return self.library.values_from_yaml(text)

    def objects(self, values: dict[str, Any], name: str = "demo", namespace: str = "prod") -> dict[str, dict[str, Any]]:
        """Rendered objects by kind."""
        rendered = self.chart.render(values, name=name, namespace=namespace)
        documents = [self.values(text) for path, text in rendered.items() if path.endswith(".yaml")]
        return {document["kind"]: document for document in documents}

    def notes(self, values: dict[str, Any]) -> str:
        return self.chart.render(values, name="demo", namespace="prod")["sglang/templates/NOTES.txt"]


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    """Helm as a library; where its wheel exists, CI may not skip it."""
    if os.environ.get("CI") and sys.platform == "linux" and platform.machine() == "x86_64":
        import helm_python as library
    else:
        library = pytest.importorskip("helm_python")
    with library.Chart.load(chart_path()) as chart:
        yield Helm(library, chart)
