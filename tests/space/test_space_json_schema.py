"""The JSON Schema editors use: it is the generated one, the shipped spaces fit it, and it refuses what we refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from tuner.space.document import parse_document, read_document
from tuner.space.schema import json_schema

FOLDER = Path(__file__).parents[2] / "search_spaces"
WRITTEN = FOLDER / "space.schema.json"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_written_schema_is_the_generated_one():
    """When it is not: `python -m tuner.space.schema > search_spaces/space.schema.json`."""
    assert WRITTEN.read_text(encoding="utf-8") == json_schema()


def test_the_module_prints_the_schema():
    printed = subprocess.run([sys.executable, "-m", "tuner.space.schema"], capture_output=True, check=True, timeout=60)
    assert printed.stdout.decode() == json_schema()
    assert printed.stderr == b""


def test_the_schema_is_stable_text_with_a_title_and_its_draft():
    text = json_schema()
    schema = json.loads(text)
    assert text == json.dumps(schema, indent=2, sort_keys=True) + "\n"
    assert schema["title"] == "tuner space file"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_space_fits_the_schema_its_first_line_names(validator, path):
    assert path.read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={WRITTEN.name}\n")
    assert [e.message for e in validator.iter_errors(read_document(path).data)] == []


def test_the_small_base_fits_the_schema(validator, desk):
    assert [e.message for e in validator.iter_errors(parse_document(desk.base, "f").data)] == []


@pytest.mark.parametrize(
    "edits",
    [
        {"    billing: gpu": "    biling: gpu"},
        {"    usd_per_gpu_hour: 2.5\n": ""},
        {"hour: 2.5": "hour: -1"},
        {"hour: 2.5": "hour: 0"},
        {"ttft_p95_s: 2.0": "ttft_p95_s: 0"},
        {"[64, 128]": "[]"},
        {"{values: [64": "{valeus: [64"},
        {"name: demo": "name: Demo"},
        {"version: 1": "version: 2"},
        {"  max-running": "  Mäx: 1\n  max-running"},
        {": 2000": ": {uniform: [1]}"},
        {": 2000": ": 2000\n  cached_fraction: 1"},
        {"trials: 4": "trials: 0"},
    ],
)
def test_an_editor_marks_what_loading_refuses(validator, desk, edits):
    text = desk.edited(edits)
    assert desk.problems(text)
    assert list(validator.iter_errors(parse_document(text, "f").data))
