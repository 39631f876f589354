"""`Space`: a checked space file as an object that spans configurations and merges what each of them deploys.

Knows the file's own rules; what an engine or the memory forbids is added by the stages above.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from pydantic import ValidationError

from tuner.errors import SpaceError, UsageError
from tuner.space.config import Choice, Layout, Scalar, ServingConfig
from tuner.space.deployment import Deployment, Rejection
from tuner.space.dimension import Dimension, Template
from tuner.space.document import Document, Path_
from tuner.space.expression import Expression, ExpressionError
from tuner.space.nearest import did_you_mean
from tuner.space.schema import Bundle, Pool, SpaceFile
from tuner.space.seeds import Seed
from tuner.space.traffic import Traffic
from tuner.space.workload import Length, Limits, Sampling, Workload

PRECISIONS = ("mxfp4", "nvfp4", "fp8", "bf16")


@dataclass(frozen=True)
class ActiveRule:
    """A rule of the file, parsed; `path` is where its expression stands, `versions` None is every engine version."""

    path: Path_
    id: str
    expression: Expression
    reason: str
    forbids: bool
    versions: SpecifierSet | None = None

    def holds(self, engine_version: str, names: Mapping[str, Any]) -> bool:
        if self.versions is not None and not self.versions.contains(engine_version, prereleases=True):
            return False
        return self.expression.truth(names)


@dataclass(frozen=True)
class Space:
    """All a study needs to know of a space file. Made by `tuner.space.load.load_space`."""

    document: Document
    spec: SpaceFile
    layouts: tuple[Layout, ...]
    dimensions: tuple[Dimension, ...]
    derived: Mapping[str, Expression]
    rules: tuple[ActiveRule, ...]
    pool_flags: Mapping[str, Template]
    bundle_flags: Mapping[tuple[str, str], Template]
    traffic: Traffic | None = field(default=None, repr=False)
    _merged: dict[Any, tuple[dict[str, Scalar], dict[str, str]]] = field(default_factory=dict, compare=False)

    @property
    def file(self) -> str:
        return self.document.file

    @property
    def folder(self) -> Path:
        """Where the space file lies; names of other files in it are relative to that."""
        return self.document.folder

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def limits(self) -> Limits:
        return Limits(**self.spec.objective.subject_to.model_dump())

    def limited(self, changes: Mapping[str, float]) -> Space:
        """The same space under other limits.

        Raises:
            UsageError: no such limit, or a value it cannot have.
        """
        if not changes:
            return self
        objective = self.spec.objective
        known = type(objective.subject_to).model_fields
        for name in changes:
            if name not in known:
                raise UsageError(f"--limit {name}: no such limit{did_you_mean(name, known)}")
        try:
            limits = type(objective.subject_to).model_validate({**objective.subject_to.model_dump(), **changes})
        except ValidationError as exc:
            first = exc.errors()[0]
            raise UsageError(f"--limit {'.'.join(map(str, first['loc']))}: {first['msg']}") from exc
        spec = self.spec.model_copy(update={"objective": objective.model_copy(update={"subject_to": limits})})
        return replace(self, spec=spec)

    @cached_property
    def workload(self) -> Workload:
        """The traffic; the figures of a file of it where there is one and the space file does not say."""
        w, traffic = self.spec.workload, self.traffic
        asked = w.input_tokens or (traffic and traffic.input_tokens)
        answered = w.output_tokens or (traffic and traffic.output_tokens)
        return Workload(
            input_tokens=_length(asked),
            output_tokens=_length(answered),
            cached_fraction=traffic.cached_fraction if traffic else w.cached_fraction,
            prefix_groups=traffic.prefix_groups if traffic else w.prefix_groups,
            arrivals=w.arrivals,
            endpoint=w.endpoint,
            sampling=Sampling(**w.sampling.model_dump()),
            prompts=traffic.kind if traffic else "builtin",
            traffic=traffic.file if traffic else None,
        )

    def accelerator_said(self, pool: str) -> str | dict[str, Any]:
        """The pool's accelerator: a catalogue name, or the file's own definition of it with its name."""
        name = self.spec.pools[pool].accelerator
        own = self.spec.accelerators.get(name)
        return name if own is None else {"name": name, **own.model_dump(mode="json", exclude_none=True)}

    def architecture_said(self, name: str = "") -> str | dict[str, Any]:
        """The model's (or the named) architecture: a catalogue name, an absolute path, or the file's definition."""
        name = name or self.spec.model.architecture
        own = self.spec.architectures.get(name)
        if own is None:
            return self._beside(name)
        doc = {"name": name, **own.model_dump(mode="json", exclude_none=True)}
        return doc | ({"config": self._beside(own.config)} if isinstance(own.config, str) else {})

    def _beside(self, name: str) -> str:
        """A path relative to the file made absolute; whatever is no such path stays as it is."""
        file = Path(self.file).parent / name
        folder = "/" in name and (file / "config.json").is_file()
        return str(file.resolve()) if folder or file.is_file() else name

    @cached_property
    def by_name(self) -> dict[str, Dimension]:
        return {d.name: d for d in self.dimensions}

    @cached_property
    def searches_speculation(self) -> bool:
        templates = (*self.pool_flags.values(), *self.bundle_flags.values())
        flags = {flag for t in templates for flag in (*t.constants, *t.expressions)}
        return "speculative-algorithm" in flags | set(self.by_name) | set(self.derived)

    def grid(self) -> Iterator[ServingConfig]:
        """Every combination of pool, layout and values whose bundles are meant for the pool."""
        return self.combinations(self.dimensions)

    def combinations(self, dimensions: Iterable[Dimension], seed: Seed | None = None) -> Iterator[ServingConfig]:
        """The grid over these dimensions alone, and of it what agrees with `seed`."""
        chosen = sorted(dimensions, key=lambda d: d.name)
        for pool in self.spec.pools:
            if seed and seed.pool not in (None, pool):
                continue
            axes = [
                [(d.name, v) for v in self.values_on(pool, d) if not seed or seed.allows(d.name, v)] for d in chosen
            ]
            for layout in self.layouts_on(pool):
                if not seed or seed.layout in (None, layout):
                    yield from (ServingConfig(pool, layout, values) for values in itertools.product(*axes))

    @property
    def size(self) -> int:
        """Points of the grid, counted without spanning it."""
        return sum(
            len(self.layouts_on(p)) * math.prod(len(self.values_on(p, d)) for d in self.dimensions)
            for p in self.spec.pools
        )

    def values_on(self, pool: str, dimension: Dimension) -> list[Scalar | Choice]:
        """The dimension's values, without the bundles meant for other pools."""
        return [v for v in dimension.values if not isinstance(v, Choice) or dimension.bundles[v.name].fits(pool)]

    def layouts_on(self, pool: str) -> list[Layout]:
        """The layouts one node of the pool can hold: a replica never spans nodes."""
        return [layout for layout in self.layouts if layout.gpus <= self.spec.pools[pool].gpus_per_node]

    def rejection(self, config: ServingConfig) -> Rejection | None:
        """The first rule of the file that forbids the point."""
        return next(self._matching(config, forbids=True), None)

    def warnings(self, config: ServingConfig) -> list[Rejection]:
        """Every known issue the file marks this point with."""
        return list(self._matching(config, forbids=False))

    def _matching(self, config: ServingConfig, *, forbids: bool) -> Iterator[Rejection]:
        rules = [r for r in self.rules if r.forbids == forbids]
        if not rules:
            return
        names = self.names(config)
        version = self.engine_version(config)
        for rule in rules:
            try:
                if rule.holds(version, names):
                    yield Rejection(rule.id, rule.reason)
            except ExpressionError as exc:  # a mistake of the file, wherever it shows
                raise SpaceError([self.document.problem(rule.path, str(exc))]) from exc

    def engine_version(self, config: ServingConfig) -> str:
        """The pool's engine version, unless a chosen bundle brings its own image and version."""
        own = next((b.engine_version for b in self.bundles(config) if b.engine_version), None)
        return own or self.spec.pools[config.pool].engine.version

    def names(self, config: ServingConfig) -> dict[str, Any]:
        """What expressions may read of a point; parameters of choices not taken are None."""
        layout = config.layout
        names = self._constant_names | {
            "pool": config.pool,
            "accelerator": self.spec.pools[config.pool].accelerator,
            "layout.tp": layout.tp,
            "layout.dp": layout.dp,
            "layout.attn_dp": layout.attn_dp,
            "layout.ep": layout.ep,
            "layout.gpus": layout.gpus,
        }
        for key, value in config.values:
            variable = key.replace("-", "_")
            if isinstance(value, Choice):
                names[variable] = value.name
                names.update({f"{variable}.{k}": v for k, v in value.params})
            else:
                names[variable] = value
        return names

    @cached_property
    def _constant_names(self) -> dict[str, Any]:
        workload = self.workload
        names: dict[str, Any] = {
            "workload.input_tokens_mean": workload.input_tokens.mean_tokens,
            "workload.input_tokens_max": workload.input_tokens.high,
            "workload.output_tokens_mean": workload.output_tokens.mean_tokens,
            "workload.output_tokens_max": workload.output_tokens.high,
            "workload.cached_fraction": workload.cached_fraction,
            "workload.temperature": workload.sampling.temperature,
        }
        for d in self.dimensions:
            names[d.variable] = None
            for bundle in d.bundles.values():
                names.update({f"{d.variable}.{p}": None for p in bundle.params})
        return names

    def deployment(self, config: ServingConfig) -> Deployment:
        """Merge pool, bundles, numbers and derived values of a point."""
        pool = self.spec.pools[config.pool]
        bundles = self.bundles(config)
        flags, env = self._flags_and_env(config, bundles)
        weights, model = self._checkpoint(config)
        return Deployment(
            config=config,
            engine_kind=pool.engine.kind,
            engine_version=self.engine_version(config),
            command=tuple(pool.engine.command),
            image=next((b.image for b in bundles if b.image), pool.image),
            model=model,
            precision=next((b.precision for b in bundles if b.precision), None) or infer_precision(model, weights),
            flags=flags,
            env=env,
            accelerator=pool.accelerator,
            architecture=self.spec.model.architecture,
            usd_per_hour=usd_per_hour(pool, config.layout.gpus),
        )

    def _checkpoint(self, config: ServingConfig) -> tuple[str, str]:
        """The name of the choice that brings the checkpoint, and the checkpoint."""
        for dimension, choice in config.values:
            if isinstance(choice, Choice) and (model := self.by_name[dimension].bundles[choice.name].model):
                return choice.name, model
        return "", ""

    def bundles(self, config: ServingConfig) -> list[Bundle]:
        """The chosen bundles, in the order of their dimensions' names."""
        return [self.by_name[k].bundles[v.name] for k, v in config.values if isinstance(v, Choice)]

    def _flags_and_env(self, config: ServingConfig, bundles: list[Bundle]) -> tuple[dict[str, Scalar], dict[str, str]]:
        chosen = tuple((k, v) for k, v in config.values if isinstance(v, Choice))
        key = (config.pool, config.layout, chosen)
        if key not in self._merged:
            names = self.names(ServingConfig(config.pool, config.layout, chosen))
            flags = self._evaluated(self.pool_flags[config.pool], ("pools", config.pool, "args"), names)
            env = dict(self.spec.pools[config.pool].env)
            for (dimension, choice), bundle in zip(chosen, bundles, strict=True):
                path = ("space", dimension, "choice", choice.name, "args")
                template = self.bundle_flags[dimension, choice.name]
                flags |= self._evaluated(template, path, names | dict(choice.params))
                env |= bundle.env
            self._merged[key] = (flags, env)
        flags, env = self._merged[key]
        numbers = {k: v for k, v in config.values if not isinstance(v, Choice)}
        merged = {**flags, **numbers}
        if self.derived:
            merged |= self._evaluated(Template(expressions=self.derived), ("space",), self.names(config))
        return merged, dict(env)

    def _evaluated(self, template: Template, path: Path_, names: Mapping[str, Any]) -> dict[str, Scalar]:
        flags = dict(template.constants)
        for flag, expression in template.expressions.items():
            try:
                flags[flag] = expression.scalar(names)
            except ExpressionError as exc:
                raise SpaceError([self.document.problem((*path, flag), str(exc))]) from exc
        return flags


def usd_per_hour(pool: Pool, gpus: int) -> float:
    """What a trial's hardware costs: whole nodes when idle GPUs of a node are charged too, else the GPUs used."""
    if pool.billing == "node":
        gpus = -(-gpus // pool.gpus_per_node) * pool.gpus_per_node
    return gpus * pool.usd_per_gpu_hour


def infer_precision(model: str, choice: str) -> str:
    """Precision of the weights from the checkpoint's name or its choice's; empty when neither says."""
    return next((p for word in (model.lower(), choice.lower()) for p in PRECISIONS if p in word), "")


def _length(spec: Any) -> Length:
    if isinstance(spec, Length):
        return spec
    if isinstance(spec, int):
        return Length.fixed(spec)
    if hasattr(spec, "uniform"):
        return Length("uniform", spec.uniform[0], spec.uniform[1])
    shape = spec.lognormal
    return Length("lognormal", shape.min, shape.max, float(shape.median), shape.sigma)
