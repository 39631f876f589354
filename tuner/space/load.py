"""From a file to a checked `Space`: every problem at once, each with file:line:column.

Knows the shape and the meaning of a space file, but no engine: what flags exist is asked of `check_flag`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import ValidationError

from tuner.errors import Problem, SpaceError
from tuner.space.dimension import Dimension, Template, dimensions_of
from tuner.space.document import Document, Path_, read_document
from tuner.space.expression import Expression, ExpressionError, is_expression, parse, parse_embedded
from tuner.space.layouts import enumerate_layouts
from tuner.space.messages import problems_of
from tuner.space.nearest import did_you_mean
from tuner.space.schema import Rule, SpaceFile
from tuner.space.seeds import Seed, read_seed
from tuner.space.space import ActiveRule, Space

CheckFlag = Callable[[str, str, object], str | None]
"""(engine version, flag, value) -> what is wrong with it, or None. A `${...}` is passed as None."""

_FIXED_NAMES = ("pool", "accelerator", "layout.tp", "layout.dp", "layout.attn_dp", "layout.ep", "layout.gpus")
_WORKLOAD_NAMES = tuple(
    f"workload.{n}"
    for n in (
        "input_tokens_mean",
        "input_tokens_max",
        "output_tokens_mean",
        "output_tokens_max",
        "cached_fraction",
        "temperature",
    )
)


def load_space(path: Path, check_flag: CheckFlag, *, shown_as: str | None = None) -> Space:
    """Read, validate and connect a space file.

    Raises:
        SpaceError: with every problem found, in the order of the file.
    """
    document = read_document(path, shown_as=shown_as)
    try:
        spec = SpaceFile.model_validate(document.data)
    except ValidationError as exc:
        raise SpaceError(problems_of(exc, document)) from exc
    return _Loader(document, spec, check_flag).space()


def seeds_of(space: Space) -> tuple[Seed, ...]:
    """The seeds of a loaded space, in the order of the file."""
    pools = list(space.spec.pools)
    return tuple(read_seed(name, doc, space.by_name, pools)[0] for name, doc in space.spec.seeds.items())


class _Loader:
    """Connects the parts of a valid file and collects what does not fit together."""

    def __init__(self, document: Document, spec: SpaceFile, check_flag: CheckFlag) -> None:
        self.document = document
        self.spec = spec
        self.check_flag = check_flag
        self.problems: list[Problem] = []

    def space(self) -> Space:
        spec = self.spec
        dimensions, derived_text = dimensions_of(spec.space)
        names = _known_names(dimensions)
        layouts = enumerate_layouts(spec.space.layout)
        if not layouts:
            self._add(
                ("space", "layout"),
                "no valid layout: GPUs = tp x dp must equal `gpus`, attn_dp and ep must divide tp, and dp and attn_dp "
                "exclude each other",
            )
        space = Space(
            file=self.document.file,
            spec=spec,
            layouts=layouts,
            dimensions=dimensions,
            derived={k: e for k, t in derived_text.items() if (e := self._expression(("space", k), t, names))},
            rules=tuple(self._rules(names)),
            pool_flags={p: self._template(("pools", p, "args"), pool.args, names) for p, pool in spec.pools.items()},
            bundle_flags=self._bundle_templates(dimensions),
        )
        self._check_flags(space)
        self._check_bundles(space)
        self._check_workload(space)
        self._check_seeds(space)
        if self.problems:
            raise SpaceError(self.problems)
        return space

    def _add(self, path: Path_, message: str, *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, message, key=key))

    def _expression(self, path: Path_, text: str, names: frozenset[str]) -> Expression | None:
        try:
            expression = parse_embedded(text) if is_expression(text) else parse(text)
        except ExpressionError as exc:
            self._add(path, str(exc))
            return None
        unknown = sorted(expression.names - names)
        if unknown:
            self._add(path, f"unknown name `{unknown[0]}`{did_you_mean(unknown[0], names)}")
            return None
        return expression

    def _template(self, path: Path_, flags: Mapping[str, Any], names: frozenset[str]) -> Template:
        good = {k: v for k, v in flags.items() if not is_expression(v) or self._expression((*path, k), str(v), names)}
        return Template.of(good)

    def _bundle_templates(self, dimensions: tuple[Dimension, ...]) -> dict[tuple[str, str], Template]:
        known = frozenset((*_FIXED_NAMES, *_WORKLOAD_NAMES))
        return {
            (d.name, choice): self._template(
                ("space", d.name, "choice", choice, "args"), bundle.args, known | frozenset(bundle.params)
            )
            for d in dimensions
            for choice, bundle in d.bundles.items()
        }

    def _rules(self, names: frozenset[str]) -> Iterator[ActiveRule]:
        seen: dict[str, int] = {}
        for i, rule in enumerate(self.spec.rules):
            path = ("rules", i)
            if rule.id in seen:
                self._add((*path, "id"), f"the id `{rule.id}` is already taken by rule {seen[rule.id] + 1}")
            seen.setdefault(rule.id, i)
            key = "forbid" if rule.forbid else "warn"
            expression = self._expression((*path, key), rule.forbid or rule.warn or "", names)
            try:
                versions = SpecifierSet(rule.engine) if rule.engine else None
            except InvalidSpecifier:
                self._add((*path, "engine"), f"`{rule.engine}` is not a version range such as >=0.5.14,<0.5.17")
                continue
            if expression:
                yield ActiveRule(rule.id, expression, _reason(rule), rule.forbid is not None, versions)

    # --- what crosses parts of the file

    def _check_flags(self, space: Space) -> None:
        for path, flag, values, versions in self._flags(space):
            messages = (
                self.check_flag(version, flag, None if is_expression(value) else value)
                for value in values
                for version in dict.fromkeys(versions)
            )
            message = next((m for m in messages if m), None)
            if message:
                self._add(path, message, key=True)

    def _flags(self, space: Space) -> Iterator[tuple[Path_, str, tuple[object, ...], list[str]]]:
        """Every flag the file sets: its place, name, possible values, and the engine versions it is for."""
        for name, pool in self.spec.pools.items():
            for flag, value in pool.args.items():
                yield ("pools", name, "args", flag), flag, (value,), [pool.engine.version]
        for dimension in space.dimensions:
            base = ("space", dimension.name)
            if not dimension.bundles:
                yield base, dimension.name, dimension.values, self._versions(None)
            for choice, bundle in dimension.bundles.items():
                versions = [bundle.engine_version] if bundle.engine_version else self._versions(bundle.pools)
                for flag, value in bundle.args.items():
                    yield (*base, "choice", choice, "args", flag), flag, (value,), versions
        for flag in space.derived:
            yield ("space", flag), flag, (None,), self._versions(None)

    def _versions(self, pools: list[str] | None) -> list[str]:
        return [p.engine.version for name, p in self.spec.pools.items() if pools is None or name in pools]

    def _check_bundles(self, space: Space) -> None:
        with_model = [d for d in space.dimensions if any(b.model for b in d.bundles.values())]
        if len(with_model) != 1:
            found = " and ".join(d.name for d in with_model) or "none does"
            self._add(("space",), f"exactly one dimension must choose the checkpoint (`model`) in its bundles: {found}")
        for dimension in space.dimensions:
            for choice, bundle in dimension.bundles.items():
                path = ("space", dimension.name, "choice", choice)
                if dimension in with_model and not bundle.model:
                    self._add(path, "needs a `model`: the other bundles of this dimension have one")
                for pool in bundle.pools or ():
                    if pool not in self.spec.pools:
                        self._add((*path, "pools"), f"no pool '{pool}'{did_you_mean(pool, self.spec.pools)}")
        self._check_precision(space)
        self._check_overlaps(space)

    def _check_precision(self, space: Space) -> None:
        seen = set()
        for config in space.grid():
            bundles = tuple(v for _, v in config.values if hasattr(v, "name"))
            if bundles in seen:
                continue
            seen.add(bundles)
            deployment = space.deployment(config)
            if not deployment.precision:
                message = f"cannot tell the precision of {deployment.model!r}; add `precision:` to its bundle"
                self._add(("space",), message)
                return
            if len(seen) > 200:  # more than any file spells out by hand
                return

    def _check_overlaps(self, space: Space) -> None:
        """A flag set in two places that can meet is an error."""
        owners: dict[str, list[tuple[str, Path_]]] = {}
        for name in self.spec.pools:
            for flag in self.spec.pools[name].args:
                owners.setdefault(flag, []).append((f"pool {name}", ("pools", name, "args", flag)))
        for dimension in space.dimensions:
            base = ("space", dimension.name)
            if not dimension.bundles:
                owners.setdefault(dimension.name, []).append((f"dimension {dimension.name}", base))
            for choice, bundle in dimension.bundles.items():
                for flag in bundle.args:
                    path = (*base, "choice", choice, "args", flag)
                    owners.setdefault(flag, []).append((f"dimension {dimension.name}", path))
        for flag in space.derived:
            owners.setdefault(flag, []).append((f"dimension {flag}", ("space", flag)))
        for flag, places in owners.items():
            names = list(dict.fromkeys(owner for owner, _ in places))
            clash = [n for n in names if not n.startswith("pool ")]
            if len(clash) > 1 or (clash and len(names) > len(clash)):
                self._add(places[-1][1], f"the flag {flag} is set twice: by {' and by '.join(names)}", key=True)

    def _check_workload(self, space: Space) -> None:
        workload = self.spec.workload
        if space.searches_speculation and workload.endpoint != "chat":
            self._add(
                ("workload", "endpoint"),
                "must be chat while speculation is searched: drafts are accepted as often as in production only on "
                "text that went through the chat template",
            )

    def _check_seeds(self, space: Space) -> None:
        pools = list(self.spec.pools)
        for name, doc in self.spec.seeds.items():
            seed, mistakes = read_seed(name, doc, space.by_name, pools)
            for path, message in mistakes:
                self._add(("seeds", name, *path), message)
            if mistakes or seed.only:
                continue
            if not any(seed.matches(c) for c in space.grid()):
                self._add(("seeds", name), "no point of the space agrees with it; check its layout and its pool")


def _known_names(dimensions: tuple[Dimension, ...]) -> frozenset[str]:
    names = {*_FIXED_NAMES, *_WORKLOAD_NAMES}
    for d in dimensions:
        names.add(d.variable)
        for bundle in d.bundles.values():
            names.update(f"{d.variable}.{p}" for p in bundle.params)
    return frozenset(names)


def _reason(rule: Rule) -> str:
    return f"{rule.why} ({rule.source})" if rule.source and rule.source not in rule.why else rule.why
