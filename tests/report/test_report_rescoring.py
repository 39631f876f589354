"""Re-scoring by price and by limit agrees with a fresh search, after running exactly what it calls undecided.

Whole searches on the simulated engine through the commands a person would type. By price: two pools. By limit: prompts
so long that the limit decides how much of a server's throughput may be used.
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
ONE_CHUNK = [
    ("chunked-prefill-size: {values: [16384, 32768]}", "chunked-prefill-size: 8192"),
    (", chunked-prefill-size: 16384}", "}"),
]
TWO_POOLS = [
    *ONE_CHUNK,
    ("workload:", B200),
    ("mxfp4: {model: amd/GLM-5.2-MXFP4,", "mxfp4: {model: amd/GLM-5.2-MXFP4, pools: [mi355x],"),
    ("layout: {tp: [4, 8], dp: [1, 2], gpus: 8}", "layout: {tp: [8], dp: [1], gpus: 8}"),
    ("{values: [32, 64]}", "{values: [16, 64]}"),
]
LONG_PROMPTS = [
    *ONE_CHUNK,
    ("      fp8: {model: zai-org/GLM-5.2-FP8, args: {kv-cache-dtype: fp8_e4m3}}\n", ""),
    ("weights: fp8, ", "weights: mxfp4, "),
    ("input_tokens: 4000", "input_tokens: 16000"),
    ("{values: [32, 64]}", "{values: [16, 64]}"),
]


def tuned_at(limit_s):
    return ("ttft_p95_s: 5.0", f"ttft_p95_s: {limit_s}")


SEARCH = ("search", "--runtime", "simulated", "--world", "0", "--sampler", "random", "--trials", "24")
SAME = 0.05
"""Two measurements of one configuration, under other seeds, lie no further apart."""


def decided(folder, *how, most=3):
    """Compare, run what is called undecided by the printed commands, until it is decided; (winner, trials run)."""
    studies, ran = ["small"], []
    for _ in range(most):
        said = tuner("compare", *studies, *how, "--json")
        doc = json.loads(said.out)
        assert said.code == (4 if doc["undecided"] else 0)
        if not doc["undecided"]:
            return doc["winner"], ran
        for command in doc["commands"]:
            words = [str(folder / "space.yaml") if w == "SPACE.yaml" else w for w in shlex.split(command)[1:]]
            said = tuner(*words)
            assert said.code in (0, 4), said.err
            assert "the configurations asked for with --only have been run" in said.err
            if "--new-study" in words:
                studies.append(words[words.index("--new-study") + 1])
            ran += words[-1].split(",")
    raise AssertionError(f"still undecided: {doc['undecided']}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("space", "how", "edit", "spared"),
    [
        (TWO_POOLS, ("--price", "b200=0.6"), ("usd_per_gpu_hour: 6.00", "usd_per_gpu_hour: 0.60"), True),
        ([*LONG_PROMPTS, tuned_at(1.0)], ("--limit", "ttft_p95_s=5"), tuned_at(5.0), True),
        ([*LONG_PROMPTS, tuned_at(5.0)], ("--limit", "ttft_p95_s=1.0"), tuned_at(1.0), False),
    ],
    ids=["price", "looser-limit", "stricter-limit"],
)
def test_the_rescored_winner_is_the_one_a_fresh_search_finds(tmp_path, monkeypatch, space, how, edit, spared):
    monkeypatch.chdir(tmp_path)
    tuner(*SEARCH, "--space", small_space(tmp_path, *space))
    before = read_summary("sqlite:///small.db")
    winner, ran = decided(tmp_path, *how)
    assert ran, "nothing was undecided: the case tests nothing"
    assert spared == (len(ran) < len(before.trials_in_order)), "what the stored levels decide is not run again"
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    monkeypatch.chdir(fresh)
    kept = [e for e in space if e[0] != edit[0]]
    tuner(*SEARCH, "--space", small_space(fresh, *kept, edit))
    best = read_summary("sqlite:///small.db").best
    assert winner["usd_per_million_output_tokens"] == pytest.approx(best.usd_per_million_output_tokens, rel=SAME)
    assert winner["configuration"].split()[:2] == best.label.split()[:2]  # pool and layout
    assert winner["usd_per_million_output_tokens"] != pytest.approx(before.best.usd_per_million_output_tokens, rel=SAME)
