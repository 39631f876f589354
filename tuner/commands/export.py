"""`tuner export`: the best confirmed configuration, or a ranked alternative, for deployment."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tuner.commands.options import Output, Space, Storage, StudyName
from tuner.commands.output import write_file

app = typer.Typer(no_args_is_help=True, help="Write the best confirmed configuration for deployment.")

Rank = Annotated[int, typer.Option("--rank", min=1, help="1 is the best; 2 the next.")]
TargetRate = Annotated[
    float | None,
    typer.Option("--target-rate", min=1e-9, help="req/s to serve: as many replicas as that takes; default: one."),
]
AllowSimulated = Annotated[bool, typer.Option("--allow-simulated", help="Export a simulated result, stamped.")]
Force = Annotated[bool, typer.Option("--force", help="Export an unconfirmed result, stamped.")]


def _export(kind: str, space: str, study: str | None, storage: str | None, output: Output, **how: Any) -> None:
    from tuner.compose import export_text

    write_file(output, export_text(kind, space, study, storage, **how))


@app.command()
def helm(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    target_rate: TargetRate = None,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """Helm values for the chart in k8s/chart."""
    how = {"rank": rank, "target_rate": target_rate, "allow_simulated": allow_simulated, "force": force}
    _export("helm", space, study, storage, output, **how)


@app.command()
def manifest(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    target_rate: TargetRate = None,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """Plain Kubernetes objects."""
    how = {"rank": rank, "target_rate": target_rate, "allow_simulated": allow_simulated, "force": force}
    _export("manifest", space, study, storage, output, **how)


@app.command()
def command(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """The launch command as a shell script."""
    _export("command", space, study, storage, output, rank=rank, allow_simulated=allow_simulated, force=force)


@app.command()
def config(
    space: Space,
    study: StudyName = None,
    storage: Storage = None,
    output: Output = None,
    rank: Rank = 1,
    allow_simulated: AllowSimulated = False,
    force: Force = False,
) -> None:
    """The YAML file of `sglang serve --config FILE`."""
    _export("config", space, study, storage, output, rank=rank, allow_simulated=allow_simulated, force=force)
