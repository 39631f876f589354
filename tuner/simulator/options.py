"""The simulated engine's own options, told apart from the sglang command line they travel with.

`--accelerator X ... -- --model-path ...`, or without `--`: own options are recognised by their exact names and all
else is sglang's. Knows no sglang flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.errors import UsageError

DEFAULT_ARCHITECTURE = "glm-5.2"

_READERS: dict[str, Any] = {
    "--accelerator": str,
    "--architecture": str,
    "--precision": str,
    "--engine-version": str,
    "--world": int,
    "--seed": int,
    "--startup-scale": float,
    "--fail": str,
}


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """Own options. `engine_version` picks the flag dialect; without it every known one is tried, newest first."""

    accelerator: str = ""
    architecture: str = DEFAULT_ARCHITECTURE
    precision: str | None = None
    engine_version: str | None = None
    world: int = 0
    seed: int = 0
    startup_scale: float = 1.0
    fail: str | None = None


def split_arguments(argv: Sequence[str]) -> tuple[SimulatorOptions, list[str]]:
    """(own options, sglang's arguments). The program in front of sglang's first option is dropped.

    Raises:
        UsageError: an own option without a value, or with one that cannot be read.
    """
    words = list(argv)
    own, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    found, others = _take_own(own)
    if "--" in words and (stray := [word for word in others if word.startswith("-")]):
        raise UsageError(f"{stray[0]} is no option of the simulated engine; sglang's own options come after `--`")
    return found, _without_program(others if "--" not in words else rest)


def _take_own(words: list[str]) -> tuple[SimulatorOptions, list[str]]:
    found: dict[str, Any] = {}
    others: list[str] = []
    queue = iter(words)
    for word in queue:
        name, equals, value = word.partition("=")
        if name not in _READERS:
            others.append(word)
            continue
        text = value if equals else next(queue, None)
        found[name[2:].replace("-", "_")] = _read(name, text)
    options = replace(SimulatorOptions(), **found)
    if options.startup_scale < 0:
        raise UsageError("--startup-scale must not be negative")
    return options, others


def _read(name: str, text: str | None) -> Any:
    if text is None:
        raise UsageError(f"{name} needs a value")
    try:
        return _READERS[name](text)
    except ValueError as exc:
        raise UsageError(f"{name} needs a number, not {text!r}") from exc


def _without_program(words: list[str]) -> list[str]:
    """`python3 -m sglang.launch_server --model-path X` -> `--model-path X`."""
    for index, word in enumerate(words):
        if word.startswith("--"):
            return words[index:]
    return []
