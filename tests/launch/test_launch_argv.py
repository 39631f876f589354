"""Golden command lines, and what is measured against what is plumbing."""

from __future__ import annotations

import pytest

from tuner.errors import UsageError
from tuner.launch.argv import PORT_PLACEHOLDER, fill_port, measured_flags, plumbing, render, with_plumbing
from tuner.launch.dialect import dialect

MI355X_MXFP4_TP4_DP2_MTP3 = (
    "--model-path amd/GLM-5.2-MXFP4 --tp-size 4 --dp-size 2 --ep-size 1 --kv-cache-dtype fp8_e4m3 "
    "--mem-fraction-static 0.84 --chunked-prefill-size 32768 --max-running-requests 128 --cuda-graph-max-bs 128 "
    "--speculative-algorithm EAGLE --speculative-num-steps 3 --speculative-eagle-topk 1 "
    "--speculative-num-draft-tokens 4 "
    "--dsa-decode-backend tilelang --dsa-prefill-backend tilelang --trust-remote-code --watchdog-timeout 1800 "
    "--random-seed 42"
)

B200_NVFP4_TP8_ADP8 = (
    "--model-path nvidia/GLM-5.2-NVFP4 --tp-size 8 --dp-size 1 --attn-dp-size 8 --ep-size 8 --kv-cache-dtype fp8_e4m3 "
    "--mem-fraction-static 0.84 --chunked-prefill-size 32768 --max-running-requests 250 --cuda-graph-max-bs-decode 32 "
    "--enable-dp-lm-head --quantization modelopt_fp4 --random-seed 42"
)


@pytest.fixture
def mi355x_mtp(a_deployment):
    return a_deployment(
        version="0.5.16",
        tp=4,
        dp=2,
        model="amd/GLM-5.2-MXFP4",
        precision="mxfp4",
        env={"SGLANG_USE_AITER": "1"},
        dsa_prefill_backend="tilelang",
        dsa_decode_backend="tilelang",
        watchdog_timeout=1800,
        trust_remote_code=True,
        enable_mixed_chunk=False,
        speculative_algorithm="EAGLE",
        speculative_num_steps=3,
        speculative_eagle_topk=1,
        speculative_num_draft_tokens=4,
    )


def test_golden_mi355x_mxfp4_tp4_dp2_with_mtp(mi355x_mtp):
    command = render(mi355x_mtp)
    assert " ".join(command.args) == MI355X_MXFP4_TP4_DP2_MTP3
    assert command.program == ("sglang", "serve")
    assert command.env == {"SGLANG_USE_AITER": "1"}


def test_golden_b200_nvfp4_tp8_attention_dp_8(a_deployment):
    command = render(
        a_deployment(
            attn_dp=8,
            ep=8,
            model="nvidia/GLM-5.2-NVFP4",
            precision="nvfp4",
            accelerator="b200",
            quantization="modelopt_fp4",
            enable_dp_lm_head=True,
            max_running_requests=250,
        )
    )
    assert " ".join(command.args) == B200_NVFP4_TP8_ADP8


def test_attention_dp_in_older_versions_is_dp_size_with_a_switch(a_deployment):
    args = " ".join(render(a_deployment(version="0.5.20", attn_dp=4)).args)
    assert "--tp-size 8 --dp-size 4 --enable-dp-attention --ep-size 1" in args
    assert "--cuda-graph-max-bs-decode 32" in args


def test_dsa_is_called_nsa_in_the_oldest_versions(a_deployment):
    args = " ".join(render(a_deployment(version="0.5.12", attention_backend="dsa", dsa_decode_backend="aiter")).args)
    assert "--attention-backend nsa --nsa-decode-backend aiter" in args


def test_replicas_with_attention_dp_have_no_older_spelling(a_deployment):
    with pytest.raises(UsageError, match="no such layout"):
        render(a_deployment(version="0.5.16", dp=2, attn_dp=2))


