"""Tables on a terminal or in a file: cells are plain text, nothing is cut off. Knows no study and no space."""

from __future__ import annotations

import os
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

WIDE = 120
"""Columns of a table in a file or a pipe, where neither a terminal nor COLUMNS says."""


def new_table(title: str, *columns: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """A table without vertical lines. Long cells are folded, never shortened.

    `right` names the columns of numbers; those and the ones in `whole` are not broken over lines.
    """
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.padding = (0, 1, 0, 0)  # with the box's own blank two columns between cells: 80 columns are few
    for name in columns:
        kept = name in right or name in whole
        table.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=kept)
    return table


def print_table(table: Table, out: TextIO) -> None:
    """Print a table as wide as the terminal.

    Cells come from space files: `[...]` and `:name:` in a rule's reason are text, not rich's markup.
    """
    width = None if out.isatty() or "COLUMNS" in os.environ else WIDE
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    # Printed by us, because rich itself would end the process when the reader of a pipe has gone.
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().rstrip().splitlines()), file=out)
