"""Failures a trial knows by itself, without reading the engine's log: messages say what, to which thing, what next."""

from __future__ import annotations

from tuner.space.traffic import TrafficError
from tuner.trial.result import Failure


def bad_command(argv: tuple[str, ...], error: OSError) -> Failure:
    """The engine's program could not be executed."""
    program = argv[0] if argv else "(empty)"
    message = (
        f"the engine could not be started - {program}: {error.strerror or error} - correct the pool's command or image"
    )
    return Failure("configuration", "bad_command", message)


def checkpoint_incomplete(problem: str) -> Failure:
    """A file of the checkpoint is not there, or not all of it."""
    message = f"the checkpoint is not complete - {problem} - copy it again, or correct the model's path"
    return Failure("configuration", "checkpoint_incomplete", message)


def accelerator_memory_busy(held: str, after_s: float) -> Failure:
    """Somebody else holds the memory this engine would need."""
    message = (
        f"accelerator memory was not freed in {after_s:.0f} s - {held} in use - "
        "end what holds it, or have the driver looked at; the trial is repeated"
    )
    return Failure("infrastructure", "accelerator_memory_busy", message)


def interrupted(reason: str) -> Failure:
    """Somebody asked the trial to stop."""
    message = f"the trial was ended before it was done - {reason} - it is run again"
    return Failure("infrastructure", "interrupted", message)


def overrun(after_s: float) -> Failure:
    """The load neither ended nor failed."""
    message = f"the load did not end - {after_s:.0f} s, far beyond its own deadline - the trial is repeated"
    return Failure("infrastructure", "probe_overrun", message)


def runner_fault(error: Exception) -> Failure:
    """Something went wrong in the runner itself."""
    message = f"the runner failed - {type(error).__name__}: {error} - the trial is repeated"
    return Failure("infrastructure", "runner_fault", message)


def unusable_traffic(error: TrafficError) -> Failure:
    """The workload's prompts or trace are not here, or are others than the study was begun with."""
    message = f"the workload's file cannot be used - {error} - give the runner the study's own file (--files DIR)"
    return Failure("infrastructure", "traffic_file", message)
