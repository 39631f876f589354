"""How a study is named on a command line: `NAME`, `FILE.db`, `FILE.db#NAME`, `URL` or `URL#NAME`. Pure."""

from __future__ import annotations

from pathlib import Path


def study_address(reference: str, storage: str | None) -> tuple[str | None, str]:
    """(study name or None for the only one, database address). A bare name lives in `storage`, else in ./NAME.db."""
    address, mark, name = reference.rpartition("#")
    if not mark:
        address, name = reference, ""
    if "://" in address:
        return name or None, address
    if mark or address.endswith(".db"):
        return name or None, f"sqlite:///{Path(address)}"
    return address, storage or f"sqlite:///{address}.db"
