"""Why an engine failed, from its exit code, the end of its log and where it stood: `classify`.

Pure. An exit code alone says little: sglang ends its own process tree with SIGKILL (137) after any child's failure.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tuner.trial.engine_log import Milestone, later, milestone_of, redact, short_tail
from tuner.trial.result import Failure, FailureClass
from tuner.trial.signatures import (
    KILLED,
    MEMORY_ACCOUNT,
    OCCUPIED,
    OUT_OF_MEMORY,
    SIGNATURES,
    TERMINATED,
    UNSUPPORTED,
)

_EVIDENCE_CHARS = 300
_GIB = {"bytes": 2.0**-30, "KiB": 2.0**-20, "MiB": 2.0**-10, "GiB": 1.0}
# What a driver context, communication buffers and fragmentation take outside PyTorch's own account: up to a few GiB.
_UNEXPLAINED_GIB = 8.0

_USAGE_ERROR = re.compile(r"^\S.*: error: .*", re.MULTILINE)
_EXCEPTION = re.compile(
    r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Fault|Warning)|Exception|[A-Z]\w*)(?::|$)"
)
_DYING_WORDS = re.compile(
    r"crashed with exit code|died during init|Fatal Python error|Segmentation fault|core dumped|Killed"
)
_NOT_A_MESSAGE = re.compile(r"^(\[|Traceback|The above exception|During handling|\S+: error:|$)")
_COMPLAINTS = ("ValueError", "AssertionError", "NotImplementedError", "RuntimeError", "TypeError", "Exception")


@dataclass(frozen=True, slots=True)
class Ending:
    """How an engine came to its end. `exit_code` None: it still runs and does not do what it should.

    `phase`: it never generated (`start`), or it had (`load`). `milestone` is how far its log had got when that was
    seen live; the log's end alone may have lost it. `host_memory`: this container's memory limit was hit (`limit`), or
    the machine's kernel killed a process though it was not (`machine`).
    """

    exit_code: int | None
    phase: Literal["start", "load"]
    after_s: float
    milestone: Milestone = "launch"
    host_memory: Literal["", "limit", "machine"] = ""


def classify(ending: Ending, log: str, *, secrets: tuple[str, ...] = ()) -> Failure:
    """The failure of an engine that ended as `ending`, with `log` as the end of its output."""
    finding = _find(ending, log)
    where = _where(ending)
    evidence = redact(" ".join(finding.evidence.split()), secrets)[:_EVIDENCE_CHARS]
    message = " - ".join(
        part for part in (finding.what, f"{where}{': ' if evidence else ''}{evidence}", finding.next_step) if part
    )
    return Failure(finding.failure_class, finding.kind, message, short_tail(log, secrets), finding.recognised)


@dataclass(frozen=True, slots=True)
class _Finding:
    kind: str
    failure_class: FailureClass
    what: str
    evidence: str
    next_step: str
    recognised: bool = True


def _find(ending: Ending, log: str) -> _Finding:
    milestone = later(ending.milestone, milestone_of(log))
    exceptions = exceptions_of(log)
    return (
        _bad_flag(ending, log)
        or _memory(exceptions, log, milestone)
        or _signature(exceptions, log)
        or _host(ending, log)
        or _complaint(ending, exceptions, milestone)
        or _silence(ending, exceptions, milestone)
        or _crash(exceptions, log)
    )


def _bad_flag(ending: Ending, log: str) -> _Finding | None:
    """The argument parser ends with 2 after a usage text, and with one line that says why."""
    found = _USAGE_ERROR.findall(log) if ending.exit_code == 2 else []
    if not found:
        return None
    why = found[-1].partition(": error: ")[2]
    return _Finding(
        "bad_flag",
        "configuration",
        "the engine refused its command line",
        why,
        "correct the flag in the space file, or the engine version of its pool",
    )


def _memory(exceptions: Sequence[str], log: str, milestone: Milestone) -> _Finding | None:
    """Accelerator memory ran out: whose fault depends on who held it, which kind on how far the start was."""
    found = next((text for text in exceptions if OUT_OF_MEMORY.search(text)), "")
    capture = "Capture cuda graph failed" in found
    if not found and not capture:
        return None
    if _held_by_others(found) or OCCUPIED.search(log):
        next_step = "free the GPUs of this machine; the trial is repeated"
        return _Finding("gpu_busy", "infrastructure", "accelerator memory is held by another process", found, next_step)
    kind, what, next_step = _OOM["graphs" if capture else milestone]
    return _Finding(kind, "configuration", what, found, next_step)


_WEIGHTS = ("oom_weights", "the weights do not fit", "spread over more GPUs or use smaller weights")
_RUNTIME = (
    "oom_runtime",
    "accelerator memory ran out while serving",
    "lower mem-fraction-static or chunked-prefill-size: activations need more room",
)
_OOM: dict[Milestone, tuple[str, str, str]] = {
    "launch": _WEIGHTS,
    "weights": _WEIGHTS,
    "memory": (
        "oom_kv",
        "the KV cache does not fit beside the weights",
        "lower mem-fraction-static or spread over more GPUs",
    ),
    "graphs": (
        "oom_graph",
        "accelerator memory ran out while capturing graphs",
        "lower mem-fraction-static or the graphs' largest batch",
    ),
    "warmup": _RUNTIME,
    "ready": _RUNTIME,
}


def _held_by_others(out_of_memory: str) -> bool:
    account = MEMORY_ACCOUNT.search(out_of_memory)
    if account is None:
        return False
    total, free, own = (float(account[name]) * _GIB[account[f"{name}_unit"]] for name in ("total", "free", "own"))
    return total - free - own > max(_UNEXPLAINED_GIB, 0.1 * total)


def _signature(exceptions: Sequence[str], log: str) -> _Finding | None:
    lines = [line for line in log.splitlines() if "server_args=" not in line]
    for signature in SIGNATURES:
        places = (*exceptions, *lines) if signature.anywhere else exceptions
        found = next((text for text in places if signature.pattern.search(text)), "")
        if found:
            return _Finding(signature.kind, signature.failure_class, signature.what, found, signature.next_step)
    if "Capture cuda graph failed" in log:
        what, next_step = "graphs could not be captured", "try another attention backend or disable graphs"
        return _Finding("graph_capture", "configuration", what, exceptions[0] if exceptions else "", next_step)
    return None


def _host(ending: Ending, log: str) -> _Finding | None:
    """A process vanished without a word of its own: out of host memory, or killed by somebody."""
    if ending.exit_code is None:
        return None
    if ending.host_memory == "limit":
        next_step = "raise the memory limit of the pod, or lower the loader's threads"
        return _Finding("host_oom", "configuration", "the container's memory limit was hit", "", next_step)
    # sglang ends itself with SIGKILL after a child's failure, and says so.
    own_doing = "Traceback" in log or "sigquit" in log.lower()
    by_signal = ending.exit_code in (-signal.SIGKILL, -signal.SIGTERM) and not own_doing
    line = next((text for text in log.splitlines() if KILLED.search(text) or TERMINATED.search(text)), "")
    if ending.host_memory == "machine":
        next_step = "the trial is repeated; see what else uses the memory of this machine"
        return _Finding("host_oom", "infrastructure", "the machine ran out of memory", line, next_step)
    if "Traceback" not in log and (line or by_signal):
        next_step = "the trial is repeated; see the kernel's log for who did it"
        return _Finding("killed", "infrastructure", "a process of the engine was killed from outside", line, next_step)
    return None


def _complaint(ending: Ending, exceptions: Sequence[str], milestone: Milestone) -> _Finding | None:
    """Python's own refusals while starting: before weights load everything is about the arguments."""
    if ending.phase != "start" or not exceptions or ending.exit_code is None:
        return None
    text = exceptions[0]
    name = text.partition(":")[0].rpartition(".")[2].strip()
    refused = name in _COMPLAINTS and (milestone == "launch" or bool(UNSUPPORTED.search(text)))
    if not refused:
        return None
    next_step = "forbid the combination by a rule, or change one of its flags"
    return _Finding("invalid_combination", "configuration", "the engine refused this combination", text, next_step)


