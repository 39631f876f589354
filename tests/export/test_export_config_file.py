"""The YAML file of `sglang serve --config`: read as sglang reads it, it is the trial's own command line."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from tuner.errors import UsageError
from tuner.export.config_file import fits_file, to_config_file
from tuner.export.from_study import replicas
from tuner.export.helm import helm_values, to_yaml
from tuner.launch.dialect import dialect
from tuner.launch.parse import parse_argv


def as_sglang_reads_it(text, command):
    """Sglang's own merging: `true` is the bare flag, a list many values, everything else `--key str(value)`."""
    argv = []
    for key, value in yaml.safe_load(text).items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        argv += [f"--{key}", *map(str, values)]
    words = shlex.split(command)
    at = words.index("--config")
    return argv + words[at + 2 :]


def command_of(text):
    """The launch command of the comment on top, without the environment."""
    (line,) = re.findall(r"^#   (.*--config THIS_FILE.yaml.*)$", text, re.MULTILINE)
    return line


@pytest.mark.parametrize(
    ("version", "flag", "aside"),
    [
        ("0.5.16", "dsa-prefill-backend", True),
        ("0.5.16", "cuda-graph-max-bs", True),
        ("0.5.23", "dsa-prefill-backend", False),
        ("0.5.23", "cuda-graph-max-bs-decode", False),
        ("0.5.16", "trust-remote-code", False),
        ("0.5.16", "max-running-requests", False),
        ("0.5.23", "monokernel-backend", True),
    ],
)
def test_what_sglang_refuses_in_a_file_stays_on_the_command_line(version, flag, aside):
    assert aside is not fits_file(dialect(version), (f"--{flag}", "1"))


def test_a_flag_with_a_no_form_stays_on_the_command_line():
    speaks = dialect("0.5.23")
    name = next(flag.name for flag in speaks.flags.values() if flag.kind == "optional-bool")
    assert not fits_file(speaks, (f"--{name}",))
    assert not fits_file(speaks, (f"--no-{name}",))


@pytest.mark.parametrize("version", ["0.5.16", "0.5.23"])
def test_file_and_command_line_together_are_the_measured_arguments(a_winner, a_target, version):
    extra = ("--trust-remote-code", "--dsa-prefill-backend", "tilelang", "--cuda-graph-bs-prefill", "8", "16")
    extra = extra if version == "0.5.23" else extra[:3]
    winner = a_winner(engine_version=version, args=(*a_winner().args, *extra))
    values = helm_values(winner, a_target())
    text = to_config_file(values)
    read = as_sglang_reads_it(text, command_of(text))
    wanted = [*values["launch"]["args"], *values["launch"]["plumbing"]]
    assert sorted(read) == sorted(wanted)
    assert parse_argv(read, dialect(version)) == parse_argv(wanted, dialect(version))


def test_numbers_are_strings_so_that_their_text_is_the_trials(a_winner, a_target):
    text = to_config_file(helm_values(a_winner(), a_target()))
    assert 'mem-fraction-static: "0.8"' in text
    assert 'context-length: "1048576"' in text
    assert yaml.safe_load(text)["enable-metrics"] is True


def test_the_command_carries_environment_but_no_secret(a_winner, a_target):
    line = command_of(to_config_file(helm_values(a_winner(), a_target())))
    assert line.startswith("ROCM_QUICK_REDUCE_QUANTIZATION=INT8 SGLANG_USE_AITER=1 HF_TOKEN=... python3 -m sglang")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("stray", "--tp-size", "8"), "'stray' stands before any flag"),
        (("--tp-size", "8", "--tp-size", "4"), "--tp-size: a configuration file cannot carry it as it ran"),
        (("--tp-size=8",), "an argument with =: a configuration file cannot carry it"),
    ],
)
def test_what_a_file_cannot_carry_is_refused(a_winner, a_target, args, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        to_config_file(helm_values(a_winner(args=args), a_target()))


@pytest.mark.parametrize(
    ("rate", "count"), [(None, 1), (0.1, 1), (2.375, 1), (2.4, 2), (4.75, 2), (23.75, 10), (100, 43)]
)
def test_a_target_rate_is_so_many_replicas_at_the_guarded_rate(a_winner, rate, count):
    assert count == replicas(a_winner(), rate)


def test_the_header_says_what_the_replicas_serve_and_where_the_figures_come_from(a_winner, a_target):
    winner = a_winner(uid="u1", versions={"tuner": "1.0", "engine": "0.5.16"}, confirmed=False)
    text = to_yaml(helm_values(winner, a_target(replicas=3)))
    assert "#   3 replicas serve up to 7.125 req/s" in text
    assert "#   study uid u1, by engine 0.5.16, tuner 1.0, not confirmed" in text
    assert {"uid": "u1", "versions": "engine 0.5.16, tuner 1.0"}.items() <= yaml.safe_load(text)["provenance"].items()
