"""A trial's launch command as a person would type it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tuner.study.summary import Figures


def launch_command(figures: Figures) -> str:
    """Environment, program and arguments as they were measured, one flag a line."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(figures.env.items())]
    program = shlex.join(figures.program) if figures.program else ""
    lines = flag_lines(figures.args or figures.argv)
    return "\n".join([*exports, " \\\n  ".join([program, *lines] if program else lines)])


def flag_lines(args: Sequence[str]) -> list[str]:
    """One line per flag with its values, quoted for a shell."""
    groups: list[list[str]] = []
    for arg in args:
        if not groups or (arg.startswith("--") and len(arg) > 2):
            groups.append([])
        groups[-1].append(arg)
    return [shlex.join(group) for group in groups]


def differences(args: Sequence[str], reference: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags only here, and flags only in the reference."""
    here, there = flag_lines(args), flag_lines(reference)
    return [line for line in here if line not in there], [line for line in there if line not in here]
