"""Values -> the YAML file of `sglang serve --config FILE`, and what that file cannot carry, for the command line.

sglang turns every key into `--key value` before its own parser reads them (server_args_config_parser.py, since 0.5.8):
`true` becomes the bare flag where the flag takes no value, and an error where the flag has a `--no-` form or shares its
place with a deprecated older name. Those stay on the command line. Values are quoted, so that the text is the trial's.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.errors import UsageError
from tuner.export.document import comment, dump, header
from tuner.launch.dialect import Dialect, dialect

Group = tuple[str, ...]


def to_config_file(values: Mapping[str, Any]) -> str:
    """The file, below a comment with the command that reads it.

    Raises:
        UsageError: an argument of the trial is no flag, or a flag stands there twice.
    """
    launch = values["launch"]
    speaks = dialect(values["provenance"]["engineVersion"])
    groups = _groups((*launch["args"], *launch["plumbing"]))
    aside = [group for group in groups if not fits_file(speaks, group)]
    command = [*launch["program"], "--config", "THIS_FILE.yaml", *(item for group in aside for item in group)]
    env = [f"{name}={shlex.quote(text)}" for name, text in sorted(values.get("env", {}).items())]
    secrets = [f"{name}=..." for name in sorted(values.get("secretEnv", {}))]
    lines = [f"Start it in {values['image']} with", f"  {' '.join([*env, *secrets, shlex.join(command)])}"]
    if aside:
        lines.append("The flags on that line are part of the trial too: sglang does not read them from a file.")
    return (
        header(values, "sglang configuration file: sglang serve --config THIS_FILE.yaml")
        + comment(["", *lines])
        + dump(_document([group for group in groups if fits_file(speaks, group)]))
    )


def fits_file(speaks: Dialect, group: Group) -> bool:
    """Whether sglang takes the flag from a file as it takes it from the command line."""
    flag = speaks.flags.get(group[0].removeprefix("--"))
    if flag is None or flag.kind in ("optional-bool", "const"):
        return False
    return not speaks.also_called(flag.name)


def _document(groups: Sequence[Group]) -> dict[str, Any]:
    return {name.removeprefix("--"): _value(rest) for name, *rest in groups}


def _value(words: Sequence[str]) -> bool | str | list[str]:
    if not words:
        return True
    return words[0] if len(words) == 1 else list(words)


def _groups(args: Sequence[str]) -> list[Group]:
    """The arguments, one tuple per flag with its values."""
    groups: list[list[str]] = []
    for arg in args:
        if arg.startswith("--"):
            groups.append([arg])
        elif groups:
            groups[-1].append(arg)
        else:
            raise UsageError(
                f"{arg!r} stands before any flag; a configuration file cannot carry it, use export command"
            )
    names = [group[0] for group in groups]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or any("=" in name for name in names):
        raise UsageError(f"{', '.join(twice) or 'an argument with ='}: a configuration file cannot carry it as it ran")
    return [tuple(group) for group in groups]
