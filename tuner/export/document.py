"""The look of every exported text: the comment on top that says how it was made, and YAML no parser can misread.

Knows the values' `provenance` block, nothing else of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]+")


class _Name(str):
    """A key that needs no quotes."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Quotes every string but plain keys: `1e3`, `0o17` and `y` are strings to PyYAML and not to Go's parser."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


def _plain(dumper: yaml.SafeDumper, name: _Name) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(name))


_Dumper.add_representer(str, _quoted)
_Dumper.add_representer(_Name, _plain)


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_Name(k) if _PLAIN_KEY.fullmatch(k) else k: _named(v) for k, v in value.items()}
    return [_named(item) for item in value] if isinstance(value, list) else value


def dump(*documents: Mapping[str, Any]) -> str:
    """One or several YAML documents: block style, keys in their order, strings quoted and on one line each."""
    text: str = yaml.dump_all(
        map(_named, documents), Dumper=_Dumper, sort_keys=False, width=2**31, explicit_start=len(documents) > 1
    )
    return text


def comment(lines: Iterable[str]) -> str:
    """Lines as `# ` comments, whatever they hold: line breaks and control characters cannot end the comment."""
    return "".join(f"# {''.join(c if c.isprintable() else ' ' for c in line)}".rstrip() + "\n" for line in lines)


def header(values: Mapping[str, Any], purpose: str) -> str:
    """The comment on top: what this is, what it is worth, where it comes from, which part was measured."""
    origin = values["provenance"]
    lines = [
        purpose,
        f"Written by `tuner export`: study {origin['study']}, trial {origin['trial']}, rank {origin['rank']}.",
        *_stamps(origin),
        "",
        f"sglang {origin['engineVersion']}, {origin['model']}, {values['gpu']['count']} GPUs per replica",
        f"Configuration: {origin['config']}",
        *_figures(origin, values.get("replicas", 1)),
        *_origin(origin),
        *(f"Runner-up, {text}" for text in origin["alternatives"]),
        "",
        "Program, args and env are the trial's own, byte for byte. Plumbing, rendered for this target, no part of it:",
        f"  {' '.join(values['launch']['plumbing'])}",
    ]
    if "@" not in values["image"]:
        lines.append(f"The image is not pinned: the digest {values['image']} had is not known.")
    return comment(lines)


def _stamps(origin: Mapping[str, Any]) -> list[str]:
    stamps = []
    if origin["simulated"]:
        stamps.append("SIMULATED: the figures come from the engine model; no engine was measured.")
    if origin.get("refuted"):
        stamps.append("REFUTED: a confirmation run at this rate missed a limit.")
    elif not origin["confirmed"]:
        stamps.append("UNCONFIRMED: no second run has upheld these figures.")
    return stamps


def _origin(origin: Mapping[str, Any]) -> list[str]:
    """Which study and which versions gave the figures, where that is known, and whether they were upheld."""
    upheld = "upheld by the confirmation runs" if origin["confirmed"] else "not confirmed"
    upheld = "refuted by a confirmation run" if origin.get("refuted") else upheld
    known = [f"study uid {origin['uid']}"] if origin.get("uid") else []
    known += [f"by {origin['versions']}"] if origin.get("versions") else []
    return [f"  {', '.join([*known, upheld])}"]


def _figures(origin: Mapping[str, Any], replicas: int) -> list[str]:
    figures, kind = origin["figures"], "Simulated" if origin["simulated"] else "Measured"
    cost, rate = figures["usd_per_million_output_tokens"], figures["guarded_req_per_s"]
    limits = ", ".join(f"{name} <= {limit:g}" for name, limit in origin["limits"].items()) or "none"
    return [
        f"{kind}: {cost:.4g} USD per million output tokens at {rate:.4g} req/s per replica",
        f"  capacity {figures['capacity_req_per_s']:.4g} req/s, TTFT p95 {figures['ttft_p95_s']:.3g} s,",
        f"  {figures['output_tokens_per_s']:.5g} output tokens/s; limits: {limits}",
        *([f"  {replicas} replicas serve up to {replicas * rate:.4g} req/s"] if replicas > 1 else []),
    ]
