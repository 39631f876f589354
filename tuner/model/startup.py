"""Rough seconds from process start to a ready engine: for budget forecasts and the simulator, never for a deadline.

Real times hang on the storage and on warm caches; a study replaces this by what its own trials took.
"""

from __future__ import annotations

from tuner.model.architecture import Architecture
from tuner.model.catalogue import GIB, Accelerator
from tuner.model.checkpoint import weight_parts
from tuner.model.memory import max_running
from tuner.model.settings import EngineSettings

# No source gives start-up times by storage medium: bytes over bandwidth is arithmetic (437 GB at 2 GB/s = 3.6 min), the
# constants are judgements of a usual cold start.
_LAUNCH_S = 45.0  # interpreter, imports, one process per GPU, collectives
_WARM_UP_S = 20.0  # first request and health answer
_COMPILE_S = {"amd": 150.0, "nvidia": 75.0}  # kernels tuned or compiled at first use; aiter and tilelang compile more
_CAPTURE_BASE_S = 10.0
_CAPTURE_S = 1.0  # per captured batch size
_CAPTURE_EVERY = 8  # captured sizes are about every eighth batch


def seconds_to_ready(
    arch: Architecture, acc: Accelerator, settings: EngineSettings, read_gib_per_s: float = 2.0
) -> float:
    """Seconds until the engine answers. `read_gib_per_s`: node-wide reading of weights (2: network volume, cold).

    Replicas load side by side from one storage, and find each other's files in the page cache.
    """
    # the checkpoint is read once: parts every GPU holds whole are read as one
    checkpoint = sum(part.params * part.bits / 8 for part in weight_parts(arch, settings))
    sizes = min(settings.decode_graph_max_batch, max_running(settings)) / _CAPTURE_EVERY
    capture = _CAPTURE_BASE_S + _CAPTURE_S * sizes * (2 if settings.speculation_steps else 1)
    return _LAUNCH_S + checkpoint / GIB / read_gib_per_s + _COMPILE_S[acc.vendor] + capture + _WARM_UP_S
