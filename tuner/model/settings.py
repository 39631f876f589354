"""What an engine will run with once its command line is resolved: the input of the model and of the simulator.

Made by `tuner.launch` from flags; knows no flag spelling and no engine version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp8", "mxfp4", "nvfp4"]
Routing = Literal["round-robin", "least-requests", "sticky"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Resolved settings of one engine process tree (all its `dp` replicas).

    `chunked_prefill_tokens` is what one scheduler works with (already divided by `attn_dp`), -1 when chunking is off.
    `max_running_requests` is the value given to one replica, before the engine divides it by `attn_dp`; None: the
    engine's own default. `mem_fraction` is the share of HBM for weights and KV cache. `speculation_steps` 0: off.
    `decode_graph_max_batch` is per scheduler. `overlap`: the next step is scheduled while this one runs. `routing`: how
    requests find their scheduler; `sticky` (a prefix stays where it was) is a router's in front of the engine.
    """

    tp: int
    precision: Precision
    dp: int = 1
    attn_dp: int = 1
    ep: int = 1
    kv_dtype: Literal["bf16", "fp8"] = "bf16"
    mem_fraction: float = 0.85
    chunked_prefill_tokens: int = 16384
    max_prefill_tokens: int = 16384
    max_running_requests: int | None = None
    max_queued_requests: int | None = None
    max_total_tokens: int | None = None
    context_length: int | None = None
    page_size: int = 64
    schedule_policy: str = "fcfs"
    schedule_conservativeness: float = 1.0
    speculation_steps: int = 0
    speculation_topk: int = 1
    draft_tokens: int = 0
    decode_graph_max_batch: int = 512
    mixed_chunk: bool = False
    radix_cache: bool = True
    overlap: bool = True
    stream_interval: int = 1
    routing: Routing = "round-robin"

    @property
    def gpus(self) -> int:
        return self.tp * self.dp

    @property
    def schedulers(self) -> int:
        """Independent schedulers, each with its own KV pool and queue: dp replicas x attention-DP groups."""
        return self.dp * self.attn_dp

    @property
    def max_running_per_scheduler(self) -> int | None:
        """The engine divides the given value by attention DP and keeps at least one."""
        if self.max_running_requests is None:
            return None
        return max(1, self.max_running_requests // self.attn_dp)
