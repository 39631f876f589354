"""`TrialSpec`: everything one trial needs to know, as one JSON document (schema_version 1).

Knows nothing of studies, clusters or files. Python 3.10, standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tuner.space.workload import Limits, Workload

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds each phase may take before the trial is ended.

    `ready_s`: from the engine's start until it generates; `first_token_s`: for one request; `probe_s`: the whole
    load; `stop_s`: draining before the process group is killed; `memory_free_s`: before the start, until the
    accelerators have given back what an earlier engine held.
    """

    ready_s: float = 3600.0
    first_token_s: float = 600.0
    probe_s: float = 1800.0
    stop_s: float = 30.0
    memory_free_s: float = 900.0  # AMD's driver needs minutes for a terabyte; InferenceX's scripts wait 15 min at most


@dataclass(frozen=True, slots=True)
class Confirm:
    """A confirmation instead of a search: hold `rate_req_per_s` for `duration_s` and test the limits themselves."""

    rate_req_per_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One trial. `id` names it everywhere (`<study>-<trial>-<fingerprint>`); `attempt` counts its repetitions from 1.

    `config` is `ServingConfig.as_json()`. `usd_per_hour` is what the trial's hardware costs under the pool's billing.
    `guard` is the share kept below capacity when pricing. `incumbent_req_per_s` is the rate this configuration must
    beat to be worth finishing, or None. `env` is added to the engine's environment. `context` is what a runtime that
    models hardware needs beyond the command line: `accelerator`, `architecture`, `precision`.
    """

    id: str
    study: str
    config: Mapping[str, Any]
    fingerprint: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    gpus: int
    usd_per_hour: float
    workload: Workload
    limits: Limits
    guard: float
    incumbent_req_per_s: float | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    seed: int = 0
    simulated: bool = False
    attempt: int = 1
    pool: str = ""
    image: str = ""
    engine_version: str = ""
    confirm: Confirm | None = None
    context: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "study": self.study,
            "config": dict(self.config),
            "fingerprint": self.fingerprint,
            "argv": list(self.argv),
            "env": dict(self.env),
            "gpus": self.gpus,
            "usd_per_hour": self.usd_per_hour,
            "workload": self.workload.as_json(),
            "limits": self.limits.as_json(),
            "guard": self.guard,
            "incumbent_req_per_s": self.incumbent_req_per_s,
            "deadlines": asdict(self.deadlines),
            "seed": self.seed,
            "simulated": self.simulated,
            "attempt": self.attempt,
            "pool": self.pool,
            "image": self.image,
            "engine_version": self.engine_version,
            "confirm": asdict(self.confirm) if self.confirm else None,
            "context": dict(self.context),
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> TrialSpec:
        """Read what `as_json` wrote.

        Raises:
            ValueError: another schema version, or a missing or unknown key.
        """
        fields = dict(doc)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(f"TrialSpec has schema_version {version!r}; this runner reads {SCHEMA_VERSION}")
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        missing = sorted({"id", "study", "config", "argv", "workload", "limits"} - set(fields))
        if unknown or missing:
            raise ValueError(f"TrialSpec: unknown keys {unknown}, missing keys {missing}")
        fields["argv"] = tuple(fields["argv"])
        fields["workload"] = Workload.from_json(fields["workload"])
        fields["limits"] = Limits.from_json(fields["limits"])
        fields["deadlines"] = Deadlines(**fields.get("deadlines") or {})
        fields["confirm"] = Confirm(**fields["confirm"]) if fields.get("confirm") else None
        return cls(**fields)
