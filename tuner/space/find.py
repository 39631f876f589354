"""Where a space file named on the command line is: a local file first, then one that ships with the tuner."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import Problem, SpaceError
from tuner.space.nearest import did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent
_SHIPPED = (_PACKAGE / "_shipped" / "search_spaces", _PACKAGE.parent / "search_spaces")


def shipped_spaces() -> dict[str, Path]:
    """File name -> path of every space that ships: inside the wheel, or beside the package in a checkout."""
    for folder in _SHIPPED:
        found = sorted(folder.glob("*.yaml"))
        if found:
            return {path.name: path for path in found}
    return {}


def find_space(name: str) -> Path:
    """The file `name` means.

    Raises:
        SpaceError: neither a local file nor a shipped space.
    """
    local = Path(name)
    if local.exists():
        return local
    shipped = shipped_spaces()
    for candidate in (name, f"{name}.yaml"):
        if candidate in shipped:
            return shipped[candidate]
    hint = did_you_mean(local.name, shipped)
    raise SpaceError([Problem(name, 0, 0, f"no such file, and no space of that name ships with the tuner{hint}")])