def test_no_plumbing_is_among_the_measured_arguments(mi355x_mtp):
    command = render(mi355x_mtp)
    assert not {"--host", "--port", "--enable-metrics", "--enable-cache-report"} & set(command.args)
    full = with_plumbing(command, "127.0.0.1", 8123)
    assert full[: len(command.argv)] == command.argv
    assert full[len(command.argv) :] == (
        *("--host", "127.0.0.1", "--port", "8123"),
        *("--enable-metrics", "--enable-cache-report"),
    )


def test_the_runner_fills_in_the_port_it_picked(mi355x_mtp):
    argv = with_plumbing(render(mi355x_mtp), "127.0.0.1")
    assert argv.count(PORT_PLACEHOLDER) == 1
    assert fill_port(argv, 31000) == with_plumbing(render(mi355x_mtp), "127.0.0.1", 31000)


def test_a_served_name_is_plumbing_of_the_export():
    assert plumbing(dialect("0.5.16"), host="0.0.0.0", port=30000, served_model_name="glm")[-2:] == (
        *("--served-model-name", "glm"),
    )


def test_the_pools_own_command_replaces_the_program(a_deployment):
    command = render(a_deployment(command=("python3", "-m", "sglang.launch_server")))
    assert command.argv[:4] == ("python3", "-m", "sglang.launch_server", "--model-path")


@pytest.mark.parametrize(
    ("given", "cap"),
    [
        ({"max_running_requests": 100, "attn_dp": 8}, 13),
        ({"max_running_requests": 128}, 128),
        ({"max_running_requests": 4, "attn_dp": 8}, 1),
        ({"cuda_graph_max_bs": 77}, 77),
        ({"cuda_graph_max_bs_decode": 77}, 77),
        ({"cuda_graph_bs_decode": "1 2 4"}, None),
        ({"disable_decode_cuda_graph": True}, None),
        ({"disable_decode_cuda_graph": False}, 128),
        ({"max_running_requests": None}, None),
    ],
)
def test_the_decode_graph_cap_follows_max_running_per_rank_unless_decided(a_deployment, given, cap):
    assert measured_flags(a_deployment(**given)).get("cuda-graph-max-bs-decode") == cap


def test_speculation_is_completed_to_the_whole_triple(a_deployment):
    flags = measured_flags(a_deployment(speculative_algorithm="EAGLE", speculative_num_steps=5))
    assert (flags["speculative-eagle-topk"], flags["speculative-num-draft-tokens"]) == (1, 6)


def test_a_seed_of_engine_defaults_passes_only_what_it_names(a_deployment):
    assert render(a_deployment(only=("model", "tp"), dp=2)).args == (
        *("--model-path", "zai-org/GLM-5.2-FP8", "--tp-size", "8"),
    )
    assert render(a_deployment(only=("model", "tp", "kv-cache-dtype"))).args[4:] == ("--kv-cache-dtype", "fp8_e4m3")


def test_the_engine_seed_is_fixed_but_can_be_given(a_deployment):
    assert render(a_deployment(random_seed=7)).args[-2:] == ("--random-seed", "7")


def test_three_state_switches_are_written_with_no(a_deployment):
    assert "--no-enable-tf32-matmul" in render(a_deployment(enable_tf32_matmul=False)).args
    assert "--enable-tf32-matmul" in render(a_deployment(enable_tf32_matmul=True)).args


def test_lists_are_items_of_their_own(a_deployment):
    args = render(a_deployment(cuda_graph_bs_decode="1 2 4")).args
    assert args[args.index("--cuda-graph-bs-decode") + 1 :][:3] == ("1", "2", "4")


def test_an_order_of_flags_never_changes_a_byte(a_deployment):
    first = a_deployment(watchdog_timeout=1200, stream_interval=4)
    second = a_deployment(stream_interval=4, watchdog_timeout=1200)
    assert render(first).args == render(second).args


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"version": "0.5.16", "prefill_decode_interval": 2}, "it came with 0.5.20"),
        ({"kv_cache_dtype": "fp8"}, "no choice 'fp8'"),
        ({"tp_size": 4}, "the layout decides it"),
    ],
)
def test_what_the_version_does_not_have_is_never_rendered(a_deployment, flags, says):
    with pytest.raises(UsageError, match=says):
        render(a_deployment(**flags))
