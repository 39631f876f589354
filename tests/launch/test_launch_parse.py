"""Command lines are read as the engine's own argparse reads them."""

from __future__ import annotations

import pytest

from tuner.launch.dialect import dialect
from tuner.launch.resolve import ArgumentsError, StartUpError, parse_argv

MODEL = ("--model-path", "m")


@pytest.mark.parametrize(
    ("version", "argv", "expected"),
    [
        ("0.5.23", "--tp 4 --dp 2", {"tp-size": 4, "dp-size": 2}),
        ("0.5.23", "--ep=8", {"ep-size": 8}),
        ("0.5.23", "--expert-parallel-size 8", {"ep-size": 8}),
        ("0.5.23", "--speculative-algo EAGLE", {"speculative-algorithm": "EAGLE"}),
        ("0.5.23", "--mem-fraction-static 0.8", {"mem-fraction-static": 0.8}),
        ("0.5.23", "--schedule-conservativeness -1", {"schedule-conservativeness": -1.0}),
        ("0.5.23", "--enable-mixed-chunk", {"enable-mixed-chunk": True}),
        ("0.5.23", "--context-length 32Ki", {"context-length": 32768}),
        ("0.5.23", "--no-enable-tf32-matmul", {"enable-tf32-matmul": False}),
        ("0.5.23", "--cuda-graph-bs-decode 1 2 4", {"cuda-graph-bs-decode": [1, 2, 4]}),
        ("0.5.16", "--cuda-graph-max-bs 64", {"cuda-graph-max-bs-decode": 64}),
        ("0.5.16", "--cuda-graph-max-bs-decode 64", {"cuda-graph-max-bs-decode": 64}),
        ("0.5.12", "--nsa-prefill-backend tilelang", {"dsa-prefill-backend": "tilelang"}),
        ("0.5.16", "--tp 8 --tp 4", {"tp-size": 4}),
    ],
)
def test_what_argparse_accepts(version, argv, expected):
    assert parse_argv([*MODEL, *argv.split()], dialect(version)) == {"model-path": "m"} | expected


@pytest.mark.parametrize(
    ("version", "argv", "says"),
    [
        ("0.5.23", "--no-such-flag 1", "unrecognized arguments: --no-such-flag 1"),
        ("0.5.23", "--cuda-graph-max-bs 64", "ambiguous option: --cuda-graph-max-bs could match"),
        ("0.5.23", "--nsa-prefill-backend tilelang", "unrecognized arguments"),
        ("0.5.16", "--attn-dp-size 2", "unrecognized arguments"),
        ("0.5.23", "--kv-cache-dtype fp8", "argument --kv-cache-dtype: invalid choice: 'fp8'"),
        ("0.5.23", "--quantization quark_w4a4_mxfp4", "invalid choice"),
        ("0.5.23", "--tp two", "argument --tp-size/--tensor-parallel-size: invalid int value: 'two'"),
        ("0.5.23", "--chunked-prefill-size 32k", "invalid int value"),
        ("0.5.23", "--tp", "expected one argument"),
        ("0.5.23", "stray", "unrecognized arguments: stray"),
    ],
)
def test_what_argparse_refuses_ends_with_exit_code_2(version, argv, says):
    with pytest.raises(ArgumentsError) as caught:
        parse_argv([*MODEL, *argv.split()], dialect(version))
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, StartUpError)


def test_the_model_is_required():
    with pytest.raises(ArgumentsError, match="required: --model-path/--model"):
        parse_argv(["--tp", "8"])


def test_without_a_dialect_the_newest_is_spoken():
    assert parse_argv(["--model", "m", "--attn-dp-size", "8"]) == {"model-path": "m", "attn-dp-size": 8}
