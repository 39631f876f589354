"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Space = Annotated[str, typer.Option("--space", help="Space file; a local file first, then one that ships.")]
Storage = Annotated[
    str | None,
    typer.Option("--storage", envvar="TUNER_STORAGE", help="Optuna database URL; default: <study>.db here."),
]
StudyName = Annotated[str | None, typer.Option("--study", help="Study name; default: the space's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: stdout.")]
