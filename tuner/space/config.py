"""One point of a space as a value: `ServingConfig`, its layout, its choices, its identity.

Knows nothing of files, rules, flags or engines. Runs on Python 3.10 with the standard library alone,
because the runner inside a serving image reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, order=True)
class Layout:
    """How one engine is spread over GPUs.

    `tp` is the tensor-parallel width of one replica, `dp` the number of full replicas (GPUs = tp x dp), `attn_dp`
    the attention-data-parallel groups inside one tp group (no extra GPUs), `ep` the expert-parallel width.
    """

    tp: int
    dp: int = 1
    attn_dp: int = 1
    ep: int = 1

    @property
    def gpus(self) -> int:
        return self.tp * self.dp

    @property
    def label(self) -> str:
        """Short and unique: `tp8`, `tp4-dp2`, `tp8-adp4-ep8`. Names and study parameters use it."""
        parts = [f"tp{self.tp}"]
        if self.dp > 1:
            parts.append(f"dp{self.dp}")
        if self.attn_dp > 1:
            parts.append(f"adp{self.attn_dp}")
        if self.ep > 1:
            parts.append(f"ep{self.ep}")
        return "-".join(parts)

    def as_json(self) -> dict[str, int]:
        return {"tp": self.tp, "dp": self.dp, "attn_dp": self.attn_dp, "ep": self.ep}


@dataclass(frozen=True, slots=True)
class Choice:
    """The bundle chosen in one dimension, with its nested parameters in the order of their names."""

    name: str
    params: tuple[tuple[str, Scalar], ...] = ()

    @property
    def label(self) -> str:
        """`mxfp4`, or `mtp(steps=3)`: the categorical value a study stores."""
        if not self.params:
            return self.name
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.params)})"

    def as_json(self) -> Any:
        return {self.name: dict(self.params)} if self.params else self.name


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """One point of the space: a pool, a layout, and a value for every other dimension.

    `values` is sorted by dimension name. A point with `only` lies outside the grid: nothing but the named flags
    (`model`, `tp`, ...) is passed and the engine's own defaults decide the rest.
    """

    pool: str
    layout: Layout
    values: tuple[tuple[str, Scalar | Choice], ...]
    only: tuple[str, ...] = ()
    # A search asks for it ten thousand times per trial.
    _fingerprint: str = field(default="", init=False, repr=False, compare=False)

    def get(self, dimension: str) -> Scalar | Choice | None:
        return dict(self.values).get(dimension)

    def as_json(self) -> dict[str, Any]:
        """The contract's form: `{pool, layout {tp, dp, attn_dp, ep}, weights, speculation, <parameters>...}`."""
        doc: dict[str, Any] = {"pool": self.pool, "layout": self.layout.as_json()}
        doc.update({k: v.as_json() if isinstance(v, Choice) else v for k, v in self.values})
        if self.only:
            doc["only"] = list(self.only)
        return doc

    @classmethod
    def from_json(cls, doc: Mapping[str, Any], choices: frozenset[str] | None = None) -> ServingConfig:
        """Read what `as_json` wrote. `choices` names the dimensions whose plain strings are bundle names.

        Without it a plain string is taken for a bundle name, which is what shipped spaces mean by one.
        """
        values: list[tuple[str, Scalar | Choice]] = []
        for key in sorted(doc):
            if key in ("pool", "layout", "only"):
                continue
            raw = doc[key]
            if isinstance(raw, Mapping):
                ((name, params),) = raw.items()
                values.append((key, Choice(name, tuple(sorted(params.items())))))
            elif isinstance(raw, str) and (choices is None or key in choices):
                values.append((key, Choice(raw)))
            else:
                values.append((key, raw))
        return cls(doc["pool"], Layout(**doc["layout"]), tuple(values), tuple(doc.get("only", ())))

    @property
    def canonical(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII."""
        return json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of SHA-256 over the canonical JSON: identity, names, duplicates, resume."""
        if not self._fingerprint:
            object.__setattr__(self, "_fingerprint", hashlib.sha256(self.canonical.encode()).hexdigest()[:12])
        return self._fingerprint

    def describe(self) -> str:
        """One line for people: `mi355x tp4-dp2 weights=mxfp4 speculation=mtp(steps=3) max-running-requests=128`."""
        if self.only:
            rest = [f"engine defaults beyond {', '.join(self.only)}"]
        else:
            rest = [f"{k}={v.label if isinstance(v, Choice) else v}" for k, v in self.values]
        return " ".join([self.pool, self.layout.label, *rest])
