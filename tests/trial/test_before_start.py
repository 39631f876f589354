"""Waiting for memory with a clock of its own, and the preflight with a parser of its own."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.trials import a_spec

from tuner.trial import processes
from tuner.trial.accelerators import Memory
from tuner.trial.before_start import Surroundings, before_start, busy
from tuner.trial.preflight import LOG_NAME, parser_command
from tuner.trial.spec import Deadlines


class World:
    """Time that only sleeping moves; GPUs that are freed at some point in it."""

    def __init__(self, free_at_s=0.0, stop_at_s=1e9):
        self.at_s, self.free_at_s, self.stop_at_s = 0.0, free_at_s, stop_at_s
        self.said, self.asked = [], []

    def sleep(self, seconds):
        self.at_s += seconds

    def read(self, env, gpus):
        self.asked.append((env, gpus))
        used = 4 if self.at_s >= self.free_at_s else 87
        return (Memory("0", "", 3, 100), Memory("5", "", used, 100))

    def around(self, **changes):
        around = Surroundings(
            say=self.said.append,
            stop_reason=lambda: "received SIGTERM" if self.at_s >= self.stop_at_s else "",
            now_s=lambda: self.at_s,
            sleep=self.sleep,
            read_memory=self.read,
        )
        return replace(around, **changes)


def look(tmp_path, world, spec=None, **changes):
    return before_start(spec or a_spec(gpus=2), {"A": "b"}, tmp_path, world.around(**changes), mark="m", secrets=())


def test_free_accelerators_are_not_waited_for(tmp_path):
    world = World()
    assert look(tmp_path, world) is None
    assert (world.at_s, world.said, world.asked) == (0.0, [], [({"A": "b"}, 2)])


def test_where_no_accelerator_is_found_there_is_nothing_to_wait_for(tmp_path):
    assert look(tmp_path, World(), read_memory=lambda env, gpus: ()) is None


def test_memory_is_waited_for_and_said_once_a_minute(tmp_path):
    world = World(free_at_s=200.0)
    assert look(tmp_path, world) is None
    assert 200.0 <= world.at_s < 205.0
    assert world.said == ["waiting for accelerator memory: GPU 5 87%"] * 4


def test_memory_that_stays_held_is_infrastructure_within_the_deadline(tmp_path):
    world = World(free_at_s=1e9)
    failure = look(tmp_path, world)
    assert (failure.failure_class, failure.kind) == ("infrastructure", "accelerator_memory_busy")
    assert "GPU 5 87%" in failure.message
    assert 900.0 <= world.at_s < 905.0


def test_nobody_waits_with_a_deadline_of_zero(tmp_path):
    world = World(free_at_s=1e9)
    failure = look(tmp_path, world, a_spec(deadlines=Deadlines(memory_free_s=0.0)))
    assert (failure.kind, world.at_s) == ("accelerator_memory_busy", 0.0)


def test_a_stop_ends_the_wait(tmp_path):
    world = World(free_at_s=1e9, stop_at_s=10.0)
    assert look(tmp_path, world).kind == "interrupted"
    assert world.at_s < 11.0


def test_a_simulated_engine_needs_no_accelerator(tmp_path):
    assert look(tmp_path, World(free_at_s=1e9), a_spec(simulated=True)) is None


def test_an_incomplete_checkpoint_is_told_before_any_wait(tmp_path):
    (tmp_path / "model").mkdir()
    world = World(free_at_s=1e9)
    failure = look(tmp_path, world, a_spec(argv=("sglang", "serve", "--model-path", str(tmp_path / "model"))))
    assert (failure.failure_class, failure.kind) == ("configuration", "checkpoint_incomplete")
    assert str(tmp_path / "model") in failure.message
    assert world.at_s == 0.0


def test_a_tenth_in_use_is_free():
    assert busy([Memory("0", "", 10, 100)]) == ""
    assert busy([Memory("0", "", 11, 100), Memory("1", "", 99, 100)]) == "GPU 0 11%, GPU 1 99%"


# --- the preflight

ENGINE = """
class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        {body}
"""
PARSER = 'parser.add_argument("--model-path", required=True); parser.add_argument("--tp-size", type=int)'


@pytest.fixture
def sglang(tmp_path, monkeypatch):
    """An installed sglang whose parser does what the test says."""

    def install(body=PARSER):
        package = tmp_path / "site" / "sglang" / "srt"
        package.mkdir(parents=True)
        (package / "server_args.py").write_text(ENGINE.format(body=body))
        for folder in (package, package.parent):
            (folder / "__init__.py").write_text("")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))

    return install


def launch(*flags):
    return a_spec(argv=(sys.executable, "-m", "sglang.launch_server", *flags))


def held_until_the_parser_ends(tmp_path, spec):
    """Memory stays held, so that only the parser, or two minutes, end the wait."""
    world = World(free_at_s=1e9)
    around = {"now_s": time.monotonic, "sleep": lambda _: time.sleep(0.01)}
    spec = replace(spec, deadlines=Deadlines(memory_free_s=120.0))
    failure = look(tmp_path, world, spec, **around)
    assert not (tmp_path / LOG_NAME).exists()
    return failure


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--model-path", "m", "--tp-sise", "8"), "unrecognized arguments: --tp-sise 8"),
        (("--model-path", "m", "--tp-size", "eight"), "invalid int value: 'eight'"),
    ],
)
def test_a_bad_flag_ends_the_wait_with_the_parsers_own_line(tmp_path, sglang, monkeypatch, flags, words):
    monkeypatch.setattr("tuner.trial.before_start._LOOK_EVERY_S", 0.1)
    sglang()
    failure = held_until_the_parser_ends(tmp_path, launch(*flags))
    assert (failure.failure_class, failure.kind) == ("configuration", "bad_flag")
    assert words in failure.message


@pytest.mark.parametrize(
    "body", [PARSER, "raise RuntimeError('no driver')", "raise SystemExit(2)", "import sys; sys.exit(7)"]
)
def test_a_good_line_or_a_parser_that_cannot_be_asked_says_nothing(tmp_path, sglang, body):
    sglang(body)
    world = World(free_at_s=6.0)
    nap = {"sleep": lambda seconds: (time.sleep(seconds / 4), world.sleep(seconds))}
    assert look(tmp_path, world, launch("--model-path", "m", "--tp-size", "8"), **nap) is None


def test_a_slow_parser_is_ended_when_memory_is_free(tmp_path, sglang):
    sglang("import time; time.sleep(600)")
    assert look(tmp_path, World(free_at_s=3.0), launch("--model-path", "m")) is None
    assert not processes.marked(processes.scan().values(), "TUNER_TRIAL=m")
    assert not (tmp_path / LOG_NAME).exists()


def test_an_interpreter_that_is_not_there_says_nothing(tmp_path):
    spec = a_spec(argv=("/no/such/python3", "-m", "sglang.launch_server", "--tp-size", "8"))
    assert look(tmp_path, World(free_at_s=10.0), spec) is None


def test_the_parser_is_asked_with_the_engines_own_interpreter(tmp_path):
    script = tmp_path / "bin" / "sglang"
    script.parent.mkdir()
    script.write_text("#!/opt/venv/bin/python3.12\nimport sglang\n")
    script.chmod(0o755)
    command = parser_command((str(script), "serve", "--tp-size", "8"))
    assert command[0] == "/opt/venv/bin/python3.12"
    assert command[3:] == ["--tp-size", "8"]
    assert parser_command(("python3", "-m", "sglang.launch_server", "--x"))[3:] == ["--x"]


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("sh", "-c", "sglang serve"),
        ("python3", "-m", "vllm"),
        ("/no/such/sglang", "serve"),
        ("sglang", "bench"),
        ("python3", "-m", "sglang.launch_server", "--config", "file.yaml"),
        ("python3", "-m", "sglang.launch_server", "--config=file.yaml"),
    ],
)
def test_where_it_is_not_known_how_nobody_asks(argv):
    assert parser_command(argv) is None


def test_a_program_that_is_no_python_script_is_not_asked(tmp_path):
    script = tmp_path / "sglang"
    for first in (b"\x7fELF", b"#!/bin/sh", b"#!/usr/bin/env python3"):
        script.write_bytes(first + b"\n")
        script.chmod(0o755)
        assert parser_command((str(script), "serve")) is None
    assert Path(script).exists()
