"""Read a launch command line the way the engine's own parser does: aliases, unique prefixes, `--flag=value`.

Knows the flags of a dialect; what the values lead to is decided in `resolve`.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any, NoReturn

from tuner.launch.dialect import Dialect, canonical, dialect
from tuner.launch.flags import READERS, Flag, flag_table
from tuner.launch.start_up import ArgumentsError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentsError(message)


def parse_argv(argv: Sequence[str], speaks: Dialect | None = None) -> dict[str, Any]:
    """Canonical flag -> value, for the flags given and no others. `argv` is what follows the program.

    Without a dialect the newest one is spoken.

    Raises:
        ArgumentsError: what argparse refuses: an unknown or ambiguous option, a bad choice or type, no --model-path.
    """
    return vars(_parser(speaks.key if speaks else flag_table().newest).parse_args(list(argv)))


@functools.cache
def _parser(key: tuple[int, int, int]) -> _Parser:
    speaks = dialect(".".join(map(str, key)))
    parser = _Parser(prog="sglang serve", add_help=False, argument_default=argparse.SUPPRESS)
    for flag in speaks.flags.values():
        _add(parser, flag, flag.choices_in(key))
    return parser


def _add(parser: _Parser, flag: Flag, allowed: tuple[str, ...] | None) -> None:
    dest = canonical(flag.name)
    names = [f"--{name}" for name in (flag.name, *flag.aliases)]
    if flag.kind == "flag":
        parser.add_argument(*names, dest=dest, action="store_true")
    elif flag.kind == "optional-bool":
        positive = [name for name in names if not name.startswith("--no-")]
        parser.add_argument(*positive, dest=dest, action=argparse.BooleanOptionalAction)
    else:
        read = READERS.get(flag.kind, str)
        choices = [read(choice) for choice in allowed] if allowed else None
        parser.add_argument(
            *names, dest=dest, type=read, choices=choices, nargs=flag.nargs, required=flag.name == "model-path"
        )
