"""Everything `tuner doctor` looks at, cluster by cluster and pool by pool: asks, and lets the pure checks judge.

Changes nothing anywhere: the Job it sends is a dry run, and a database that is not there is not created.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tuner.compose import default_storage
from tuner.errors import UsageError
from tuner.runtime.kubernetes.client import Cluster, connect
from tuner.runtime.kubernetes.doctor import Line, examine_pool, examine_site
from tuner.runtime.kubernetes.facts import SiteFacts, pool_facts, site_facts
from tuner.runtime.kubernetes.job import gpus_requested, job_manifest
from tuner.runtime.kubernetes.target import PoolTarget, target_of
from tuner.space.space import Space
from tuner.study.access import check_access
from tuner.study.assemble import Where, problem_of
from tuner.study.points import Points
from tuner.study.problem import Problem
from tuner.trial.spec import TrialSpec

_NO_STUDY = "doctor"
"""Labels the Job of the dry run where a study's uid would stand."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The lines about one thing: a cluster's namespace, a pool, or the study's database."""

    about: str
    lines: tuple[Line, ...]

    @property
    def problems(self) -> int:
        return sum(line.level == "problem" for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        return {"about": self.about, "lines": [asdict(line) for line in self.lines]}


@dataclass(frozen=True, slots=True)
class Question:
    """What the user asked about."""

    points: Points
    study: str | None = None
    storage: str | None = None
    namespace: str | None = None
    context: str | None = None
    tuner_image: str = ""


def examine(asked: Question, connected: Callable[[str | None, str | None], Cluster] = connect) -> Iterator[Finding]:
    """Findings as they are made: each cluster before its pools, the database last.

    Raises:
        UsageError: a pool, a kubeconfig or a context that cannot be right.
    """
    space = asked.points.space
    targets = _targets(asked, space)
    clusters = {name: connected(target.context, target.namespace) for name, target in targets.items()}
    name = asked.study or space.name
    problem = problem_of(asked.points, name=name, where=Where(simulated=False), trials=None)
    seen: dict[tuple[str, str], SiteFacts] = {}
    for pool, target in targets.items():
        cluster = clusters[pool]
        where = (cluster.server, cluster.namespace)
        if where not in seen:
            seen[where] = site_facts(cluster)
            yield Finding(f"cluster {cluster.server}, namespace {cluster.namespace}", tuple(examine_site(seen[where])))
        if not isinstance(seen[where].version, dict):
            continue
        yield Finding(f"pool {pool}", tuple(_examine_pool(cluster, seen[where], target, problem)))
    yield Finding("database", (_database(asked.storage or default_storage(name), name),))


def _targets(asked: Question, space: Space) -> dict[str, PoolTarget]:
    return {
        name: target_of(name, pool, namespace=asked.namespace, context=asked.context, tuner_image=asked.tuner_image)
        for name, pool in space.spec.pools.items()
    }


def _examine_pool(cluster: Cluster, site: SiteFacts, target: PoolTarget, problem: Problem) -> list[Line]:
    specs = _specs(problem, target.pool)
    if not specs:
        return [Line("configurations", "unknown", "no valid configuration runs on this pool")]
    largest = max(specs, key=lambda spec: spec.gpus)
    smallest = min(gpus_requested(spec, target) for spec in specs)
    return examine_pool(site, pool_facts(cluster, target, job_manifest(largest, target, _NO_STUDY), smallest))


def _specs(problem: Problem, pool: str) -> list[TrialSpec]:
    """One trial for each number of GPUs that configurations of the pool use."""
    configs = [config for _, config in problem.seeds] + [candidate.config for candidate in problem.candidates]
    by_gpus = {config.layout.gpus: config for config in configs if config.pool == pool}
    return [problem.make_spec(c, f"{problem.name}-0-{c.fingerprint}", 1, 0, None, None) for c in by_gpus.values()]


def _database(address: str, study: str) -> Line:
    try:
        return Line("storage", "ok", check_access(address, study))
    except UsageError as error:
        return Line("storage", "problem", str(error))
