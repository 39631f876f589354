"""From a space and its points to a `Problem`: identity, seeds, dimensions, and the recipe of a trial.

Knows how a configuration becomes a command line; knows no storage and no runtime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tuner.launch.argv import render
from tuner.model.architecture import Architecture
from tuner.model.catalogue import Accelerator
from tuner.space.config import Choice, Scalar, ServingConfig
from tuner.space.load import seeds_of
from tuner.space.schema import DeadlinesSpec
from tuner.space.space import Space
from tuner.study.points import Points, accelerator_of, architecture_of, complete_seeds
from tuner.study.problem import Budget, ConfirmPlan, Problem, TokenWeights
from tuner.trial.spec import Confirm, Deadlines, TrialSpec

NOT_MEASURED = ("name", "budget", "confirm", "deadlines", "seeds", "rules", "accelerators", "architectures")
"""Sections of a space file that may change between resumes: they change no measurement."""
NOT_MEASURED_OF_POOL = (
    "usd_per_gpu_hour",
    "billing",
    "max_nodes",
    "autoscale",
    "tolerations",
    "image_pull_secrets",
    "priority_class",
    "model_cache",
    "compile_cache",
    "files",
    "context",
    "namespace",
    "queue",
)


@dataclass(frozen=True, slots=True)
class Where:
    """What the runtime adds to a trial's identity: simulated results never mix with measured ones.

    `program` replaces the engine's own program on this machine.
    """

    simulated: bool
    world: int | None = None
    program: tuple[str, ...] = ()


def identity(space: Space, where: Where) -> dict[str, Any]:
    """Everything that changes a measurement, as a JSON document. Another identity is another study.

    What the file itself says of accelerators and architectures changes predictions only: it counts where the
    measurement is a prediction.
    """
    doc = space.spec.model_dump(mode="json", exclude=set(NOT_MEASURED))
    for pool in doc["pools"].values():
        for key in NOT_MEASURED_OF_POOL:
            pool.pop(key, None)
    doc["space"] = space.spec.space.model_dump(mode="json")
    doc["model"]["content"] = _config_digest(space)
    doc["workload"]["prompts"] = _prompts_digest(space)
    forbidding = [rule for rule in space.spec.rules if rule.forbid]
    doc["rules"] = {rule.id: {"forbid": rule.forbid, "engine": rule.engine} for rule in forbidding}
    if where.simulated:
        doc |= _defined(space)
    doc["runtime"] = {"simulated": where.simulated, "world": where.world, "program": list(where.program)}
    return doc


def _defined(space: Space) -> dict[str, Any]:
    """The definitions of the file that are used, as what they come to; nothing where the catalogue has everything."""
    found: dict[str, Any] = {}
    own = {p: accelerator_of(space, p) for p in space.spec.pools if not isinstance(space.accelerator_said(p), str)}
    if own:
        found["accelerators"] = {pool: _facts(acc) for pool, acc in own.items()}
    if not isinstance(space.architecture_said(), str):
        found["architectures"] = _facts(architecture_of(space))
    return found


def _facts(entry: Accelerator | Architecture) -> dict[str, Any]:
    doc = {key: value for key, value in asdict(entry).items() if key != "source"}
    return cast("dict[str, Any]", json.loads(json.dumps(doc)))  # as it comes back from the database: lists, no tuples


def _prompts_digest(space: Space) -> dict[str, Any]:
    """A file of prompts or a trace counts by what it says, not by where it lies."""
    traffic = space.traffic
    if traffic is None:
        return {"corpus": "builtin"}
    return {traffic.kind: traffic.sha256, "block_tokens": traffic.block_tokens}


def _config_digest(space: Space) -> str | None:
    """A user's config.json counts by what it says, not by where it lies; a catalogue name speaks for itself."""
    said = space.architecture_said()
    if not isinstance(said, str):
        return None
    path = Path(said, "config.json") if Path(said).is_dir() else Path(said)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None


def dimensions(points: Points) -> dict[str, tuple[Scalar, ...]]:
    """Every dimension a study stores, with its values in order."""
    space = points.space
    found: dict[str, tuple[Scalar, ...]] = {
        "pool": tuple(space.spec.pools),
        "layout": tuple(layout.label for layout in space.layouts),
    }
    found.update({d.name: d.labels() for d in space.dimensions})
    return found


def problem_of(
    points: Points, *, name: str, where: Where, trials: int | None, deadlines: Deadlines | None = None
) -> Problem:
    """The search problem of a space; `trials` and `deadlines` replace its own."""
    spec = points.space.spec
    budget = spec.budget
    return Problem(
        name=name,
        identity=identity(points.space, where),
        candidates=points.candidates,
        seeds=complete_seeds(points, seeds_of(points.space)),
        dimensions=dimensions(points),
        workload=points.space.workload,
        limits=points.space.limits,
        guard=spec.objective.guard,
        make_spec=SpecMaker(points.space, name, where, deadlines or deadlines_of(spec.deadlines)),
        token_weights=TokenWeights(**spec.objective.token_weights.model_dump()),
        budget=Budget(
            trials=trials or budget.trials,
            wall_s=budget.wall,
            gpu_hours=budget.gpu_hours,
            usd=budget.usd,
            recheck_every=budget.recheck_every,
        ),
        rejected={rule: (found.count, found.reason) for rule, found in points.rejected.items()},
        confirm=ConfirmPlan(spec.confirm.top, spec.confirm.repeats, spec.confirm.minutes, spec.confirm.different_nodes),
    )


def deadlines_of(said: DeadlinesSpec) -> Deadlines:
    """The space file's, as a trial keeps them."""
    return Deadlines(said.ready, said.first_token, said.probe, said.stop, said.memory_free)


@dataclass(frozen=True)
class SpecMaker:
    """Makes a configuration's `TrialSpec`: the one place where a command line, a price and limits meet."""

    space: Space
    study: str
    where: Where
    deadlines: Deadlines

    def __call__(
        self,
        config: ServingConfig,
        trial_id: str,
        attempt: int,
        seed: int,
        incumbent_req_per_s: float | None,
        confirm: Confirm | None,
    ) -> TrialSpec:
        deployment = self.space.deployment(config)
        command = render(deployment)
        return TrialSpec(
            id=trial_id,
            study=self.study,
            config=config.as_json(),
            fingerprint=config.fingerprint,
            argv=(*(self.where.program or command.program), *command.args),
            env=command.env,
            gpus=config.layout.gpus,
            usd_per_hour=deployment.usd_per_hour,
            workload=self.space.workload,
            limits=self.space.limits,
            guard=self.space.spec.objective.guard,
            incumbent_req_per_s=incumbent_req_per_s,
            deadlines=self.deadlines,
            seed=seed,
            simulated=self.where.simulated,
            attempt=attempt,
            pool=config.pool,
            image=deployment.image,
            engine_version=deployment.engine_version,
            confirm=confirm,
            context={
                "accelerator": self.space.accelerator_said(config.pool),
                "architecture": self.space.architecture_said(),
                "precision": deployment.precision,
                "model": deployment.model,
                "program": list(command.program),
                "args": list(command.args),
                "usd_per_gpu_hour": self.space.spec.pools[config.pool].usd_per_gpu_hour,
            },
        )


def config_from(doc: Mapping[str, Any], space: Space) -> ServingConfig:
    """A stored configuration of this space as a value."""
    choices = frozenset(d.name for d in space.dimensions if any(isinstance(v, Choice) for v in d.values))
    return ServingConfig.from_json(doc, choices)