def _silence(ending: Ending, exceptions: Sequence[str], milestone: Milestone) -> _Finding | None:
    """It runs and says nothing. With an exception in its log it is a crash that has not ended the process yet."""
    if ending.exit_code is not None or (exceptions and ending.phase == "load"):
        return None
    if ending.phase == "load":
        next_step = "forbid the combination if it happens again"
        return _Finding("hang", "configuration", "the engine stopped answering under load", "", next_step)
    text = exceptions[0] if exceptions else f"last seen: {_STAGE[milestone]}"
    next_step = "raise deadlines.ready in the space file if it was still at work"
    return _Finding("not_ready", "configuration", "the engine did not generate in time", text, next_step)


_STAGE: dict[Milestone, str] = {
    "launch": "nothing loaded yet",
    "weights": "loading weights",
    "memory": "allocating memory",
    "graphs": "capturing graphs",
    "warmup": "warming up",
    "ready": "fired up",
}


def _crash(exceptions: Sequence[str], log: str) -> _Finding:
    lines = short_tail(log).splitlines()
    telling = [line for line in lines if _DYING_WORDS.search(line)]
    evidence = next(iter([*exceptions, *telling, *lines[-1:]]), "")
    next_step = "see the log tail; nothing known matches it"
    return _Finding("crash", "configuration", "the engine crashed", evidence, next_step, recognised=False)


def _where(ending: Ending) -> str:
    when = {"start": "while starting", "load": "under load"}[ending.phase]
    return f"{when}, {_exit_text(ending.exit_code)} after {ending.after_s:.0f} s"


def _exit_text(code: int | None) -> str:
    if code is None:
        return "still running"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


def exceptions_of(log: str) -> list[str]:
    """The messages of all tracebacks and C++ aborts, the first cause's outcome first.

    In a chain ("direct cause of ...") the last one is what ended the process; it comes before what other ranks said
    afterwards, and before its own causes.
    """
    found: list[list[str]] = []
    chain: list[str] = []
    lines = log.replace("\r", "\n").splitlines()
    chained = False
    for index, line in enumerate(lines):
        if line.startswith(("The above exception was", "During handling of the above")):
            chained = True
        if "Traceback (most recent call last)" in line:
            message = _message_below(lines, index + 1)
            if not chained:
                chain = []
                found.append(chain)
            chain.insert(0, message)
            chained = False
        elif line.lstrip().startswith("what():"):
            found.append([line.partition("what():")[2].strip()])
    return [text for chain in found for text in chain if text]


def _message_below(lines: Sequence[str], start: int) -> str:
    """The exception under a traceback, with the lines its text goes on for."""
    index = start
    while index < len(lines) and (lines[index].startswith((" ", "\t")) or not lines[index]):
        index += 1
    if index == len(lines) or not _EXCEPTION.match(lines[index]):
        return ""
    message = [lines[index]]
    for line in lines[index + 1 : index + 8]:
        if _NOT_A_MESSAGE.match(line):
            break
        message.append(line)
    return "\n".join(message)
