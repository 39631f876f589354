"""`tuner predict`: the contract's keys, both option groups, and what cannot be."""

from __future__ import annotations

import json

import pytest
from support.cli import tuner
from support.spaces import small_space

FIGURES = {
    "fits",
    "margin_gib",
    "output_tokens_per_s",
    "total_tokens_per_s_per_gpu",
    "tpot_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "capacity_req_per_s",
}
LAYOUT = ("--architecture", "glm-5", "--accelerator", "b200", "--precision", "fp8", "--tp", "8", "--gpus", "8")
TRAFFIC = ("--input-tokens", "2000", "--output-tokens", "100")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def predicted(*args):
    said = tuner("predict", *args, "--json")
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_a_closed_loop_without_a_space_has_all_figures_and_their_terms():
    doc = predicted(*LAYOUT, *TRAFFIC, "--concurrency", "16")
    for kind in ("closed_form", "simulated"):
        figures = doc[kind]
        assert set(figures) >= FIGURES
        assert all(figures[name] is not None for name in FIGURES)
        assert figures["total_tokens_per_s_per_gpu"] == pytest.approx(21 * figures["output_tokens_per_s"] / 8)
    assert doc["simulated"]["simulated"] is True
    rates = [doc[kind]["output_tokens_per_s"] for kind in ("closed_form", "simulated")]
    assert rates[0] == pytest.approx(rates[1], rel=0.1)
    for step in ("prefill_step", "decode_step"):
        assert sum(doc["time"][step]["terms_ms"].values()) == pytest.approx(doc["time"][step]["total_ms"])
    memory = doc["memory"]
    assert sum(memory["weights_gib"].values()) == pytest.approx(memory["weights_together_gib"], abs=0.1)


def test_an_open_loop_at_a_rate_and_at_capacity():
    low = predicted(*LAYOUT, *TRAFFIC, "--rate", "1", "--cached-fraction", "0.5")
    assert low["closed_form"]["output_tokens_per_s"] == pytest.approx(100, rel=0.01)
    full = predicted(*LAYOUT, *TRAFFIC, "--cached-fraction", "0.5", "--ttft-p95", "2")
    for kind in ("closed_form", "simulated"):
        assert full[kind]["output_tokens_per_s"] == pytest.approx(100 * full[kind]["capacity_req_per_s"], rel=0.1)
        assert full[kind]["ttft_p95_s"] > low[kind]["ttft_p95_s"]


def test_a_rate_beyond_capacity_has_no_steady_latency():
    figures = predicted(*LAYOUT, *TRAFFIC, "--rate", "500")["closed_form"]
    assert figures["overloaded"] is True
    assert figures["ttft_p95_s"] is None
    assert figures["rate_req_per_s"] < 500


def test_what_does_not_fit_says_by_how_much_and_nothing_else():
    doc = predicted("--architecture", "glm-5", "--accelerator", "b200", "--precision", "bf16", "--tp", "8", *TRAFFIC)
    for kind in ("closed_form", "simulated"):
        assert doc[kind]["fits"] is False
        assert doc[kind]["margin_gib"] < 0
        assert doc[kind]["capacity_req_per_s"] is None
        assert doc[kind]["limit"] == "weights and KV cache"


def test_a_router_can_be_asked_for():
    args = ("--input-tokens", "4000", "--output-tokens", "50", "--cached-fraction", "0.5", "--rate", "2")
    layout = ("--architecture", "glm-5.2", "--accelerator", "mi355x", "--precision", "mxfp4", "--tp", "4", "--dp", "2")
    sticky, dealt = (predicted(*args, *layout, "--routing", routing) for routing in ("sticky", "round-robin"))
    assert sticky["settings"]["routing"] == "sticky"
    for kind in ("closed_form", "simulated"):
        assert sticky[kind]["ttft_p95_s"] > dealt[kind]["ttft_p95_s"]


def test_replicas_follow_from_the_gpus():
    args = ("--architecture", "glm-5.2", "--accelerator", "mi355x", "--precision", "mxfp4", "--tp", "4", *TRAFFIC)
    one, two = (
        predicted(*args, "--gpus", "4", "--concurrency", "8"),
        predicted(*args, "--gpus", "8", "--concurrency", "16"),
    )
    assert (one["settings"]["dp"], two["settings"]["dp"]) == (1, 2)
    rates = [doc["closed_form"]["output_tokens_per_s"] for doc in (one, two)]
    assert rates[1] == pytest.approx(2 * rates[0], rel=0.01)


def test_a_point_of_a_space_takes_its_values_and_the_best_of_the_rest(tmp_path):
    path = small_space(tmp_path)
    doc = predicted("--space", path, "--set", "layout=tp4-dp2", "--set", "weights=fp8", "--rate", "2")
    assert (doc["settings"]["tp"], doc["settings"]["dp"], doc["settings"]["precision"]) == (4, 2, "fp8")
    assert doc["input_tokens"] == 4000
    other = predicted("--space", path, "--set", "tp=8", "--set", "max-running-requests=48", "--input-tokens", "3000")
    assert other["settings"]["max_running_requests"] == 48  # a number outside the grid
    assert other["input_tokens"] == 3000


def test_people_read_a_table_and_the_terms():
    said = tuner("predict", *LAYOUT, *TRAFFIC, "--concurrency", "4")
    assert said.code == 0
    for words in ("closed form", "nothing is measured", "total_tokens_per_s_per_gpu", "weights read", "KV pool"):
        assert words in said.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((*LAYOUT,), "--input-tokens, --output-tokens must be given"),
        ((*TRAFFIC, *LAYOUT, "--rate", "1", "--concurrency", "2"), "exclude each other"),
        ((*TRAFFIC, *LAYOUT, "--dp", "2"), "is 16 GPUs, not --gpus 8"),
        ((*TRAFFIC, *LAYOUT[:4], "--precision", "fp9", "--tp", "8"), "no such precision"),
        ((*TRAFFIC, *LAYOUT[:6]), "--tp or --gpus"),
        (("--set", "tp=8", *TRAFFIC, *LAYOUT), "--set goes with --space"),
        (("--space", "amd-mi355x.yaml", "--tp", "8"), "goes without --space"),
        (("--space", "amd-mi355x.yaml", "--set", "tp"), "expected key=value"),
        (("--space", "amd-mi355x.yaml", "--set", "wights=fp8"), "did you mean 'weights'"),
        ((*TRAFFIC, *LAYOUT[:6], "--tp", "3"), "do not divide by 3"),
        ((*TRAFFIC, *LAYOUT, "--routing", "stiky"), "did you mean 'sticky'"),
        (("--input-tokens", "900000", "--output-tokens", "9", *LAYOUT), "exceeds the"),
        (("--architecture", "glm-6", *LAYOUT[2:], *TRAFFIC), "unknown architecture"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(args, words):
    said = tuner("predict", *args)
    assert said.code == 2
    assert words in said.err
    assert not said.out


def test_values_no_valid_point_has_name_the_rule(tmp_path):
    said = tuner("predict", "--space", small_space(tmp_path), "--set", "weights=fp8", "--set", "layout=tp2-dp4")
    assert said.code == 2
    assert "no point of small" in said.err
