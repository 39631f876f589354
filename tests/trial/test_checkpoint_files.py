from __future__ import annotations

import json
import struct

import pytest

from tuner.trial.checkpoint_files import INDEX_NAME, incomplete_checkpoint, missing_from


def safetensors(data_bytes, promised=None):
    header = json.dumps(
        {"__metadata__": {}, "w": {"dtype": "U8", "data_offsets": [0, promised or data_bytes]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + b"\0" * data_bytes


@pytest.fixture
def checkpoint(tmp_path):
    """A complete checkpoint of two shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for shard in shards:
        (folder / shard).write_bytes(safetensors(10))
    (folder / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}))
    return folder


SECOND = "model-00002-of-00002.safetensors"


def test_a_complete_checkpoint_is_complete(checkpoint):
    assert missing_from(checkpoint) == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not there"),
        (b"", "is empty"),
        (safetensors(10, promised=11), "is cut"),
        (b"abc", "cannot be read"),
        (struct.pack("<Q", 2**60) + b"{}", "cannot be read"),
        (struct.pack("<Q", 9) + b"[1, 2, 3]", "cannot be read"),
    ],
)
def test_a_shard_that_is_not_whole_is_named(checkpoint, content, words):
    (checkpoint / SECOND).unlink()
    if content is not None:
        (checkpoint / SECOND).write_bytes(content)
    problem = missing_from(checkpoint)
    assert problem.startswith(str(checkpoint / SECOND))
    assert words in problem


def test_a_link_whose_blob_is_gone_is_missing(checkpoint, tmp_path):
    (checkpoint / SECOND).unlink()
    (checkpoint / SECOND).symlink_to(tmp_path / "blobs" / "gone")
    assert "is not there" in missing_from(checkpoint)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_torn_index_is_named(checkpoint, index):
    (checkpoint / INDEX_NAME).write_text(index)
    assert missing_from(checkpoint).startswith(str(checkpoint / INDEX_NAME))


def test_without_an_index_any_weights_do_and_metadata_alone_does_not(checkpoint):
    (checkpoint / INDEX_NAME).unlink()
    assert missing_from(checkpoint) == ""
    for path in checkpoint.glob("*.safetensors"):
        path.write_bytes(b"")
    assert "no weights" in missing_from(checkpoint)


def test_both_models_of_a_command_line_are_looked_at(checkpoint, tmp_path):
    draft = tmp_path / "draft"
    draft.mkdir()
    argv = ("sglang", "serve", "--model-path", str(checkpoint), "--speculative-draft-model-path", str(draft))
    assert incomplete_checkpoint(argv) == f"{draft}: no weights in this folder"
    assert incomplete_checkpoint(argv[:4]) == ""


@pytest.mark.parametrize(
    "argv",
    [
        ("sglang", "serve"),
        ("sglang", "serve", "--model-path", "org/name"),
        ("sglang", "serve", "--model-path", "{folder}", "--load-format", "dummy"),
    ],
)
def test_what_is_no_folder_to_load_from_is_not_judged(tmp_path, argv):
    assert incomplete_checkpoint([item.format(folder=tmp_path) for item in argv]) == ""
