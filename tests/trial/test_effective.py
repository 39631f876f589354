"""What was asked against what a real sglang 0.5.23 said it ran with (its /server_info, trimmed)."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tuner.trial.effective import asked_of, differences, effective_of, environment_of, fingerprint

CAPTURED = json.loads((Path(__file__).parent / "data" / "server_info.json").read_text())
ASKED = ("python3", "-m", "sglang.launch_server", *CAPTURED["launch_command"].split())


def info(**changes):
    """The captured document with other settings; `cap` is the running cap of a scheduler."""
    document = copy.deepcopy(CAPTURED)
    if "cap" in changes:
        document["internal_states"][0]["effective_max_running_requests_per_dp"] = changes.pop("cap")
    return document | changes


def test_an_engine_that_does_as_asked_differs_in_nothing():
    assert differences(ASKED, CAPTURED) == {}


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        (
            ("sglang", "serve", "--model-path", "m", "--disable-radix-cache"),
            {"model_path": "m", "disable_radix_cache": True},
        ),
        (("--model", "m", "--tp", "8", "--ep-size=4"), {"model_path": "m", "tp_size": "8", "ep_size": "4"}),
        (("--dp", "2", "--dp-size", "4"), {"dp_size": "4"}),
        (("--chunked-prefill-size", "-1"), {"chunked_prefill_size": "-1"}),
        (("--cuda-graph-bs-decode", "1", "2", "4"), {"cuda_graph_bs_decode": ["1", "2", "4"]}),
        (("python3", "-m", "sglang.launch_server"), {}),
    ],
)
def test_a_command_line_is_read_as_the_engine_reads_it(argv, asked):
    assert asked_of(argv) == asked


@pytest.mark.parametrize(
    ("flags", "changes", "expected"),
    [
        (("--mem-fraction-static", "0.30"), {}, {}),
        (("--chunked-prefill-size", "4k"), {"chunked_prefill_size": 4000}, {}),
        (("--schedule-policy", "FCFS"), {}, {}),
        (("--enable-cache-report",), {"enable_cache_report": False}, {"enable_cache_report": (True, False)}),
        (("--page-size", "64"), {}, {"page_size": ("64", 1)}),
        (("--kv-cache-dtype", "fp8_e4m3"), {}, {"kv_cache_dtype": ("fp8_e4m3", "auto")}),
        (("--attention-backend", "aiter"), {"attention_backend": None}, {"attention_backend": ("aiter", None)}),
        # the KV pool holds no more than this
        (("--max-running-requests", "512"), {"cap": 480}, {"max_running_requests": ("512", 480)}),
        # attention DP shares the cap: 512 over 8 groups is as asked
        (("--max-running-requests", "512"), {"cap": 64, "attn_dp_size": 8}, {}),
        (("--max-running-requests", "512"), {"cap": 64, "dp_size": 8, "enable_dp_attention": True}, {}),
        (("--max-running-requests", "512"), {"cap": 512, "dp_size": 2}, {}),
        # the resolved graph cap counts, not the flag's own field
        (("--cuda-graph-max-bs-decode", "32"), {}, {}),
        (("--cuda-graph-max-bs-decode", "64"), {}, {"cuda_graph_max_bs_decode": ("64", 32)}),
        (("--model-loader-extra-config", '{"a": 1}'), {"model_loader_extra_config": '{"a":1}'}, {}),
        # how it is reached, secrets, and what it does not tell are nobody's difference
        (("--port", "1", "--random-seed", "42", "--api-key", "sk-hidden", "--unheard-of", "3"), {}, {}),
    ],
)  # fmt: skip
def test_differences_are_what_the_engine_changed(flags, changes, expected):
    found = differences(("sglang", "serve", *flags), info(**changes))
    assert found == {name: {"asked": asked, "effective": real} for name, (asked, real) in expected.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 31999, "host": "0.0.0.0", "nccl_port": 5, "random_seed": 7, "api_key": "sk-1234567890"},
        {"launch_command": "--other", "startup_time": {}, "status": "x", "served_model_name": "y"},
        {"max_total_num_tokens": 65535, "watermark_key": "a", "_swa_full_tokens_ratio_explicitly_set": True},
        {"a_later_versions_setting": None},
    ],
)
def test_how_an_engine_is_reached_does_not_change_its_fingerprint(changes):
    assert fingerprint(info(**changes), {}) == fingerprint(CAPTURED, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"tp_size": 2},
        {"version": "0.5.22"},
        {"model_path": "other"},
        {"kv_cache_dtype": "fp8_e4m3"},
        {"cuda_graph_config": {}},
        {"a_later_versions_setting": 1},
        {"max_running_requests": 64, "cap": 64},
    ],
)
def test_whatever_may_change_a_measurement_changes_the_fingerprint(changes):
    assert fingerprint(info(**changes), {}) != fingerprint(CAPTURED, {})


def test_two_requests_that_memory_cuts_to_the_same_cap_are_duplicates():
    """512 and 1024 asked, about 301 possible: the same engine twice, though free memory differs by a page or two."""
    one = fingerprint(info(max_running_requests=512, cap=301), {})
    assert fingerprint(info(max_running_requests=1024, cap=304), {}) == one
    assert fingerprint(info(max_running_requests=1024, cap=350), {}) != one
    assert fingerprint(info(max_running_requests=300, cap=300), {}) == one
    assert fingerprint(info(max_running_requests=304, cap=304), {}) != one


def test_what_the_engine_does_not_tell_is_part_of_the_fingerprint_and_secrets_are_not():
    env = environment_of({"SGLANG_USE_AITER": "1", "HF_TOKEN": "hf_12345678"})
    assert env == {"SGLANG_USE_AITER": "1"}
    assert fingerprint(CAPTURED, {"env": env}) != fingerprint(CAPTURED, {"env": {}})
    assert fingerprint(CAPTURED, {"env": env}) == fingerprint(CAPTURED, {"env": dict(env)})


def test_effective_keeps_what_matters_and_no_keys():
    effective = effective_of(info(api_key="hidden", cap=16, quantization=None))
    assert (effective["version"], effective["tp_size"], effective["chunked_prefill_size"]) == ("0.5.23", 1, 4096)
    assert effective["memory_usage"]["token_capacity"] == 65536
    assert effective["max_running_requests_per_scheduler"] == 16
    assert "quantization" not in effective
    assert "hidden" not in str(effective)


@pytest.mark.parametrize("states", [[{"memory_usage": None}], "?", [], None])
def test_an_engine_without_memory_figures_is_taken_as_it_is(states):
    document = {"version": "0.5.23", "internal_states": states, "max_running_requests": 8}
    assert effective_of(document) == {"version": "0.5.23", "max_running_requests": 8}
    assert differences(("--max-running-requests", "8"), document) == {}
    assert fingerprint(document, {})
