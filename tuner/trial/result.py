"""`TrialResult`: what one trial leaves behind, as one JSON document (schema_version 1).

Knows nothing of studies or clusters. Python 3.10, standard library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from tuner.probe.measurement import Level, Measurement

SCHEMA_VERSION = 1

State = Literal["measured", "infeasible", "pruned", "failed", "invalid"]
_OF_MEASURED = ("capacity_req_per_s", "ttft_p95_s", "output_tokens_per_s")
_FIGURES = (*_OF_MEASURED, "bound_req_per_s", "saturation_req_per_s", "start_up_s", "gpu_seconds")
_KINDS = {"node": str, "image_digest": str, "effective": dict, "client": dict, "versions": dict, "simulated": bool}
_WORDS = {str: "text", dict: "mapping", bool: "truth value"}
FailureClass = Literal["configuration", "infrastructure", "measurement"]
UNSPECIFIED = "unspecified"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial has no figures.

    `failure_class` decides what happens next (never tried again, retried elsewhere, repeated once); `kind` is a short
    stable word (`bad_flag`, `oom_weights`, `oom_kv`, `oom_runtime`, `hang`, `crash`, `not_ready`, `client_bound`, ...);
    `recognised` is False for a crash whose log matches nothing known. The log tail is the engine's, without prompts.
    """

    failure_class: FailureClass
    kind: str
    message: str
    log_tail: str = ""
    recognised: bool = True

    def as_json(self) -> dict[str, Any]:
        return {
            "class": self.failure_class,
            "kind": self.kind,
            "message": self.message,
            "log_tail": self.log_tail,
            "recognised": self.recognised,
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any] | str, assumed: FailureClass = "configuration") -> Failure:
        """Read a failure; of one written by hand a message or a kind alone is enough, its class is then as assumed.

        Raises:
            ValueError: a class that says nothing of what must happen next.
        """
        if isinstance(doc, str):
            return cls(assumed, UNSPECIFIED, doc)
        failure_class = doc.get("class") or assumed
        if failure_class not in get_args(FailureClass):
            known = ", ".join(get_args(FailureClass))
            raise ValueError(f"the class of a failure is one of {known}, not {failure_class!r}")
        return cls(
            failure_class,
            str(doc.get("kind") or UNSPECIFIED),
            str(doc.get("message") or ""),
            str(doc.get("log_tail") or ""),
            bool(doc.get("recognised", True)),
        )


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The outcome of one trial. From an external command the first five fields suffice.

    `capacity_req_per_s` and what follows are None unless `state` is `measured`; `bound_req_per_s` is an upper bound
    of the capacity for `pruned` and `infeasible`. `saturation_req_per_s` is the full server's throughput.
    `ttft_p95_s` of an infeasible trial is its nearest miss. `start_up_s` is process start to first generated token;
    `gpu_seconds` is GPUs held x wall time. `effective` is what the engine says it runs with; `client` describes the
    load client's own health.
    """

    id: str
    state: State
    capacity_req_per_s: float | None = None
    ttft_p95_s: float | None = None
    output_tokens_per_s: float | None = None
    bound_req_per_s: float | None = None
    saturation_req_per_s: float | None = None
    failure: Failure | None = None
    levels: tuple[Level, ...] = ()
    measurement: Measurement | None = None
    effective: Mapping[str, Any] = field(default_factory=dict)
    start_up_s: float | None = None
    gpu_seconds: float = 0.0
    node: str = ""
    image_digest: str = ""
    client: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "state": self.state,
            "capacity_req_per_s": self.capacity_req_per_s,
            "ttft_p95_s": self.ttft_p95_s,
            "output_tokens_per_s": self.output_tokens_per_s,
            "bound_req_per_s": self.bound_req_per_s,
            "saturation_req_per_s": self.saturation_req_per_s,
            "failure": self.failure.as_json() if self.failure else None,
            "levels": [asdict(level) for level in self.levels],
            "measurement": self.measurement.as_json() if self.measurement else None,
            "effective": dict(self.effective),
            "start_up_s": self.start_up_s,
            "gpu_seconds": self.gpu_seconds,
            "node": self.node,
            "image_digest": self.image_digest,
            "client": dict(self.client),
            "simulated": self.simulated,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> TrialResult:
        """Read a result, also a sparse one written by a user's command. Unknown keys are ignored.

        Raises:
            ValueError: a missing id, an unknown state, figures that are not finite numbers, or a measured trial
                without its figures.
        """
        state = doc.get("state")
        if not isinstance(doc.get("id"), str) or state not in get_args(State):
            raise ValueError(f"a TrialResult needs an `id` and a `state` of {', '.join(get_args(State))}")
        fields = {k: doc[k] for k in cls.__dataclass_fields__ if doc.get(k) is not None}
        for key in _FIGURES:
            _check_figure(fields, key, needed=state == "measured" and key in _OF_MEASURED)
        wrong = [key for key, kind in _KINDS.items() if not isinstance(fields.get(key, kind()), kind)]
        if wrong:
            raise ValueError(f"TrialResult.{wrong[0]} must be a {_WORDS[_KINDS[wrong[0]]]}, not {fields[wrong[0]]!r}")
        if doc.get("failure") or state in ("failed", "invalid"):
            assumed: FailureClass = "measurement" if state == "invalid" else "configuration"
            fields["failure"] = Failure.from_json(doc.get("failure") or "", assumed)
        fields["levels"] = tuple(Level(**level) for level in doc.get("levels") or ())
        if doc.get("measurement"):
            fields["measurement"] = Measurement.from_json(doc["measurement"])
        return cls(**fields)


def _check_figure(fields: dict[str, Any], key: str, *, needed: bool) -> None:
    """A figure not needed may be infinite, as the TTFT of a server that never answers is: then it is unknown."""
    value = fields.get(key)
    if value is None and not needed:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or (needed and not math.isfinite(value)):
        raise ValueError(f"TrialResult.{key} must be a finite number >= 0, not {value!r}")
    if not math.isfinite(value):
        del fields[key]
    elif value < 0:
        raise ValueError(f"TrialResult.{key} must be a finite number >= 0, not {value!r}")
