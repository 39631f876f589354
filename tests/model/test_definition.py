"""A user's own accelerator or architecture, from the document that travels with a trial."""

from __future__ import annotations

import json

import pytest

from tuner.errors import UsageError
from tuner.model.catalogue import GIB, accelerator, architecture, tokens_per_verify
from tuner.model.definition import accelerator_of, architecture_of, refuse_taken

OWN = {
    "name": "mi400",
    "vendor": "amd",
    "hbm_gib": 430,
    "hbm_tb_s": 19.6,
    "scaleup_gb_s": 1800,
    "tflops": {"bf16": 5000, "fp8": 10000, "fp4": 20000},
    "compute_capability": 9.6,
}
SHAPE = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "vocab_size": 32000,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
}


def test_a_name_is_the_catalogues():
    assert accelerator_of("b200") == accelerator("b200")
    assert architecture_of("glm-5.2") == architecture("glm-5.2")


def test_a_whole_definition_leans_on_nothing():
    acc = accelerator_of(OWN)
    assert (acc.name, acc.vendor, acc.resource_name) == ("mi400", "amd", "amd.com/gpu")
    assert (acc.hbm_bytes, acc.hbm_bytes_per_s, acc.scaleup_bytes_per_s) == (430 * GIB, 19.6e12, 1.8e12)
    assert (acc.flops("fp4"), acc.compute_capability) == (20e15, 9.6)
    assert acc.precisions == {"bf16", "fp8", "mxfp4"}
    assert acc.price is None


def test_what_is_left_out_is_that_of_its_like():
    acc, b200 = accelerator_of({"name": "b200-192", "like": "b200", "hbm_gib": 186.0}), accelerator("b200")
    assert acc.hbm_bytes == 186 * GIB
    assert (acc.flops_per_s, acc.hbm_bytes_per_s) == (b200.flops_per_s, b200.hbm_bytes_per_s)
    assert acc.collective_latency_s == pytest.approx(b200.collective_latency_s)
    assert accelerator_of({"name": "x", "like": "b200", "resource_name": "my/gpu"}).resource_name == "my/gpu"


def test_a_definition_survives_json():
    assert accelerator_of(json.loads(json.dumps(OWN))) == accelerator_of(OWN)


def test_an_architecture_comes_from_keys_a_path_or_a_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    inline = architecture_of({"name": "mine", "config": SHAPE})
    filed = architecture_of({"name": "mine", "config": str(tmp_path / "config.json")})
    assert inline.total_params == filed.total_params
    assert (inline.name, filed.name) == ("mine", "mine")


def test_an_own_acceptance_curve_goes_before_the_published_one():
    arch = architecture_of({"name": "glm-tuned", "config": "glm-5.2", "tokens_per_verify": [1.9, 2.7]})
    assert [tokens_per_verify(arch, k) for k in range(4)] == [1.0, 1.9, 2.7, 2.7]
    assert arch.total_params == architecture("glm-5.2").total_params


def test_mistakes_say_where():
    with pytest.raises(UsageError, match="the config of mine: lacks hidden_size"):
        architecture_of({"name": "mine", "config": {k: v for k, v in SHAPE.items() if k != "hidden_size"}})
    with pytest.raises(UsageError, match="unknown accelerator 'b20'"):
        accelerator_of({"name": "x", "like": "b20"})
    with pytest.raises(UsageError, match="has an accelerator B200 already"):
        refuse_taken("B200", ("b200",), "an accelerator", "take another")
