"""`Space`: a checked space file as an object that spans configurations and merges what each of them deploys.

Knows the file's own rules; what an engine or the memory forbids is added by the stages above.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from packaging.specifiers import SpecifierSet

from tuner.space.config import Choice, Layout, Scalar, ServingConfig
from tuner.space.deployment import Deployment, Rejection
from tuner.space.dimension import Dimension, Template
from tuner.space.expression import Expression
from tuner.space.schema import Bundle, Pool, SpaceFile
from tuner.space.workload import Length, Limits, Sampling, Workload

PRECISIONS = ("mxfp4", "nvfp4", "fp8", "bf16")


@dataclass(frozen=True)
class ActiveRule:
    """A rule of the file, parsed; `versions` None holds for every engine version."""

    id: str
    expression: Expression
    reason: str
    forbids: bool
    versions: SpecifierSet | None = None

    def holds(self, engine_version: str, names: Mapping[str, Any]) -> bool:
        if self.versions is not None and not self.versions.contains(engine_version, prereleases=True):
            return False
        return bool(self.expression(names))


@dataclass(frozen=True)
class Space:
    """All a study needs to know of a space file. Made by `tuner.space.load.load_space`."""

    file: str
    spec: SpaceFile
    layouts: tuple[Layout, ...]
    dimensions: tuple[Dimension, ...]
    derived: Mapping[str, Expression]
    rules: tuple[ActiveRule, ...]
    pool_flags: Mapping[str, Template]
    bundle_flags: Mapping[tuple[str, str], Template]
    _merged: dict[Any, tuple[dict[str, Scalar], dict[str, str]]] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def limits(self) -> Limits:
        return Limits(**self.spec.objective.subject_to.model_dump())

    @cached_property
    def workload(self) -> Workload:
        w = self.spec.workload
        return Workload(
            input_tokens=_length(w.input_tokens),
            output_tokens=_length(w.output_tokens),
            cached_fraction=w.cached_fraction,
            prefix_groups=w.prefix_groups,
            arrivals=w.arrivals,
            endpoint=w.endpoint,
            sampling=Sampling(**w.sampling.model_dump()),
            prompts=w.prompts.corpus,
        )

    @cached_property
    def by_name(self) -> dict[str, Dimension]:
        return {d.name: d for d in self.dimensions}

    @cached_property
    def searches_speculation(self) -> bool:
        flags = [t for templates in (self.pool_flags, self.bundle_flags) for t in templates.values()]
        return any("speculative-algorithm" in t.constants for t in flags)

    def grid(self) -> Iterator[ServingConfig]:
        """Every combination of pool, layout and values whose bundles are meant for the pool."""
        for pool in self.spec.pools:
            axes = [
                [(d.name, v) for v in d.values if self._meant_for(d, v, pool)]
                for d in sorted(self.dimensions, key=lambda d: d.name)
            ]
            for layout in self.layouts:
                for values in itertools.product(*axes):
                    yield ServingConfig(pool, layout, values)

    @staticmethod
    def _meant_for(dimension: Dimension, value: Scalar | Choice, pool: str) -> bool:
        if not isinstance(value, Choice):
            return True
        pools = dimension.bundles[value.name].pools
        return pools is None or pool in pools

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
            if rule.holds(version, names):
                yield Rejection(rule.id, rule.reason)

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
        model = next((b.model for b in bundles if b.model), "")
        return Deployment(
            config=config,
            engine_kind=pool.engine.kind,
            engine_version=self.engine_version(config),
            command=tuple(pool.engine.command),
            image=next((b.image for b in bundles if b.image), pool.image),
            model=model,
            precision=next((b.precision for b in bundles if b.precision), None) or infer_precision(model, config),
            flags=flags,
            env=env,
            accelerator=pool.accelerator,
            architecture=self.spec.model.architecture,
            usd_per_hour=usd_per_hour(pool, config.layout.gpus),
        )

    def bundles(self, config: ServingConfig) -> list[Bundle]:
        """The chosen bundles, in the order of their dimensions' names."""
        return [self.by_name[k].bundles[v.name] for k, v in config.values if isinstance(v, Choice)]

    def _flags_and_env(self, config: ServingConfig, bundles: list[Bundle]) -> tuple[dict[str, Scalar], dict[str, str]]:
        chosen = tuple((k, v) for k, v in config.values if isinstance(v, Choice))
        key = (config.pool, config.layout, chosen)
        if key not in self._merged:
            names = self.names(ServingConfig(config.pool, config.layout, chosen))
            flags = self.pool_flags[config.pool].evaluate(names)
            env = dict(self.spec.pools[config.pool].env)
            for (dimension, choice), bundle in zip(chosen, bundles, strict=True):
                own = dict(choice.params)
                flags |= self.bundle_flags[dimension, choice.name].evaluate(names | own)
                env |= bundle.env
            self._merged[key] = (flags, env)
        flags, env = self._merged[key]
        numbers = {k: v for k, v in config.values if not isinstance(v, Choice)}
        merged = {**flags, **numbers}
        if self.derived:
            names = self.names(config)
            merged |= {k: e(names) for k, e in self.derived.items()}
        return merged, dict(env)


def usd_per_hour(pool: Pool, gpus: int) -> float:
    """What a trial's hardware costs: whole nodes when idle GPUs of a node are charged too, else the GPUs used."""
    if pool.billing == "node":
        gpus = -(-gpus // pool.gpus_per_node) * pool.gpus_per_node
    return gpus * pool.usd_per_gpu_hour


def infer_precision(model: str, config: ServingConfig) -> str:
    """Precision of the weights from the checkpoint's name or the choice's; empty when neither says."""
    words = [model.lower(), *(v.name.lower() for _, v in config.values if isinstance(v, Choice))]
    return next((p for word in words for p in PRECISIONS if p in word), "")


def _length(spec: Any) -> Length:
    if isinstance(spec, int):
        return Length.fixed(spec)
    if hasattr(spec, "uniform"):
        return Length("uniform", spec.uniform[0], spec.uniform[1])
    shape = spec.lognormal
    return Length("lognormal", shape.min, shape.max, float(shape.median), shape.sigma)
