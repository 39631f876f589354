"""The lines real sglang writes on stderr while it starts, serves and dies, as far as people and log readers use them.

Taken from logs of sglang 0.5.23. Knows no time: a line is paired with the share of the start-up after which it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.model.catalogue import GIB
from tuner.model.memory import MemoryPlan

Line = tuple[float, str]
"""(share of the start-up time that has passed, the line)."""

DTYPES = {"bf16": "torch.bfloat16", "fp8": "torch.float8_e4m3fn"}
RANK_PREFIX = "{now} TP0"
READY = "[{now}] The server is fired up and ready to roll!"
SIGQUIT = "[{now}] Received sigquit from a child process. It usually means the child failed."

_SITE = "/usr/local/lib/python3.11/site-packages/sglang"


def _frame(where: str, call: str) -> str:
    """One frame of a traceback: `where` is `file", line n, in function`, below the package."""
    return f'  File "{_SITE}/{where}\n    {call}'


_ENTRY = _frame('launch_server.py", line 29, in run_server', "server_args.resolve_once()")
_SCHEDULER = _frame('srt/managers/scheduler.py", line 6362, in run', "scheduler = Scheduler(server_args, port_args)")
_FORWARD = _frame(
    'srt/managers/scheduler.py", line 3020, in run_batch',
    "batch_result = self.model_worker.forward_batch_generation(batch)",
)
_DIVIDE = _frame(
    'srt/distributed/utils.py", line 23, in ensure_divisibility',
    'assert numerator % denominator == 0, "{{}} is not divisible by {{}}".format(',
)
_LOADER = _frame(
    'srt/layers/parameter.py", line 118, in load_column_parallel_weight',
    "assert self.data.shape == loaded_weight.shape",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the log tells of an engine."""

    flags: Mapping[str, Any]
    plan: MemoryPlan
    max_running: int
    context_tokens: int
    vendor: str

    @property
    def watchdog_s(self) -> float:
        """How long a step may take before the engine ends itself; sglang's own default where nothing is given."""
        return float(self.flags.get("watchdog-timeout", 300))

    @property
    def weights_gb(self) -> float:
        return self.plan.weights_bytes / GIB

    @property
    def hbm_gb(self) -> float:
        return self.plan.acc.hbm_bytes / GIB


def _begin(facts: Facts) -> list[Line]:
    args = {name.replace("-", "_"): value for name, value in facts.flags.items()}
    rank = f"[{RANK_PREFIX}]"
    return [
        (0.02, f"[{{now}}] server_args={_braces(args)}"),
        (0.05, f"{rank} Init parallel begin."),
        (0.07, f"{rank} Init parallel ends. elapsed=3.26 s"),
        (0.08, f"{rank} Load weight begin. avail mem={facts.hbm_gb - 5:.2f} GB"),
    ]


def _loaded(facts: Facts) -> list[Line]:
    left = facts.hbm_gb - 5 - facts.weights_gb
    end = f"Load weight end. elapsed=120.00 s, type={facts.plan.arch.name}, avail mem={left:.2f} GB"
    return [(0.60, f"[{RANK_PREFIX}] {end}, mem usage={facts.weights_gb:.2f} GB.")]


def _pooled(facts: Facts) -> list[Line]:
    plan, rank = facts.plan, f"[{RANK_PREFIX}]"
    size = plan.kv_capacity_tokens * plan.kv_bytes_per_token / GIB
    left = facts.hbm_gb - 5 - facts.weights_gb - size
    pool = f"dtype: {DTYPES[plan.settings.kv_dtype]}, #tokens: {plan.kv_capacity_tokens}, KV size: {size:.2f} GB"
    return [
        (0.62, f"{rank} KV Cache is allocated. {pool}"),
        (0.63, f"{rank} Memory pool end. avail mem={left:.2f} GB"),
        (0.65, f"{rank} Capture cuda graph begin. This can take up to several minutes. avail mem={left:.2f} GB"),
    ]


def starting(facts: Facts) -> list[Line]:
    """A start that succeeds, up to the moment the HTTP server listens."""
    plan, rank = facts.plan, f"[{RANK_PREFIX}]"
    left = max(0.0, plan.dynamic_margin_gib)
    captured = f"Time elapsed: 40.00 s. mem usage={plan.graph_bytes / GIB:.2f} GB. avail mem={left:.2f} GB."
    return [
        *_begin(facts),
        *_loaded(facts),
        *_pooled(facts),
        (0.90, f"{rank} Capture cuda graph end. {captured}"),
        (0.92, f"{rank} {_capacity(facts, left)}"),
        (0.94, "[{now}] INFO:     Started server process [{pid}]"),
        (0.94, "[{now}] INFO:     Waiting for application startup."),
        (0.95, "[{now}] INFO:     Application startup complete."),
    ]


def _capacity(facts: Facts, left_gb: float) -> str:
    settings = facts.plan.settings
    return (
        f"max_total_num_tokens={facts.plan.kv_capacity_tokens}, "
        f"chunked_prefill_size={settings.chunked_prefill_tokens}, "
        f"max_prefill_tokens={settings.max_prefill_tokens}, max_running_requests={facts.max_running}, "
        f"context_len={facts.context_tokens}, available_gpu_mem={left_gb:.2f} GB"
    )


