"""Opening a space file with the engine's flags at hand: the one entry to spaces for every command."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import UsageError
from tuner.launch.dialect import dialect, reserved_flag
from tuner.space.find import find_space
from tuner.space.load import load_space
from tuner.space.space import Space


def open_space(name: str) -> Space:
    """Find, read and check a space file, flags of its engine version included.

    Raises:
        SpaceError: with every problem found.
    """
    path = find_space(name)
    return load_space(Path(path), check_flag, shown_as=name if Path(name).exists() else path.name)


def check_flag(engine_version: str, flag: str, value: object) -> str | None:
    """What is wrong with a flag for this engine version, or None; a `value` of None is not looked at."""
    owner = reserved_flag(flag)
    if owner:
        return owner
    try:
        return dialect(engine_version).check_flag(flag, value)
    except UsageError as exc:
        return str(exc)
