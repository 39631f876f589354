"""How each sglang version spells its flags, and what it says about those it does not have."""

from __future__ import annotations

import pytest

from tuner.errors import UsageError
from tuner.launch.dialect import canonical, dialect, reserved_flag
from tuner.launch.flags import flag_table, read_count, version_key


@pytest.mark.parametrize(
    ("version", "graph_cap", "dsa", "attn_dp_size"),
    [
        ("0.5.10.post1", "cuda-graph-max-bs", "nsa-prefill-backend", False),
        ("0.5.12", "cuda-graph-max-bs", "nsa-prefill-backend", False),
        ("0.5.13.post1", "cuda-graph-max-bs", "dsa-prefill-backend", False),
        ("0.5.14", "cuda-graph-max-bs", "dsa-prefill-backend", False),
        ("0.5.16", "cuda-graph-max-bs", "dsa-prefill-backend", False),
        ("0.5.18", "cuda-graph-max-bs", "dsa-prefill-backend", False),
        ("0.5.19", "cuda-graph-max-bs-decode", "dsa-prefill-backend", False),
        ("0.5.20", "cuda-graph-max-bs-decode", "dsa-prefill-backend", False),
        ("0.5.21", "cuda-graph-max-bs-decode", "dsa-prefill-backend", False),
        ("0.5.22", "cuda-graph-max-bs-decode", "dsa-prefill-backend", True),
        ("0.5.23", "cuda-graph-max-bs-decode", "dsa-prefill-backend", True),
        ("0.6.0", "cuda-graph-max-bs-decode", "dsa-prefill-backend", True),
    ],
)
def test_every_version_has_its_own_spellings(version, graph_cap, dsa, attn_dp_size):
    speaks = dialect(version)
    assert speaks.spell("cuda-graph-max-bs-decode") == graph_cap
    assert speaks.spell("cuda-graph-max-bs") == graph_cap
    assert speaks.spell("dsa-prefill-backend") == dsa
    assert speaks.spells_attn_dp_size is attn_dp_size
    assert (speaks.spell("attn-dp-size") is not None) is attn_dp_size


@pytest.mark.parametrize("version", ["0.5.10.post1", "0.5.14", "0.5.16", "0.5.20", "0.5.23"])
def test_flags_of_the_safe_subset_exist_in_every_version(version):
    names = (
        "tp-size dp-size ep-size mem-fraction-static chunked-prefill-size max-prefill-tokens max-running-requests "
        "schedule-policy schedule-conservativeness kv-cache-dtype speculative-algorithm speculative-num-steps "
        "speculative-eagle-topk speculative-num-draft-tokens moe-a2a-backend moe-runner-backend stream-interval "
        "watchdog-timeout enable-metrics enable-cache-report context-length trust-remote-code random-seed"
    )
    assert [name for name in names.split() if dialect(version).spell(name) != name] == []


@pytest.mark.parametrize("version", ["latest", "0.5", "", "0.5.x", "nightly-0.5.16"])
def test_an_unreadable_version_is_a_usage_error(version):
    with pytest.raises(UsageError, match="cannot be read"):
        dialect(version)


@pytest.mark.parametrize("version", ["0.4.9", "0.5.9.post3"])
def test_a_version_before_the_oldest_known_is_a_usage_error(version):
    with pytest.raises(UsageError, match=r"older than 0\.5\.10"):
        dialect(version)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("0.5.16", (0, 5, 16)),
        ("v0.5.16", (0, 5, 16)),
        ("0.5.13.post1", (0, 5, 13)),
        ("0.5.23rc1", (0, 5, 23)),
        ("v0.5.16-rocm720-mi35x", (0, 5, 16)),
        ("0.5.24.dev12+g1234", (0, 5, 24)),
    ],
)
def test_versions_are_read_as_tags_and_packages_write_them(text, key):
    assert version_key(text) == key


