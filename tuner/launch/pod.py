"""What any pod of an engine needs besides its command line, measured trial and exported deployment alike.

Plain values in Kubernetes' terms: mount points, the variables that move caches there, security contexts by vendor.
Knows no pod as a whole, talks to no cluster. The chart's `values.yaml` says the same, and a test holds them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

Vendor = Literal["amd", "nvidia"]

MODEL_CACHE_PATH = "/models"
COMPILE_CACHE_PATH = "/compile-cache"
SHM_PATH = "/dev/shm"  # noqa: S108 - a mount point, not a temporary file
SHM_GIB = 64
CPU_REQUEST = "16"
MEMORY_REQUEST = "64Gi"

# The variables that move the compilers' caches, each with its folder below the cache.
COMPILE_CACHE_FOLDERS: Mapping[str, str] = {
    "XDG_CACHE_HOME": "xdg",
    "TRITON_CACHE_DIR": "triton",
    "TILELANG_CACHE_DIR": "tilelang",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "SGLANG_DG_CACHE_DIR": "deep_gemm",
}

# The least that works; more stands in the chart's values.yaml. seccomp: AMD lifts it for memory mapping
# (https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html); SYS_PTRACE and the group video
# (44 on Debian and Ubuntu): sglang's docker line for AMD GPUs. The render group's number differs from node to node.
SECURITY_CONTEXT: Mapping[Vendor, Mapping[str, Mapping[str, Any]]] = {
    "amd": {
        "pod": {"supplementalGroups": [44], "seccompProfile": {"type": "Unconfined"}},
        "container": {"capabilities": {"add": ["SYS_PTRACE"]}},
    },
    "nvidia": {
        "pod": {"seccompProfile": {"type": "RuntimeDefault"}},
        "container": {"allowPrivilegeEscalation": False},
    },
}


def literal(text: str) -> str:
    """A string the container gets as it stands: Kubernetes would expand $(NAME) and halve $$."""
    return text.replace("$", "$$")


def cache_env(*, model_cache: bool, compile_cache: bool) -> dict[str, str]:
    """The variables that let an engine find its caches; whatever was measured goes over them."""
    env: dict[str, str] = {}
    if model_cache:
        env |= {"HF_HOME": MODEL_CACHE_PATH, "HF_HUB_OFFLINE": "1"}
    if compile_cache:
        env |= {name: f"{COMPILE_CACHE_PATH}/{folder}" for name, folder in COMPILE_CACHE_FOLDERS.items()}
    return env


def image_key(image: str) -> str:
    """Twelve characters that differ between images: kernels compiled by one must not meet another.

    Of the digest where the image is pinned, otherwise of its name and tag.
    """
    _, pinned, digest = image.rpartition("@sha256:")
    return digest[:12] if pinned else hashlib.sha256(image.encode()).hexdigest()[:12]