def refused(rule: str, message: str) -> list[Line]:
    """A start-up rule is violated: a traceback, nothing loaded."""
    kind = "AssertionError" if rule == "chunk-in-pages" else "ValueError"
    return [(1.0, f"Traceback (most recent call last):\n{_ENTRY}\n{kind}: {_braces(message)}")]


def bad_flag(message: str) -> list[Line]:
    """Argparse refuses the command line."""
    usage = "usage: sglang serve [-h] --model-path MODEL_PATH\n                    [--tokenizer-path TOKENIZER_PATH]"
    return [(1.0, f"{usage}\nsglang serve: error: {_braces(message)}")]


def out_of_memory_loading(facts: Facts) -> list[Line]:
    """The weights do not fit."""
    free = max(0.05, facts.hbm_gb - 5 - 0.9 * facts.weights_gb) % 1
    error = (
        f"torch.OutOfMemoryError: {_platform(facts)} out of memory. Tried to allocate {free + 0.4:.2f} GiB. "
        f"GPU 0 has a total capacity of {facts.hbm_gb:.2f} GiB of which {free:.2f} GiB is free."
    )
    return [*_begin(facts), (0.5, _scheduler_died(_SCHEDULER, error)), (0.5, SIGQUIT)]


def indivisible(facts: Facts, error: str) -> list[Line]:
    """The model cannot be cut into so many parts: the schedulers fail while they build its layers."""
    where = f"{_SCHEDULER}\n{_DIVIDE}" if ":" in error else _SCHEDULER
    return [*_begin(facts), (0.09, _scheduler_died(where, error)), (0.09, SIGQUIT)]


def wrong_shape(facts: Facts) -> list[Line]:
    """A layer was built for another format than its weights have."""
    hidden = facts.plan.arch.hidden
    error = (
        f"AssertionError: param.shape=torch.Size([{hidden}, {hidden // 2}]), "
        f"loaded_weight.shape=torch.Size([{hidden}, {hidden}])"
    )
    return [*_begin(facts), (0.4, _scheduler_died(f"{_SCHEDULER}\n{_LOADER}", error)), (0.4, SIGQUIT)]


def out_of_memory_pool(facts: Facts) -> list[Line]:
    """Nothing is left for the KV cache: the fraction is too small."""
    error = (
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. "
        f"Current value: self.server_args.mem_fraction_static={facts.plan.settings.mem_fraction:g}"
    )
    return [*_begin(facts), *_loaded(facts), (0.62, _scheduler_died(_SCHEDULER, error)), (0.62, SIGQUIT)]


def out_of_memory_capture(facts: Facts) -> list[Line]:
    """Nothing is left beside weights and KV cache: the fraction is too large."""
    error = (
        f"Exception: Capture cuda graph failed: {_platform(facts)} out of memory. Tried to allocate 1.50 GiB.\n"
        "Possible solutions:\n"
        "1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)\n"
        "2. set --cuda-graph-max-bs-decode to a smaller value (e.g., 16)\n"
        "3. disable torch compile by not using --enable-torch-compile\n"
        "4. disable CUDA graph by --disable-cuda-graph. (Not recommended. Huge performance loss)"
    )
    head = [*_begin(facts), *_loaded(facts), *_pooled(facts)]
    return [*head, (0.70, _scheduler_died(_SCHEDULER, error)), (0.70, SIGQUIT)]


def died_serving(kind: str, facts: Facts) -> list[str]:
    """A crash after the start, or the watchdog's end of a hang: what the log ends with."""
    if kind == "hang":
        timeout = f"(self.watchdog_timeout={facts.watchdog_s:g}, self.soft=False)"
        return [f"[{RANK_PREFIX}] Scheduler watchdog timeout {timeout}", SIGQUIT]
    if kind == "bad_token":
        error = "IndexError: index out of range in self"
    elif kind == "oom_runtime":
        size = facts.plan.transient_bytes / GIB
        error = (
            f"torch.OutOfMemoryError: {_platform(facts)} out of memory. Tried to allocate {size:.2f} GiB. "
            f"GPU 0 has a total capacity of {facts.hbm_gb:.2f} GiB of which {size * 0.75:.2f} GiB is free."
        )
    elif facts.vendor == "amd":
        error = "RuntimeError: HIP error: an illegal memory access was encountered"
    else:
        error = "RuntimeError: CUDA error: an illegal memory access was encountered"
    return [_scheduler_died(_FORWARD, error), SIGQUIT]


def retracted(count: int) -> str:
    """The pool is full under load: not fatal, but the newest requests start over."""
    return f"[{RANK_PREFIX}] KV cache pool is full. Retract requests. #retracted_reqs: {count}"


def _scheduler_died(where: str, error: str) -> str:
    return (
        f"[{RANK_PREFIX}] Scheduler hit an exception: Traceback (most recent call last):\n{where}\n{_braces(error)}\n"
    )


def _platform(facts: Facts) -> str:
    return "HIP" if facts.vendor == "amd" else "CUDA"


def _braces(value: object) -> str:
    """Text that survives `str.format`, by which times are filled in."""
    return str(value).replace("{", "{{").replace("}", "}}")
