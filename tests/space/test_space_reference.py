"""The reference of the space file: complete, and the one in docs/ is current."""

from __future__ import annotations

import json
from pathlib import Path

from tuner.space.reference import MEANINGS, SHOWN_ELSEWHERE, keys, reference
from tuner.space.schema import json_schema

PAGE = Path(__file__).resolve().parents[2] / "docs" / "space-file.md"
SCHEMA = json.loads(json_schema())


def test_every_key_has_a_meaning_and_no_meaning_is_left_over():
    """A new key: give it a meaning in tuner/space/reference.py, then `make docs`."""
    assert {name for _, name in keys(SCHEMA)} == set(MEANINGS)


def test_every_part_of_the_schema_is_on_the_page():
    shown = {definition for definition, _ in keys(SCHEMA)} | SHOWN_ELSEWHERE
    assert set(SCHEMA["$defs"]) - shown == set()


def test_the_page_is_current():
    assert reference() == PAGE.read_text(encoding="utf-8"), "run `make docs`"


def test_types_and_defaults_are_those_of_the_schema():
    page = reference()
    assert "| `gpus_per_node` | whole number | `8` | GPUs of a node |" in page
    assert '| `billing` | `node`, `gpu` | `"node"` |' in page
    lengths = "whole number or `{uniform: [a, b]}` or `{lognormal: {...}}`"
    assert f"| `input_tokens` | {lengths} | - | length of prompts; a trace brings its own |" in page
