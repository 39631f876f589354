"""The flags of sglang by version, and how the text of one value is read.

Knows the table in `data/sglang_flags.json` and nothing else: which dialect an engine speaks is decided in `dialect`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import Any

VersionKey = tuple[int, int, int]

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?![\d])(?:\.?(?:post|rc|dev|a|b)\d*)*(?:[+-].*)?")
_SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_COUNT = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)")


def version_key(version: str) -> VersionKey | None:
    """`0.5.13.post1`, `v0.5.16-rocm720` -> (0, 5, 13), (0, 5, 16): post-releases speak their release's dialect."""
    match = _VERSION.fullmatch(version.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


@dataclass(frozen=True, slots=True)
class Flag:
    """One spelling. `first` and `last` are the sampled versions it was seen in; `last` None: in the newest too.

    `kind` is the parser's type (`flag` and `optional-bool` take no value), `nargs` its count (`+`, `*`, `?`) or None.
    `choices` lists (from this version on, allowed values or None where they are free or not known).
    """

    name: str
    kind: str
    aliases: tuple[str, ...]
    nargs: str | None
    first: VersionKey
    last: VersionKey | None
    choices: tuple[tuple[VersionKey, tuple[str, ...] | None], ...]

    @property
    def takes_value(self) -> bool:
        return self.kind not in ("flag", "optional-bool")

    def exists_in(self, version: VersionKey) -> bool:
        """Between two sampled versions only what both have counts: a flag that may be missing is not passed."""
        return self.first <= version and (self.last is None or version <= self.last)

    def choices_in(self, version: VersionKey) -> tuple[str, ...] | None:
        known = [allowed for since, allowed in self.choices if since <= version]
        return known[-1] if known else None


@dataclass(frozen=True, slots=True)
class FlagTable:
    """All spellings ever seen, by name, and the range of versions they were sampled from."""

    flags: dict[str, Flag]
    oldest: VersionKey
    newest: VersionKey


@functools.cache
def flag_table() -> FlagTable:
    """The shipped table, read once."""
    doc = json.loads(resources.files("tuner.launch").joinpath("data/sglang_flags.json").read_text("utf-8"))
    versions = {text: _known_key(text) for text in doc["sglang_versions_sampled"]}
    oldest = min(versions.values())
    flags = [_flag(row, versions, oldest) for row in doc["flags"]]
    return FlagTable({flag.name: flag for flag in flags}, oldest, max(versions.values()))


def _known_key(text: str) -> VersionKey:
    key = version_key(text)
    assert key is not None, text
    return key


def _flag(row: dict[str, Any], versions: dict[str, VersionKey], oldest: VersionKey) -> Flag:
    return Flag(
        name=row["name"],
        kind=row["type"],
        aliases=tuple(row.get("aliases", ())),
        nargs=row.get("nargs"),
        first=versions[row["first"]] if "first" in row else oldest,
        last=versions[row["last"]] if "last" in row else None,
        choices=tuple((versions[v], tuple(c) if c else None) for v, c in row.get("choices", {}).items()),
    )


def read_count(text: str) -> int:
    """A whole number, plain or with an SI or IEC suffix (`32k`, `1Mi`), as sglang reads its `human_readable_int`."""
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        return int(text)
    number, suffix = match.groups()
    if suffix.endswith("i"):
        return int(number) * _SUFFIXES[suffix]
    return int(Decimal(number) * _SUFFIXES[suffix])


READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "human_readable_int": read_count,
    "loads": json.loads,
    "json_list_type": json.loads,
}
"""How a value's text is read, by kind; every other kind is taken as it stands."""

EXPECTS = {
    "int": "a whole number",
    "float": "a number",
    "human_readable_int": "a whole number (suffixes k, M, Ki, Mi are allowed)",
    "loads": "JSON",
    "json_list_type": "a JSON list",
}
"""The same in words, for messages."""
