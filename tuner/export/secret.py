"""Refuses what must not be written into an export: names that look like secrets, and simulation switches.

Judges names alone, never values: a value is not even put into a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tuner.errors import UsageError
from tuner.space.secrets import looks_secret


def refuse_secrets(env: Mapping[str, str], args: Iterable[str], referenced: Iterable[str]) -> None:
    """Check what is about to be written. `referenced` are the variables that come from a Secret instead.

    Raises:
        UsageError: a variable or a flag would carry a secret, or a variable would switch on a simulation.
    """
    known = set(referenced)
    for name in sorted(env):
        if name.startswith("SGLANG_SIMULATE_"):
            raise UsageError(f"environment variable {name} simulates the engine and is never exported; measure without")
        if name not in known and looks_secret(name):
            raise UsageError(
                f"environment variable {name} looks like a secret and is never written; take it out of the space "
                "file's env and refer to a Kubernetes Secret instead (secretEnv in the chart's values)"
            )
    for arg in args:
        flag = arg.partition("=")[0]
        if flag.startswith("--") and looks_secret(flag):
            raise UsageError(f"flag {flag} looks like a secret and is never written; take it out of the space file")
