"""Small files of prompts and traces, as users have them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuner.space.traffic import Kind, Traffic, read_traffic

SECRET = "xylophone-4711"


def lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def a_trace(requests: int = 40, gap_ms: int = 100, block_tokens: int = 512) -> str:
    """Every second request begins with the same two blocks; times are uneven, lengths differ."""
    rows = []
    for i in range(requests):
        ids = [1, 2, 100 + i] if i % 2 else [1000 + i]
        tokens = block_tokens * (len(ids) - 1) + 20 + 7 * i % (block_tokens - 20)
        at = gap_ms * (i + (i % 3 == 0))
        rows.append({"timestamp": at, "input_length": tokens, "output_length": 3 + i % 4, "hash_ids": ids})
    return lines(rows)


def some_prompts(requests: int = 12) -> str:
    """Chats with one system message of some length in common, which holds the SECRET."""
    system = {"role": "system", "content": f"You know {SECRET}. " + "Be helpful to everybody. " * 30}
    return lines(
        {"messages": [system, {"role": "user", "content": f"Tell {i} {SECRET} stories."}], "output_tokens": 4}
        for i in range(requests)
    )


def read(folder: Path, text: str, kind: Kind, **options: Any) -> Traffic:
    path = folder / f"{kind}.jsonl"
    path.write_text(text)
    return read_traffic(path, kind, name=path.name, **options)
