"""Engine failures by their real output: the captured ones of sglang 0.5.23, and texts of the libraries below it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.trial.classify import Ending, classify, exceptions_of
from tuner.trial.engine_log import TAIL_BYTES, milestone_of

DATA = Path(__file__).parent / "data"
LOADED = "[1] Load weight begin. avail mem=170 GB\n[1] Load weight end. elapsed=90 s\n"
POOLED = LOADED + "[1] Memory pool end. avail mem=10 GB\n"
FIRED = POOLED + "[1] max_total_num_tokens=65536, context_len=8192\n[1] The server is fired up and ready to roll!\n"
TRACE = "[1 TP3] Scheduler hit an exception: Traceback (most recent call last):\n  File 'a.py', line 1, in f\n    g()\n"
SIGQUIT = "\n[1] Received sigquit from a child process. It usually means the child failed.\n"
OOM = "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB."


def ending_of(code: int | None, log: str, **changes: object) -> Ending:
    milestone = milestone_of(log)
    phase = "load" if milestone == "ready" else "start"
    return Ending(code, **({"phase": phase, "after_s": 30.0, "milestone": milestone} | changes))


@pytest.mark.parametrize(
    ("name", "code", "kind", "failure_class", "says"),
    [
        ("unknown_flag", 2, "bad_flag", "configuration", "unrecognized arguments: --no-such-flag 1"),
        ("bad_choice", 2, "bad_flag", "configuration", "invalid choice: 'nonsense'"),
        ("bad_int", 2, "bad_flag", "configuration", "invalid int value: 'two'"),
        ("missing_model", 2, "bad_flag", "configuration", "required: --model-path"),
        ("quant_fp8", 2, "bad_flag", "configuration", "--quantization: invalid choice: 'nosuch'"),
        ("backend_flashinfer", 1, "missing_dependency", "configuration", "flashinfer_python"),
        ("ctx_too_long", 1, "invalid_combination", "configuration", "context_length (100000)"),
        ("dp_attn_tp1", -9, "invalid_combination", "configuration", "SGLANG_CPU_OMP_THREADS_BIND"),
        ("ep_without_tp", 1, "invalid_combination", "configuration", "1 != 2 * 1 * 0"),
        ("hub_model", 1, "checkpoint_access", "infrastructure", "couldn't connect"),
        ("model_not_found", 1, "checkpoint", "configuration", "/models/nope"),
        ("page_size_odd", 1, "invalid_combination", "configuration", "divisible by page_size"),
        ("spec_bad", 1, "invalid_combination", "configuration", "NOPE"),
        ("spec_no_draft", -9, "invalid_combination", "configuration", "EAGLE is not supported"),
        ("tp3", -9, "invalid_combination", "configuration", "SGLANG_CPU_OMP_THREADS_BIND"),
        ("crash_out_of_vocab_token_server", -9, "crash", "configuration", "IndexError: index out of range"),
        ("deepseek_v2_mla_fails_in_warmup", -9, "crash", "configuration", "batch2 tensor to be"),
        ("queue_full_then_scheduler_killed", -9, "killed", "infrastructure", "crashed with exit code -9"),
        ("normal_run_and_sigterm", 0, "killed", "infrastructure", "SIGTERM received"),
    ],
)
def test_captured_launches_are_recognised(name, code, kind, failure_class, says):
    log = (DATA / f"{name}.log").read_text()
    failure = classify(ending_of(code, log), log)
    assert (failure.kind, failure.failure_class) == (kind, failure_class)
    assert says in failure.message
    assert failure.recognised == (kind != "crash")
    assert 0 < len(failure.log_tail.encode()) <= TAIL_BYTES


@pytest.mark.parametrize(
    ("log", "code", "kind", "failure_class"),
    [
        (TRACE + OOM + SIGQUIT, -9, "oom_weights", "configuration"),
        ("[1] Load weight begin.\n" + TRACE + OOM + SIGQUIT, -9, "oom_weights", "configuration"),
        (LOADED + TRACE + OOM + SIGQUIT, -9, "oom_kv", "configuration"),
        (POOLED + TRACE + OOM + SIGQUIT, -9, "oom_graph", "configuration"),
        (FIRED + TRACE + OOM + SIGQUIT, -9, "oom_runtime", "configuration"),
        (FIRED + TRACE + "RuntimeError: HIP error: out of memory" + SIGQUIT, -9, "oom_runtime", "configuration"),
        (
            POOLED + TRACE + "Exception: Capture cuda graph failed: CUDA out of memory.\n"
            "Possible solutions:\n1. set --mem-fraction-static to a smaller value (e.g., 0.8 or 0.7)" + SIGQUIT,
            -9,
            "oom_graph",
            "configuration",
        ),
        (
            POOLED + TRACE + "Exception: Capture cuda graph failed: no kernel image" + SIGQUIT,
            -9,
            "graph_capture",
            "configuration",
        ),
        (
            LOADED + TRACE + "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static." + SIGQUIT,
            -9,
            "oom_kv",
            "configuration",
        ),
        (
            FIRED + TRACE + "RuntimeError: Decode out of memory. Try to lower your batch size." + SIGQUIT,
            -9,
            "oom_runtime",
            "configuration",
        ),
        (
            TRACE + "ValueError: modelopt_fp4 quantization is currently not supported in ROCm.",
            1,
            "quantization",
            "configuration",
        ),
        (
            TRACE + "ValueError: Quantization method specified in the model config (quark) does not match the "
            "quantization method specified in the `quantization` argument (fp8).",
            1,
            "quantization",
            "configuration",
        ),
        (
            "[1] Load weight begin.\n"
            + TRACE
            + "AssertionError: param.shape=torch.Size([2]), loaded_weight.shape=torch.Size([4])",
            -9,
            "checkpoint",
            "configuration",
        ),
        (
            FIRED + "[1] Scheduler watchdog timeout (self.watchdog_timeout=300, self.soft=False)" + SIGQUIT,
            -9,
            "hang",
            "configuration",
        ),
        (
            FIRED + "[rank3]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)",
            -6,
            "hang",
            "configuration",
        ),
        (
            FIRED + "Memory access fault by GPU node-4 (Agent handle: 0x5) on address 0x7f. Reason: Unknown.",
            -6,
            "gpu_fault",
            "configuration",
        ),
        (
            FIRED + TRACE + "RuntimeError: CUDA error: an illegal memory access was encountered",
            -9,
            "gpu_fault",
            "configuration",
        ),
        (
            TRACE + "RuntimeError: CUDA error: uncorrectable ECC error encountered",
            -9,
            "gpu_hardware",
            "infrastructure",
        ),
        (TRACE + "RuntimeError: No HIP GPUs are available", 1, "gpu_unavailable", "infrastructure"),
        (
            TRACE + "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes.",
            1,
            "gpu_busy",
            "infrastructure",
        ),
        (
            "[1] The memory capacity is unbalanced. Some GPUs may be occupied by other processes. x=1\n"
            "[1] Load weight begin.\n" + TRACE + OOM,
            -9,
            "gpu_busy",
            "infrastructure",
        ),
        (
            "[Errno 98] error while attempting to bind on address ('127.0.0.1', 3): address already in use",
            1,
            "port_in_use",
            "infrastructure",
        ),
        (TRACE + "OSError: [Errno 28] No space left on device", 1, "disk_full", "infrastructure"),
        (TRACE + "OSError: [Errno 116] Stale file handle: '/models/a'", 1, "storage", "infrastructure"),
        (
            TRACE + "RuntimeError: DataLoader worker is killed by signal: Bus error. insufficient shared memory (shm)",
            1,
            "shared_memory",
            "infrastructure",
        ),
        (TRACE + "RuntimeError: Error building extension 'module_moe'", -9, "compile", "configuration"),
        (TRACE + "ModuleNotFoundError: No module named 'aiter'", 1, "missing_dependency", "configuration"),
        ("", 0, "crash", "configuration"),
        (
            FIRED + "[1] Subprocess scheduler_0 (pid=1) crashed with exit code -11." + SIGQUIT,
            -9,
            "crash",
            "configuration",
        ),
        (FIRED, None, "hang", "configuration"),
        (LOADED, None, "not_ready", "configuration"),
        (FIRED + TRACE + "KeyError: 'x'", None, "crash", "configuration"),
        (LOADED, -9, "killed", "infrastructure"),
        (LOADED + TRACE + "TypeError: unexpected keyword", 1, "crash", "configuration"),
        (
            "terminate called after throwing an instance of 'c10::Error'\n  what():  CUDA error: bad",
            -6,
            "gpu_fault",
            "configuration",
        ),
    ],
)
def test_known_texts_are_sorted_by_what_must_happen_next(log, code, kind, failure_class):
    failure = classify(ending_of(code, log), log)
    assert (failure.kind, failure.failure_class) == (kind, failure_class)


def test_a_bus_error_is_shared_memory_only_in_an_exception():
    """A healthy log may mention /dev/shm."""
    log = "[1] using /dev/shm for weights\n" + TRACE + "KeyError: 'x'"
    assert classify(ending_of(1, log), log).kind == "crash"


@pytest.mark.parametrize(("held", "kind"), [("150.00", "oom_weights"), ("10.00", "gpu_busy")])
def test_memory_that_nobody_of_ours_holds_is_the_machines_fault(held, kind):
    log = TRACE + (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
        "178.00 GiB of which 20.00 GiB is free. Including non-PyTorch memory, "
        f"this process has {held} GiB memory in use."
    )
    assert classify(ending_of(-9, log), log).kind == kind


@pytest.mark.parametrize(
    ("host_memory", "kind", "failure_class"),
    [
        ("limit", "host_oom", "configuration"),
        ("machine", "host_oom", "infrastructure"),
        ("", "killed", "infrastructure"),
    ],
)
def test_a_vanished_process_is_the_configurations_fault_only_at_its_own_limit(host_memory, kind, failure_class):
    log = LOADED + "[1] Rank 0 scheduler died during initialization (exit code: -9).\n"
    failure = classify(ending_of(-9, log, host_memory=host_memory), log)
    assert (failure.kind, failure.failure_class) == (kind, failure_class)


def test_the_root_cause_comes_before_what_other_ranks_say_about_it():
    log = (
        LOADED
        + TRACE
        + OOM
        + "\n\n"
        + TRACE.replace("TP3", "TP1")
        + "RuntimeError: [gloo] Connection closed by peer, operation timed out"
    )
    assert classify(ending_of(-9, log), log).kind == "oom_kv"


def test_a_chain_is_told_by_its_end():
    log = (
        "Traceback (most recent call last):\n  x\nKeyError: 'inner'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n  y\nValueError: outer\n"
    )
    assert exceptions_of(log) == ["ValueError: outer", "KeyError: 'inner'"]


def test_a_milestone_seen_live_outweighs_a_log_that_has_lost_it():
    failure = classify(ending_of(-9, TRACE + OOM, milestone="ready", phase="load"), TRACE + OOM)
    assert failure.kind == "oom_runtime"


def test_the_message_names_what_where_and_the_next_step():
    log = (DATA / "page_size_odd.log").read_text()
    what, where, next_step = classify(ending_of(1, log), log).message.split(" - ")
    assert what == "the engine refused this combination"
    assert where.startswith("while starting, exit code 1 after 30 s: AssertionError")
    assert next_step.startswith("forbid the combination")


@given(
    st.one_of(st.none(), st.integers(-64, 255)),
    st.text(max_size=400),
    st.sampled_from(["start", "load"]),
    st.sampled_from(["", "limit", "machine"]),
)
def test_any_ending_is_classified(code, log, phase, host_memory):
    """Total: whatever an engine printed, there is a failure with a message and a bounded tail."""
    failure = classify(Ending(code, phase, 1.0, host_memory=host_memory), log)
    assert failure.message
    assert len(failure.log_tail.encode()) <= TAIL_BYTES
