"""What is looked at before an engine is started: its checkpoint's files, the accelerators' memory, its command line.

Answers with the failure that makes a start useless, or None. Knows no engine process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.trial import failures
from tuner.trial.accelerators import Memory, memory_in_use
from tuner.trial.checkpoint_files import incomplete_checkpoint
from tuner.trial.classify import Ending, classify
from tuner.trial.preflight import Preflight, parser_command
from tuner.trial.result import Failure
from tuner.trial.spec import TrialSpec

# Share of an accelerator's memory that may be in use: contexts and monitors hold a few percent. InferenceX's scripts
# for MI355X wait for the same.
FREE_BELOW = 0.10

_LOOK_EVERY_S = 3.0
_NAP_S = 0.2
_SAY_EVERY_S = 60.0

ReadMemory = Callable[[Mapping[str, str], int], Sequence[Memory]]


@dataclass(slots=True)
class Surroundings:
    """What the waiting needs of the world; tests give their own."""

    say: Callable[[str], None]
    stop_reason: Callable[[], str]
    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    read_memory: ReadMemory = memory_in_use


def busy(memories: Sequence[Memory]) -> str:
    """Which accelerators are not free, for people; "" if all are."""
    held = [f"GPU {memory.name} {memory.used_share:.0%}" for memory in memories if memory.used_share > FREE_BELOW]
    return ", ".join(held)


def before_start(
    spec: TrialSpec, env: Mapping[str, str], workdir: Path, around: Surroundings, *, mark: str, secrets: tuple[str, ...]
) -> Failure | None:
    """Why this engine need not be started; waits for memory. `env` is the engine's whole environment."""
    if problem := incomplete_checkpoint(spec.argv):
        return failures.checkpoint_incomplete(problem)
    if spec.simulated:  # it computes, on no accelerator
        return None
    return _await_memory(spec, env, around, _Parser(spec, workdir, mark, secrets))


def _await_memory(spec: TrialSpec, env: Mapping[str, str], around: Surroundings, parser: _Parser) -> Failure | None:
    began_s = around.now_s()
    told_s = -_SAY_EVERY_S
    try:
        while held := busy(around.read_memory(env, spec.gpus)):
            waited_s = around.now_s() - began_s
            if waited_s >= spec.deadlines.memory_free_s:
                return failures.accelerator_memory_busy(held, waited_s)
            if waited_s - told_s >= _SAY_EVERY_S:
                around.say(f"waiting for accelerator memory: {held}")
                told_s = waited_s
            if failure := parser.refusal(waited_s) or _nap(around):
                return failure
        return None
    finally:
        parser.end()


def _nap(around: Surroundings) -> Failure | None:
    """Until the next look, or until somebody wants an end."""
    give_up_s = around.now_s() + _LOOK_EVERY_S
    while around.now_s() < give_up_s:
        if reason := around.stop_reason():
            return failures.interrupted(reason)
        around.sleep(_NAP_S)
    return None


class _Parser:
    """Asks the engine's parser once there is something to wait for; a free machine's engine is asked itself."""

    def __init__(self, spec: TrialSpec, workdir: Path, mark: str, secrets: tuple[str, ...]) -> None:
        self._spec = spec
        self._workdir = workdir
        self._mark = mark
        self._secrets = secrets
        self._command = parser_command(spec.argv)
        self._preflight: Preflight | None = None

    def refusal(self, after_s: float) -> Failure | None:
        if self._command is None:
            return None
        if self._preflight is None:
            try:
                self._preflight = Preflight(self._command, self._spec.env, self._workdir, mark=self._mark)
            except OSError:  # the engine's own start will say it better
                self._command = None
            return None
        text = self._preflight.refusal()
        if not text:
            return None
        found = classify(Ending(2, "start", after_s), text, secrets=self._secrets)
        return found if found.kind == "bad_flag" else None

    def end(self) -> None:
        if self._preflight is not None:
            self._preflight.end()
