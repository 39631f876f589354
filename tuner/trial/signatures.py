"""What sglang and the libraries below it print when they fail, and what each of it means. Data only.

Sources: sglang 0.5.x (the file is named where the text stands), PyTorch, NCCL/RCCL, the HIP and CUDA runtimes,
transformers and huggingface_hub; the start-up ones were seen on a real 0.5.23 server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import Pattern

from tuner.trial.result import FailureClass


@dataclass(frozen=True, slots=True)
class Signature:
    """`pattern` is looked for in exceptions, or with `anywhere` in every line. The first that matches decides."""

    kind: str
    failure_class: FailureClass
    pattern: Pattern[str]
    what: str
    next_step: str
    anywhere: bool = False


def _of(*alternatives: str) -> Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


# Running out of accelerator memory; which memory it was follows from how far the start had come.
OUT_OF_MEMORY = _of(
    r"OutOfMemoryError",
    r"(CUDA|HIP) out of memory",
    r"hipErrorOutOfMemory",
    r"CUDA_ERROR_OUT_OF_MEMORY",
    r"cudaErrorMemoryAllocation",
    r"(CUDA|HIP) error: out of memory",
)
# PyTorch's account of one GPU: how much there is, how much is free, how much is this process's own.
MEMORY_ACCOUNT = re.compile(
    r"total capacity of (?P<total>[\d.]+) (?P<total_unit>[MG]iB)"
    r" of which (?P<free>[\d.]+) (?P<free_unit>[KMG]iB|bytes) is free"
    r".*?this process has (?P<own>[\d.]+) (?P<own_unit>[MG]iB) memory in use",
    re.DOTALL,
)
# sglang model_runner: a warning in current versions, an error in older ones; with an OOM after it, it is the cause.
OCCUPIED = _of(r"memory capacity is unbalanced\. Some GPUs may be occupied")

# A complaint about what was asked for, wherever in the start it comes.
UNSUPPORTED = _of(
    r"not (currently )?(supported|compatible|implemented|allowed|available)",
    r"unsupported",
    r"incompatible",
    r"does(n't| not) support",
    r"only supports?",
    r"must (be|not|have|equal)",
    r"should (be|not)",
    r"(is|are) required",
    r"requires?\b",
    r"cannot be",
    r"can't be",
    r"divisible",
    r"unknown .* name",
)

SIGNATURES: tuple[Signature, ...] = (
    # --- not the configuration's fault
    Signature(
        "gpu_hardware",
        "infrastructure",
        _of(
            r"uncorrectable (ECC|NVLink) error",
            r"GPU is lost",
            r"fallen off the bus",
            r"ECC error encountered",
            r"hardware stack error",
            r"HSA_STATUS_ERROR_FATAL",
        ),
        "an accelerator of this machine failed",
        "the trial is repeated elsewhere; have the node checked",
        anywhere=True,
    ),
    Signature(
        "gpu_unavailable",
        "infrastructure",
        _of(
            r"No (CUDA|HIP) GPUs are available",
            r"no (CUDA|ROCm)-capable device",
            r"devices are busy or unavailable",
            r"driver version is insufficient",
            r"Found no NVIDIA driver",
            r"hipErrorNoDevice",
            r"cudaErrorSystemNotReady",
            r"system not yet initialized",
            r"/dev/kfd: (Permission denied|No such)",
        ),
        "the engine found no usable accelerator",
        "check the driver and the device plugin of this machine; the trial is repeated",
    ),
    Signature(
        "gpu_busy",
        "infrastructure",
        OCCUPIED,
        "accelerator memory is held by another process",
        "free the GPUs of this machine; the trial is repeated",
    ),
    Signature(
        "port_in_use",
        "infrastructure",
        _of(r"address already in use", r"\bEADDRINUSE\b", r"port \S+ (is|was) (already|not available)"),
        "the engine could not take a port",
        "the trial is repeated on another one",
        anywhere=True,
    ),
    Signature(
        "disk_full",
        "infrastructure",
        _of(r"No space left on device", r"\bENOSPC\b", r"Disk quota exceeded"),
        "a file system of this machine is full",
        "free it (caches, /dev/shm, the working directory); the trial is repeated",
        anywhere=True,
    ),
    Signature(
        "shared_memory",
        "infrastructure",
        _of(
            r"insufficient shared memory",
            r"\bBus error\b",
            r"unable to (open|allocate|mmap) .*shared memory",
            r"/dev/shm\b",  # noqa: S108 - looked for, not used
        ),
        "the engine ran out of shared memory",
        "give it a larger /dev/shm; the trial is repeated",
    ),
    Signature(
        "storage",
        "infrastructure",
        _of(r"Stale file handle", r"\[Errno 5\] Input/output error", r"Transport endpoint is not connected"),
        "the storage of the checkpoint failed",
        "check the model volume; the trial is repeated",
        anywhere=True,
    ),
    Signature(
        "checkpoint_access",
        "infrastructure",
        _of(
            r"couldn't connect to 'https?://",
            r"LocalEntryNotFoundError",
            r"GatedRepoError",
            r"(401|403) Client Error",
            r"(Connection|Read) ?(Error|timed out).*(huggingface|hf\.co)",
            r"Max retries exceeded with url",
        ),
        "the checkpoint could not be fetched",
        "stage it on the model volume, or give the engine network and credentials",
    ),
    # --- the configuration
    Signature(
        "quantization",
        "configuration",
        _of(
            r"does not match the quantization",
            r"quantization is currently not supported",
            r"not supported in ROCm",
            r"No quark compatible scheme",
            r"(unsupported|unknown|invalid) quantization",
            r"quantization .*(not supported|unsupported)",
            r"minimum capability.*quantization",
        ),
        "this quantization does not work here",
        "take the weights bundle out of this pool, or use another image",
    ),
    Signature(
        "checkpoint",
        "configuration",
        _of(
            r"loaded_weight\.shape",
            r"param\.shape",
            r"size mismatch for",
            r"Repo id must be in the form",
            r"not a valid model identifier",
            r"does not appear to have a file named",
            r"Cannot find any model weights",
            r"SafetensorError",
            r"Can't load (tokenizer|the configuration|config)",
            r"Unrecognized (model|configuration)",
            r"does not recognize this architecture",
            r"No such file or directory: '?[^']*(config\.json|safetensors|tokenizer)",
            r"Model architectures? .* (is|are) not supported",
        ),
        "the checkpoint does not fit the engine",
        "check the bundle's model path, that all its shards are there, and the image's version",
    ),
    Signature(
        "oom_kv",
        "configuration",
        _of(r"Not enough memory\. Please try to increase --mem-fraction-static"),  # pool_configurator.py
        "no memory is left for the KV cache beside the weights",
        "raise mem-fraction-static, spread over more GPUs, or use smaller weights",
    ),
    Signature(
        "oom_runtime",
        "configuration",
        _of(r"(Prefill|Decode) out of memory\. Try to lower your batch size"),  # allocation.py
        "the KV cache was exhausted under load",
        "lower max-running-requests or raise mem-fraction-static",
    ),
    Signature(
        "hang",
        "configuration",
        _of(
            r"watchdog timeout \(",
            r"Watchdog caught collective operation timeout",
            r"(NCCL|RCCL|gloo).*(timed out|timeout)",
            r"Health check failed\. Server couldn't get a response",
        ),
        "the engine hung until its watchdog ended it",
        "raise watchdog-timeout if a kernel was being compiled; otherwise forbid the combination",
        anywhere=True,
    ),
    Signature(
        "gpu_fault",
        "configuration",
        _of(
            r"Memory access fault by GPU",
            r"HSA_STATUS_ERROR_\w+",
            r"illegal memory access",
            r"misaligned address",
            r"device-side assert",
            r"unhandled (cuda|hip) error",
            r"(CUDA|HIP) error: (?!out of memory)",
            r"cudaErrorLaunchFailure|hipErrorLaunchFailure",
        ),
        "a kernel faulted on the accelerator",
        "try another attention or MoE backend, or another image",
        anywhere=True,
    ),
    Signature(
        "compile",
        "configuration",
        _of(
            r"Error building extension",
            r"ninja: build stopped",
            r"hipcc.*(error|failed)",
            r"nvcc fatal",
            r"CompilationError",
            r"PassManager::run failed",
            r"LLVM ERROR",
        ),
        "a kernel could not be compiled",
        "try another backend, or an image that ships this kernel",
    ),
    Signature(
        "missing_dependency",
        "configuration",
        _of(
            r"ModuleNotFoundError",
            r"No module named",
            r"is not installed",
            r"ImportError",
            r"cannot open shared object file",
        ),
        "the image lacks a package this configuration needs",
        "use an image that has it, or another backend",
    ),
)

# After these nothing is known but that somebody else ended a process.
KILLED = _of(r"crashed with exit code -9\b", r"died during initialization \(exit code: -9\)", r"exitcode: -9\b")
TERMINATED = _of(r"SIGTERM received")
