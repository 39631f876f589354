"""Re-scoring by price agrees with a fresh search, after running exactly what it calls undecided.

Whole searches on the simulated engine, over two pools, through the commands a person would type.
"""

from __future__ import annotations

import json
import shlex

import pytest
from support.cli import tuner
from support.spaces import small_space

from tuner.study.summary import read_summary

B200 = """\
  b200:
    accelerator: b200
    engine: {kind: sglang, version: "0.5.16"}
    image: lmsysorg/sglang:v0.5.16
    usd_per_gpu_hour: 6.00
workload:"""
SPACE = [
    ("workload:", B200),
    ("mxfp4: {model: amd/GLM-5.2-MXFP4,", "mxfp4: {model: amd/GLM-5.2-MXFP4, pools: [mi355x],"),
    ("chunked-prefill-size: {values: [16384, 32768]}", "chunked-prefill-size: 16384"),
    (", chunked-prefill-size: 16384}", "}"),
    ("{values: [32, 64]}", "{values: [16, 32, 64, 96]}"),
]
SEARCH = ("search", "--runtime", "simulated", "--world", "0", "--sampler", "random", "--trials", "24")
SAME = 0.05
"""Two measurements of one configuration, under other seeds, lie no further apart."""


def decided(folder, *how, most=3):
    """Compare, run what is called undecided by the printed commands, until it is decided."""
    studies, ran = ["small"], 0
    for _ in range(most):
        doc = json.loads(tuner("compare", *studies, *how, "--json").out)
        if not doc["undecided"]:
            return doc["winner"], ran
        for command in doc["commands"]:
            words = [str(folder / "space.yaml") if w == "SPACE.yaml" else w for w in shlex.split(command)[1:]]
            said = tuner(*words)
            assert said.code in (0, 4), said.err
            if "--new-study" in words:
                studies.append(words[words.index("--new-study") + 1])
            ran += 1
    raise AssertionError(f"still undecided: {doc['undecided']}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "edit"),
    [
        (("--price", "b200=0.6"), ("usd_per_gpu_hour: 6.00", "usd_per_gpu_hour: 0.60")),
    ],
    ids=["price"],
)
def test_the_rescored_winner_is_the_one_a_fresh_search_finds(tmp_path, monkeypatch, how, edit):
    monkeypatch.chdir(tmp_path)
    tuner(*SEARCH, "--space", small_space(tmp_path, *SPACE))
    winner, ran = decided(tmp_path, *how)
    assert ran > 0, "nothing was undecided: the case tests nothing"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    monkeypatch.chdir(fresh)
    tuner(*SEARCH, "--space", small_space(fresh, *SPACE, edit))
    best = read_summary("sqlite:///small.db").best
    assert winner["usd_per_million_output_tokens"] == pytest.approx(best.usd_per_million_output_tokens, rel=SAME)
    assert winner["configuration"].split()[:2] == best.label.split()[:2]  # pool and layout
