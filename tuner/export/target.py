"""Where a winner is to run: `Target`, what a cluster asks for and no measurement knows.

Filled from the pool of the space file and the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.launch.pod import Vendor


@dataclass(frozen=True, slots=True)
class Volume:
    """Where files live: a PersistentVolumeClaim or a folder of the node, exactly one.

    `mount_path` is where the container sees it; empty leaves it to the chart.
    """

    pvc: str = ""
    host_path: str = ""
    mount_path: str = ""

    def __post_init__(self) -> None:
        if bool(self.pvc) == bool(self.host_path):
            raise ValueError("a Volume needs exactly one of pvc and host_path")


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One key of a Kubernetes Secret: a reference, never the value."""

    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster side of a deployment.

    `served_name` is the model name clients ask for; empty leaves it to the engine. `secret_env` names environment
    variables that come from Secrets. Quantities (`memory_limit`, `cpu_request`) are Kubernetes' (`1Ti`, `16`); empty
    leaves them to the chart.
    """

    vendor: Vendor
    gpu_resource: str
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    model_cache: Volume | None = None
    compile_cache: Volume | None = None
    shm_gib: int = 64
    image_pull_secrets: Sequence[str] = ()
    port: int = 30000
    served_name: str = ""
    replicas: int = 1
    priority_class: str = ""
    memory_limit: str = ""
    cpu_request: str = ""
    secret_env: Mapping[str, SecretKey] = field(default_factory=dict)
