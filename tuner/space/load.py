"""From a file to a checked `Space`: every problem at once, each with file:line:column.

Knows the shape and the meaning of a space file, but no engine: what flags exist is asked of `check_flag`.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import ValidationError

from tuner.errors import Problem, SpaceError
from tuner.space.dimension import Dimension, Template, dimensions_of
from tuner.space.document import Document, Path_, read_document
from tuner.space.evaluation import MOST, failures
from tuner.space.expression import Expression, ExpressionError, is_expression, parse, parse_embedded
from tuner.space.layouts import NEEDS, enumerate_layouts, unused_parts
from tuner.space.messages import faulty_paths, problems_of
from tuner.space.nearest import did_you_mean
from tuner.space.overlaps import overlaps
from tuner.space.schema import Rule, SpaceFile
from tuner.space.seeds import Seed, read_seed
from tuner.space.space import ActiveRule, Space, infer_precision
from tuner.space.traffic import Traffic
from tuner.space.traffic_source import open_traffic

CheckFlag = Callable[[str, str, object], str | None]
"""(engine version, flag, value) -> what is wrong with it, or None. A `${...}` is passed as None."""

MAX_POINTS = 500_000  # every point is checked, with its memory, before the first trial
_RESERVED = ("pool", "accelerator", "workload", "layout", "only")
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
    problems = list(document.problems)
    try:
        spec = SpaceFile.model_validate(document.data)
    except ValidationError as exc:
        told = {(p.line, p.column) for p in problems}
        problems += [p for p in problems_of(exc, document) if (p.line, p.column) not in told]
        spec = _without(faulty_paths(exc, document), document, problems)
    traffic, found = open_traffic(document, spec.workload, document.folder)
    lengths = (spec.workload.input_tokens, spec.workload.output_tokens)
    if found or (traffic is None and None in lengths):  # without lengths nothing else can be judged
        raise SpaceError(problems + found)
    return _Loader(document, spec, check_flag, problems, traffic).space()


def _without(faulty: list[Path_], document: Document, problems: list[Problem]) -> SpaceFile:
    """The file without its faulty parts, so that what is wrong with the rest is told at once; or all that is known."""
    data = copy.deepcopy(document.data)
    for path in sorted(faulty, key=len, reverse=True):  # what is inside goes before what holds it
        holder = data
        for step in path[:-1]:
            holder = holder[step]
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
    try:
        return SpaceFile.model_validate(data)
    except ValidationError:
        raise SpaceError(problems) from None


def seeds_of(space: Space) -> tuple[Seed, ...]:
    """The seeds of a loaded space, in the order of the file."""
    pools = list(space.spec.pools)
    return tuple(read_seed(name, doc, space.by_name, pools)[0] for name, doc in space.spec.seeds.items())


class _Loader:
    """Connects the parts of a valid file and collects what does not fit together."""

    def __init__(
        self,
        document: Document,
        spec: SpaceFile,
        check_flag: CheckFlag,
        problems: list[Problem],
        traffic: Traffic | None = None,
    ) -> None:
        self.traffic = traffic
        self.document = document
        self.spec = spec
        self.check_flag = check_flag
        self.problems = problems

    def space(self) -> Space:
        spec = self.spec
        dimensions, derived_text = dimensions_of(spec.space)
        names = _known_names(dimensions)
        layouts = enumerate_layouts(spec.space.layout)
        space = Space(
            document=self.document,
            spec=spec,
            layouts=layouts,
            dimensions=dimensions,
            derived={k: e for k, t in derived_text.items() if (e := self._expression(("space", k), t, names))},
            rules=tuple(self._rules(names)),
            pool_flags={p: self._template(("pools", p, "args"), pool.args, names) for p, pool in spec.pools.items()},
            bundle_flags=self._bundle_templates(dimensions),
            traffic=self.traffic,
        )
        self._check_layouts(space)
        self._check_names(space)
        self._check_flags(space)
        self._check_bundles(space)
        self._check_workload(space)
        for path, message in overlaps(space):
            self._add(path, message, key=True)
        broken = list(failures(space))
        for path, message in broken:
            self._add(path, message)
        if not self.problems:
            self._check_points(space)
        self._check_seeds(space, spanned=bool(space.layouts) and not broken)
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
                yield ActiveRule((*path, key), rule.id, expression, _reason(rule), rule.forbid is not None, versions)

    # --- what crosses parts of the file

    def _check_layouts(self, space: Space) -> None:
        path = ("space", "layout")
        if not space.layouts:
            self._add(path, f"no valid layout: {NEEDS}")
            return
        for part, i, value in unused_parts(self.spec.space.layout, space.layouts):
            self._add((*path, part, i), f"{value} is part of no valid layout; drop it, or see what it needs: {NEEDS}")
        largest = max(p.gpus_per_node for p in self.spec.pools.values())
        wide = [layout.label for layout in space.layouts if layout.gpus > largest]
        if wide:
            self._add(path, f"{wide[0]} needs more GPUs than a node of any pool has ({largest})")

    def _check_names(self, space: Space) -> None:
        """Names must tell dimensions apart in expressions, and labels the values in a study."""
        variables: dict[str, str] = {}
        for name in (*space.by_name, *space.derived):
            variable = name.replace("-", "_")
            if variable in _RESERVED:
                self._add(("space", name), f"the name `{name}` is taken; call the dimension otherwise", key=True)
            elif variable in variables:
                self._add(("space", name), f"the same name as `{variables[variable]}` in expressions", key=True)
            variables.setdefault(variable, name)
        for dimension in space.dimensions:
            label, count = Counter(map(str, dimension.labels())).most_common(1)[0]
            if count > 1:
                self._add(("space", dimension.name), f"two of its values read `{label}`")

    def _check_points(self, space: Space) -> None:
        """The grid is small enough to be checked point by point, and something of it is left on every pool."""
        if space.size > MAX_POINTS:
            self._add(("space",), f"spans {space.size:,} points, more than {MAX_POINTS:,}; use fewer values")
            return
        for pool in self.spec.pools:
            if not all([space.layouts_on(pool), *(space.values_on(pool, d) for d in space.dimensions)]):
                self._add(
                    ("pools", pool), "no point of the space can run on it; check `gpus_per_node` and bundles' `pools`"
                )
        counts: Counter[str] = Counter()
        for config in space.grid():
            rejection = space.rejection(config)
            if rejection is None:
                return
            counts[rejection.rule] += 1
        if counts:
            listed = ", ".join(f"{rule} forbids {n:,}" for rule, n in counts.most_common())
            self._add(("space",), f"no point is left of {counts.total():,}: {listed}")

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
            found = " and ".join(d.name for d in with_model) + " do" if with_model else "none does"
            self._add(("space",), f"exactly one dimension must choose the checkpoint (`model`) in its bundles; {found}")
        for dimension in space.dimensions:
            for choice, bundle in dimension.bundles.items():
                path = ("space", dimension.name, "choice", choice)
                if dimension in with_model and not bundle.model:
                    self._add(path, "needs a `model`: the other bundles of this dimension have one")
                if bundle.model and not bundle.precision and not infer_precision(bundle.model, choice):
                    self._add((*path, "model"), f"cannot tell the precision of {bundle.model!r}; add `precision:`")
                for i, pool in enumerate(bundle.pools or ()):
                    if pool not in self.spec.pools:
                        self._add((*path, "pools", i), f"no pool '{pool}'{did_you_mean(pool, self.spec.pools)}")

    def _check_workload(self, space: Space) -> None:
        workload = self.spec.workload
        if space.searches_speculation and workload.endpoint != "chat":
            self._add(
                ("workload", "endpoint"),
                "must be chat while speculation is searched: drafts are accepted as often as in production only on "
                "text that went through the chat template",
            )

    def _check_seeds(self, space: Space, *, spanned: bool) -> None:
        pools = list(self.spec.pools)
        for name, doc in self.spec.seeds.items():
            seed, mistakes = read_seed(name, doc, space.by_name, pools)
            for path, message in mistakes:
                unknown = bool(path) and path[0] not in (*space.by_name, "layout", "pool", "only")
                self._add(("seeds", name, *path), message, key=unknown)
            if spanned and not mistakes:
                self._check_seed(space, seed)

    def _check_seed(self, space: Space, seed: Seed) -> None:
        """A seed must be a point of the grid that no rule of the file forbids; with `only`, fit a pool at all."""
        if seed.only:
            gpus = seed.layout.gpus if seed.layout else 1
            combinations = space.combinations([space.by_name[n] for n in seed.values], replace(seed, layout=None))
            if not any(gpus <= self.spec.pools[c.pool].gpus_per_node for c in combinations):
                self._add(("seeds", seed.name), "no pool takes it; check its pool and the pools of its bundles")
            return
        reason = "no point of the space agrees with it; check its layout and its pool"
        for config in itertools.islice(space.combinations(space.dimensions, seed), MOST):
            rejection = space.rejection(config)
            if rejection is None:
                return
            reason = f"the rule {rejection.rule} forbids it: {rejection.reason}"
        self._add(("seeds", seed.name), reason)


def _known_names(dimensions: tuple[Dimension, ...]) -> frozenset[str]:
    names = {*_FIXED_NAMES, *_WORKLOAD_NAMES}
    for d in dimensions:
        names.add(d.variable)
        for bundle in d.bundles.values():
            names.update(f"{d.variable}.{p}" for p in bundle.params)
    return frozenset(names)


def _reason(rule: Rule) -> str:
    return f"{rule.why} ({rule.source})" if rule.source and rule.source not in rule.why else rule.why