def test_the_table_holds_every_flag_of_the_newest_parser_and_the_removed_ones():
    flags = flag_table().flags
    assert sum(flag.last is None for flag in flags.values()) == 531
    assert {"nsa-prefill-backend", "cuda-graph-max-bs", "torchao-config"} <= {n for n, f in flags.items() if f.last}


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [
        ("0.5.16", "max-running-requests", 128),
        ("0.5.16", "mem-fraction-static", 0.85),
        ("0.5.16", "schedule-conservativeness", 1),
        ("0.5.16", "enable-mixed-chunk", True),
        ("0.5.16", "enable-mixed-chunk", False),
        ("0.5.16", "watchdog-timeout", None),
        ("0.5.16", "dsa-prefill-backend", "tilelang"),
        ("0.5.12", "dsa-prefill-backend", "tilelang"),
        ("0.5.12", "attention-backend", "dsa"),
        ("0.5.16", "attention-backend", "dsa"),
        ("0.5.23", "nsa-decode-backend", "trtllm"),
        ("0.5.23", "context-length", "32k"),
        ("0.5.23", "chunked-prefill-size", -1),
        ("0.5.23", "cuda-graph-bs-decode", "1 2 4 8"),
        ("0.5.23", "model-loader-extra-config", '{"enable_multithread_load": true}'),
        ("0.5.23", "default-chat-template-kwargs", '{"enable_thinking": false}'),
        ("0.5.14", "reasoning-parser", "any-name"),
    ],
)
def test_a_flag_the_version_has_passes(version, name, value):
    assert dialect(version).check_flag(name, value) is None


@pytest.mark.parametrize(
    ("version", "name", "value", "says"),
    [
        ("0.5.16", "chunked-prefil-size", 1, "did you mean `chunked-prefill-size`"),
        ("0.5.16", "max_running_requests", 1, "did you mean `max-running-requests`"),
        ("0.5.16", "zzzz", 1, "`zzzz` is no flag of sglang 0.5.16"),
        ("0.5.16", "prefill-decode-interval", 2, "it came with 0.5.20"),
        ("0.5.16", "no-such", None, "is no flag"),
        ("0.5.20", "torchao-config", "x", "it was last seen in 0.5.16"),
        ("0.5.23", "kv-cache-dtype", "fp8", "no choice 'fp8'; did you mean 'mxfp8'"),
        ("0.5.16", "dsa-prefill-backend", "triton", "no choice 'triton'"),
        ("0.5.12", "quantization", "quark_mxfp4", "no choice 'quark_mxfp4'"),
        ("0.5.23", "quantization", "quark_w4a4_mxfp4", "did you mean"),
        ("0.5.23", "log-requests-level", 9, "no choice '9'"),
        ("0.5.23", "chunked-prefill-size", "32k", "needs a whole number; got '32k'"),
        ("0.5.23", "max-running-requests", 1.5, "needs a whole number; got '1.5'"),
        ("0.5.23", "mem-fraction-static", "most", "needs a number"),
        ("0.5.23", "max-running-requests", True, "needs a whole number; got true"),
        ("0.5.23", "max-running-requests", [1, 2], "needs a whole number"),
        ("0.5.23", "attention-backend", True, "needs one value"),
        ("0.5.23", "enable-mixed-chunk", 1, "takes no value"),
        ("0.5.23", "cuda-graph-bs-decode", "1 two", "got 'two'"),
        ("0.5.23", "speculative-algorithm", "--tp-size", "read as another flag"),
        ("0.5.23", "context-length", "1.5Ki", "needs a whole number"),
        ("0.5.23", "default-chat-template-kwargs", "{", "needs JSON"),
    ],
)
def test_what_the_version_would_refuse_is_said_with_the_nearest_thing_it_has(version, name, value, says):
    assert says in (dialect(version).check_flag(name, value) or "")


@pytest.mark.parametrize(
    "name",
    [
        *("tp-size", "tp", "tensor-parallel-size", "dp-size", "attn-dp-size", "enable-dp-attention", "ep", "ep-size"),
        *("model-path", "model", "host", "port", "--port", "served-model-name", "enable-metrics", "api-key", "config"),
        *("nnodes", "pp-size", "disaggregation-mode", "log-requests"),
    ],
)
def test_a_flag_the_tuner_owns_is_refused_with_its_owner(name):
    message = reserved_flag(name)
    assert message is not None
    assert message.startswith(f"`{name}` is not set in a space file: ")


@pytest.mark.parametrize("name", ["kv-cache-dtype", "cuda-graph-max-bs", "random-seed", "moe-a2a-backend", "nonsense"])
def test_every_other_flag_is_the_users(name):
    assert reserved_flag(name) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("--expert-parallel-size", "ep-size"),
        ("enable-hicache", "enable-hierarchical-cache"),
        ("nsa-decode-backend", "dsa-decode-backend"),
        ("cuda-graph-bs", "cuda-graph-bs-decode"),
        ("nonsense", "nonsense"),
    ],
)
def test_any_spelling_has_one_canonical_name(name, expected):
    assert canonical(name) == expected


@pytest.mark.parametrize(("text", "count"), [("7", 7), ("1k", 1000), ("25.6k", 25600), ("1Ki", 1024), ("2Mi", 2097152)])
def test_counts_are_read_with_si_and_iec_suffixes(text, count):
    assert read_count(text) == count
