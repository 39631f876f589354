"""Values -> a POSIX shell script that starts the engine on a machine without Kubernetes.

Knows no cluster: volumes, probes and selectors of the values are left out.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.export.document import comment, header


def to_command(values: Mapping[str, Any]) -> str:
    """The script. Run it in the image its header names; secrets are expected in the environment, never written."""
    launch = values["launch"]
    measured, plumbing = _lines(launch["args"]), _lines(launch["plumbing"])
    split = [
        f"Plumbing, rendered for this target and no part of the trial: the last {len(plumbing)} lines.",
        "What stands before them is the trial's own command line, byte for byte.",
    ]
    command = " \\\n  ".join([f"exec {shlex.join(launch['program'])}", *measured, *plumbing])
    return "".join([
        "#!/bin/sh\n",
        header(values, f"Launch command, to be run in {values['image']}"),
        "set -eu\n\n",
        *(f"export {name}={shlex.quote(text)}\n" for name, text in sorted(values.get("env", {}).items())),
        *(_demand(name, ref) for name, ref in sorted(values.get("secretEnv", {}).items())),
        f"\n{comment(split)}{command}\n",
    ])  # fmt: skip


def _demand(name: str, ref: Mapping[str, str]) -> str:
    return f': "${{{name}:?is a secret: set it from Secret {ref["secret"]}, key {ref["key"]}}}"; export {name}\n'


def _lines(args: Sequence[str]) -> list[str]:
    """One line per flag with its values, quoted for the shell."""
    groups: list[list[str]] = []
    for arg in args:
        if not groups or (arg.startswith("-") and not _is_number(arg)):
            groups.append([])
        groups[-1].append(arg)
    return [shlex.join(group) for group in groups]


def _is_number(arg: str) -> bool:
    try:
        float(arg)
    except ValueError:
        return False
    return True
