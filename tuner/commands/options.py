"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Space = Annotated[str, typer.Option("--space", help="Space file; a local file first, then one that ships.")]
MaybeSpace = Annotated[str | None, typer.Option("--space", help="Space file the study was made from.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage", envvar="TUNER_STORAGE", help="Optuna database URL; default: <study>.db here."),
]
StudyName = Annotated[str | None, typer.Option("--study", help="Study name; default: the space's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: stdout.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", help="Kubernetes: where a pool names none; default: the context's.")
]
Context = Annotated[
    str | None, typer.Option("--context", help="Kubernetes: kubeconfig context where a pool names none.")
]
