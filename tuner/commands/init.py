"""`tuner init`: a space file to begin with. Questions only on a terminal, and only for what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.commands.output import say, write_file
from tuner.errors import UsageError
from tuner.space.nearest import did_you_mean

if TYPE_CHECKING:
    from tuner.report.draft import DraftPool

Positive = Annotated[int | None, typer.Option(min=1)]


def init(
    model: Annotated[
        str | None, typer.Option("--model", help="Architecture: a catalogue name, or a config.json.")
    ] = None,
    accelerator: Annotated[str | None, typer.Option("--accelerator", help="Catalogue name: mi355x, b200 ...")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: stdout.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the space; default: model and accelerator.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="FP8 weights: a repository or a path.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Serving image.")] = None,
    price: Annotated[float | None, typer.Option("--price", min=1e-6, help="USD per GPU-hour.")] = None,
    nodes: Positive = None,
    gpus_per_node: Positive = None,
    input_tokens: Positive = None,
    output_tokens: Positive = None,
    cached_fraction: Annotated[float | None, typer.Option("--cached-fraction", min=0.0, max=0.99)] = None,
    ttft_p95: Annotated[float, typer.Option("--ttft-p95", min=1e-3, help="The limit, seconds.")] = 5.0,
    from_cluster: Annotated[
        bool, typer.Option("--from-cluster", help="Read GPUs, labels, taints and counts from the cluster's nodes.")
    ] = False,
    context: Annotated[
        str | None, typer.Option("--context", help="With --from-cluster: the kubeconfig context.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented space file for a model and a pool; it validates at once."""
    from dataclasses import replace

    from tuner.model.catalogue import accelerators, architectures
    from tuner.preparing import pools_of_cluster, valid_draft
    from tuner.report.draft import Draft, DraftPool, known_checkpoint, known_image

    if output is not None and output.exists() and not force:
        raise UsageError(f"{output}: is there already; choose another name, or overwrite it with --force")
    if context is not None and not from_cluster:
        raise UsageError("--context goes with --from-cluster")
    chosen = _one_of("--model", model, architectures(), files=True)
    if from_cluster:
        pools = _only(pools_of_cluster(context, say), accelerator)
    else:
        pools = [DraftPool(_one_of("--accelerator", accelerator, accelerators()))]
    pools = [
        replace(
            pool,
            image=image,
            usd_per_gpu_hour=price,
            nodes=nodes or pool.nodes,
            gpus_per_node=gpus_per_node or pool.gpus_per_node,
        )
        for pool in pools
    ]
    pools = [p if p.image or known_image(p.accelerator) else replace(p, image=_asked("--image", p)) for p in pools]
    if checkpoint is None and known_checkpoint(chosen) is None:
        checkpoint = _answer("--checkpoint", f"FP8 weights of {chosen} (a repository or a path)")
    traffic = {"input": input_tokens, "output": output_tokens, "cached": cached_fraction}
    text, valid = valid_draft(
        Draft(
            chosen,
            pools,
            name or _name(chosen, pools),
            checkpoint,
            {key: value for key, value in traffic.items() if value is not None},
            ttft_p95,
        )
    )
    write_file(output, text)
    say(f"{valid:,} points can be tried; look at the lines marked CHECK, then: tuner plan --space {output or 'FILE'}")


def _name(model: str, pools: Sequence[DraftPool]) -> str:
    bare = Path(model).stem if Path(model).is_file() else model
    short = "".join(c for c in bare.lower() if c.isalnum())[:9]
    return f"{short}-{'-'.join(pool.accelerator for pool in pools)}"[:20].rstrip("-")


def _only(pools: list[DraftPool], accelerator: str | None) -> list[DraftPool]:
    """The pools of one accelerator, or all."""
    kept = [pool for pool in pools if accelerator in (None, pool.accelerator)]
    if not kept:
        found = ", ".join(pool.accelerator for pool in pools) or "none"
        raise UsageError(f"--accelerator {accelerator}: no node of the cluster has one (found: {found})")
    return kept


def _one_of(option: str, given: str | None, known: Sequence[str], *, files: bool = False) -> str:
    answer = given or _answer(option, f"{option.removeprefix('--')} ({', '.join(known)})")
    if answer in known:
        return answer
    if files and Path(answer).is_file():
        return str(Path(answer).resolve())
    raise UsageError(f"{option} {answer}: not in the catalogue{did_you_mean(answer, known)} ({', '.join(known)})")


def _asked(option: str, pool: DraftPool) -> str:
    return _answer(option, f"serving image for {pool.accelerator}")


def _answer(option: str, question: str) -> str:
    """Ask on a terminal; elsewhere a missing option is an error."""
    if not _terminal():
        raise UsageError(f"say with {option}: {question}")
    answer: str = typer.prompt(question, err=True)
    return answer.strip()


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
