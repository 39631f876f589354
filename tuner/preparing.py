"""Builds what commands need before a search: a checked space file, the pools of a cluster, rendered Jobs.

Like `tuner.compose` it knows adapters and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import UsageError

if TYPE_CHECKING:
    from tuner.report.case import Hardware, Traffic
    from tuner.report.draft import Draft, DraftPool
    from tuner.study.points import Points
    from tuner.study.problem import Problem

PLANNED = "planned"
"""In a rendered Job of `tuner plan`, where a real one carries its study's uid."""


def job_documents(points: Points, problem: Problem, namespace: str | None, tuner_image: str) -> list[dict[str, Any]]:
    """The Kubernetes Job of every pool's best predicted point, as the search would create it.

    Raises:
        UsageError: no tuner image, or a pool whose patch breaks what the runner depends on.
    """
    from tuner.runtime.kubernetes.job import job_manifest
    from tuner.runtime.kubernetes.target import target_of
    from tuner.study.starter import trial_name

    jobs = []
    for name, pool in points.space.spec.pools.items():
        best = next((p.config for p in points.valid if p.config.pool == name), None)
        if best is not None:
            trial_id = trial_name(problem.name, 0, best, confirmation=False)
            spec = problem.make_spec(best, trial_id, 1, 0, None, None)
            target = target_of(name, pool, namespace=namespace, context=None, tuner_image=tuner_image)
            jobs.append(job_manifest(spec, target, PLANNED))
    return jobs


def pools_of_cluster(context: str | None, say: Callable[[str], None]) -> list[DraftPool]:
    """The GPU pools of a cluster's nodes, for a space file; what is left out is said.

    Raises:
        UsageError: no usable kubeconfig, no permission to list nodes, or no GPU the catalogue knows.
    """
    from tuner.model.catalogue import accelerators
    from tuner.report.draft import DraftPool
    from tuner.runtime.kubernetes.client import ApiError, connect
    from tuner.runtime.kubernetes.pools import pools_of

    cluster = connect(context, None)
    try:
        nodes = cluster.nodes()
    except ApiError as exc:
        raise UsageError(
            f"{cluster.server}: the nodes cannot be listed: {exc}; ask for the right to list nodes, or say "
            "--accelerator, --nodes and --gpus-per-node yourself"
        ) from exc
    pools: dict[str, DraftPool] = {}
    for found in pools_of(nodes):
        name = found.accelerator(accelerators())
        what = f"{found.nodes} nodes with {found.gpus_per_node} x {found.product or found.resource}"
        if name is None or name in pools or not found.nodes:
            why = "cordoned" if not found.nodes else "not in the catalogue" if name is None else "a second kind of it"
            say(f"left out: {what} ({why})")
            continue
        pools[name] = DraftPool(
            name,
            gpus_per_node=found.gpus_per_node,
            nodes=found.nodes,
            node_selector={found.label: found.product},
            tolerations=found.tolerations,
        )
    if not pools:
        raise UsageError(f"{cluster.server}: no node has a GPU the catalogue knows ({', '.join(accelerators())})")
    return list(pools.values())


def valid_draft(wanted: Draft) -> tuple[str, int]:
    """The text of a space file, checked as `tuner validate` checks it, and how many of its points can be tried.

    Raises:
        UsageError: what was asked for makes no valid file.
    """
    from tempfile import TemporaryDirectory

    from tuner.launch.spaces import open_space
    from tuner.report.draft import draft
    from tuner.space.load import seeds_of
    from tuner.study.points import complete_seeds, evaluate

    text = draft(wanted)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "space.yaml"
        path.write_text(text, encoding="utf-8")
        points = evaluate(open_space(str(path)))
        complete_seeds(points, seeds_of(points.space))
    return text, len(points.valid)


def prediction(space: str | None, sets: Sequence[str], hardware: Hardware, traffic: Traffic) -> dict[str, Any]:
    """What `tuner predict` prints.

    Raises:
        UsageError: options that do not go together, or a configuration that cannot be.
    """
    from tuner.report.case import case_of_space, case_without_space
    from tuner.report.predict import predict_json

    if space is None:
        if sets:
            raise UsageError(
                "--set goes with --space; without a space file say --architecture, --accelerator, --tp ..."
            )
        return predict_json(case_without_space(hardware, traffic))
    if hardware.given:
        raise UsageError(f"{hardware.given[0]} goes without --space; with it use --set, as in --set layout=tp4-dp2")
    from tuner.launch.spaces import open_space

    return predict_json(case_of_space(open_space(space), sets, traffic))
