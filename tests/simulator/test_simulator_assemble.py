"""From a command line to an engine, or to the way it dies: every cause with its log, exit code and time."""

from __future__ import annotations

import pytest

from tuner.errors import UsageError
from tuner.model.settings import EngineSettings
from tuner.simulator.assemble import SimulatedEngine, StartUpFailure, simulated_engine
from tuner.simulator.engine import Died, Finished, SimRequest
from tuner.simulator.options import SimulatorOptions, split_arguments
from tuner.simulator.startup_log import died_serving
from tuner.simulator.tokenizer import Tokenizer, answer_text, block_hashes
from tuner.simulator.world import World

MODEL = ["--model-path", "amd/GLM-5.2-MXFP4"]
FIT = [*MODEL, "--tp-size", "4", "--mem-fraction-static", "0.85", "--kv-cache-dtype", "fp8_e4m3"]


def build(argv, world=0, accelerator="mi355x", **options):
    return simulated_engine(argv, accelerator=accelerator, architecture="glm-5.2", world=world, seed=1, **options)


def drained(engine):
    events = []
    while (at := engine.next_time_s()) is not None:
        events += engine.advance(at)
    return events


def test_an_engine_that_fits_serves():
    sim = build(["sglang", "serve", *FIT, "--dp-size", "2", "--port", "{port}"])
    assert isinstance(sim, SimulatedEngine)
    assert (sim.settings.tp, sim.settings.dp, sim.settings.precision) == (4, 2, "mxfp4")
    assert sim.engine.kv_capacity_tokens == sim.plan.kv_capacity_tokens > 1_000_000
    assert sim.seconds_to_ready > 60
    sim.engine.submit(SimRequest("a", 20_000, 100), 0.0)
    assert isinstance(drained(sim.engine)[-1], Finished)


def test_settings_are_as_good_as_a_command_line():
    parsed = build(FIT)
    direct = build(parsed.settings)
    assert direct.settings == parsed.settings
    assert direct.engine.kv_capacity_tokens == parsed.engine.kv_capacity_tokens


@pytest.mark.parametrize(
    "argv",
    [
        [*FIT, "--cuda-graph-max-bs", "64"],
        [*FIT, "--dp-size", "2", "--enable-dp-attention", "--nsa-prefill-backend", "tilelang"],
        [*FIT, "--attn-dp-size", "2", "--cuda-graph-max-bs-decode", "64"],
    ],
)
def test_every_dialect_is_understood(argv):
    assert isinstance(build(argv), SimulatedEngine)


def test_a_named_version_speaks_only_its_dialect():
    assert isinstance(build([*FIT, "--cuda-graph-max-bs", "64"], engine_version="0.5.16"), SimulatedEngine)
    failure = build([*FIT, "--cuda-graph-max-bs", "64"], engine_version="0.5.23")
    assert isinstance(failure, StartUpFailure)
    assert "ambiguous option" in failure.message


@pytest.mark.parametrize(
    ("argv", "kind", "exit_code", "sign"),
    [
        ([*FIT, "--no-such-flag", "1"], "bad_flag", 2, "sglang serve: error: unrecognized arguments: --no-such-flag 1"),
        ([*FIT, "--tp-size", "two"], "bad_flag", 2, "invalid int value: 'two'"),
        ([], "bad_flag", 2, "--model-path"),
        ([*FIT, "--chunked-prefill-size", "1000"], "refused", 1, "must be divisible by page_size"),
        ([*FIT, "--dp-size", "2", "--attn-dp-size", "2"], "refused", 1, "ValueError"),
        ([*FIT, "--tp-size", "1"], "oom_weights", 137, "HIP out of memory. Tried to allocate"),
        ([*FIT, "--tp-size", "3"], "indivisible", 137, "AssertionError: 154880 is not divisible by 3"),
        ([*FIT, "--tp-size", "5"], "indivisible", 137, "AssertionError\n"),
        ([*FIT, "--mem-fraction-static", "0.3"], "oom_kv", 137, "Not enough memory. Please try to increase"),
        ([*FIT, "--mem-fraction-static", "0.99"], "oom_runtime", 137, "Capture cuda graph failed"),
    ],
)
def test_every_start_up_failure_has_its_log_and_exit_code(argv, kind, exit_code, sign):
    failure = build(argv)
    assert isinstance(failure, StartUpFailure)
    assert (failure.kind, failure.exit_code) == (kind, exit_code)
    text = "\n".join(line.format(now="NOW", pid=1) for _, line in failure.lines)
    assert sign in text
    assert failure.after_s > 0
    assert [at for at, _ in failure.lines] == sorted(at for at, _ in failure.lines)
    assert ("Received sigquit" in text) == (exit_code == 137)
    assert ("Load weight begin" in text) == (exit_code == 137)


def test_too_little_memory_for_a_large_step_kills_only_large_steps():
    """A chunk of 131,072 tokens at 0.85 asks for more than is left (InferenceX notes): small prompts still pass."""
    sim = build([*FIT, "--chunked-prefill-size", "131072"])
    assert isinstance(sim, SimulatedEngine)
    assert sim.fate == "oom_runtime"
    sim.engine.submit(SimRequest("small", 2_000, 5), 0.0)
    assert isinstance(drained(sim.engine)[-1], Finished)
    for index in range(8):
        sim.engine.submit(SimRequest(f"large{index}", 20_000, 5), 10.0)
    events = drained(sim.engine)
    assert isinstance(events[-1], Died)
    assert events[-1].kind == "oom_runtime"


def test_an_unchunked_engine_that_lacks_memory_dies_of_its_longest_prompt():
    sim = build([*FIT, "--chunked-prefill-size", "-1"], max_context_tokens=200_000)
    assert isinstance(sim, SimulatedEngine)
    assert sim.fate == "oom_runtime"
    sim.engine.submit(SimRequest("long", 190_000, 5), 0.0)
    assert isinstance(drained(sim.engine)[-1], Died)


@pytest.mark.parametrize(("kind", "dies"), [("crash_first_request", True), ("hang", False)])
def test_incompatible_combinations_start_and_then_fail(kind, dies):
    argv = [*FIT, "--attn-dp-size", "4", "--chunked-prefill-size", "65536"]
    argv += ["--speculative-algorithm", "EAGLE", "--speculative-num-steps", "3", "--speculative-eagle-topk", "1"]
    for seed in range(1, 100):
        sim = build(argv, world=World(seed), accelerator="b200")
        if isinstance(sim, SimulatedEngine) and sim.fate == kind:
            break
    sim.engine.submit(SimRequest("a", 20_000, 5), 0.0)
    sim.engine.advance(299.0)
    assert sim.engine.dead is dies
    assert sim.engine.hung is not dies
    drained(sim.engine)
    assert sim.engine.dead  # a hang is ended by the watchdog, after 300 s where nothing else was said


EAGLE = ["--speculative-algorithm", "EAGLE", "--speculative-num-steps", "3", "--speculative-eagle-topk", "1"]


@pytest.mark.parametrize(
    ("argv", "accelerator", "version", "fate"),
    [
        ([*FIT, "--attn-dp-size", "4"], "mi355x", None, "hang"),
        ([*FIT, "--attn-dp-size", "4"], "b200", None, None),
        ([*FIT, *EAGLE], "mi355x", None, None),
        ([*FIT, *EAGLE], "mi355x", "0.5.16", None),
        ([*FIT, *EAGLE], "mi355x", "0.5.14", "checkpoint"),
        ([*FIT, *EAGLE, "--tp-size", "8"], "mi355x", "0.5.14", "crash_first_request"),
    ],
)
def test_known_issues_of_the_engine_happen_in_every_world(argv, accelerator, version, fate):
    precision = "fp8" if fate == "crash_first_request" else "mxfp4"
    made = build(argv, accelerator=accelerator, engine_version=version, precision=precision)
    assert (made.kind if isinstance(made, StartUpFailure) else made.fate) == fate


@pytest.mark.parametrize("kind", ["oom_weights", "oom_kv", "checkpoint"])
def test_a_failing_start_can_be_asked_for(kind):
    failure = build(FIT, fail=kind)
    assert isinstance(failure, StartUpFailure)
    assert (failure.kind, failure.exit_code) == (kind, 137)
    assert "Received sigquit" in failure.lines[-1][1]


@pytest.mark.parametrize("kind", ["oom_runtime", "crash_first_request", "hang"])
def test_a_failure_under_load_can_be_asked_for(kind):
    sim = build(FIT, fail=kind)
    assert isinstance(sim, SimulatedEngine)
    sim.engine.submit(SimRequest("health", 1, 1), 0.0)
    assert isinstance(drained(sim.engine)[-1], Finished)
    sim.engine.submit(SimRequest("a", 20_000, 5), 10.0)
    assert drained(sim.engine)[-1].kind == kind


def test_an_unknown_failure_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="did you mean 'oom_kv'"):
        build(FIT, fail="oom_vk")


def test_the_watchdog_ends_a_hang_with_its_words():
    sim = build([*FIT, "--watchdog-timeout", "60"], fail="hang")
    assert "watchdog timeout (self.watchdog_timeout=60" in died_serving("hang", sim.facts)[0]
    sim.engine.submit(SimRequest("a", 20_000, 5), 0.0)
    assert drained(sim.engine)[-1].at_s == pytest.approx(60, abs=0.1)


def test_a_definition_serves_as_well_as_a_name():
    own = {"name": "mi400", "like": "mi355x", "hbm_tb_s": 16.0}
    model = {"name": "mine", "config": "glm-5.2", "tokens_per_verify": [1.9, 2.7, 3.4]}
    sim = simulated_engine([*FIT, *EAGLE], accelerator=own, architecture=model, world=0, seed=1)
    assert sim.engine.tokens_per_verify == 3.4
    assert sim.plan.acc.name == "mi400"


def test_the_world_changes_the_speed():
    def end(world):
        sim = build(FIT, world=world)
        sim.engine.submit(SimRequest("a", 20_000, 100), 0.0)
        return drained(sim.engine)[-1].at_s

    assert end(0) == end(0)
    assert end(0) != end(1)


def test_environment_and_precision_reach_the_resolution():
    assert build(FIT, precision="fp8").settings.precision == "fp8"
    argv = [*FIT, "--attention-backend", "aiter"]
    assert build(argv).settings.mem_fraction < 0.85
    assert build(argv, env={"SGLANG_AITER_HONOR_EXPLICIT_MEM_FRACTION": "1"}).settings.mem_fraction == 0.85
    with pytest.raises(UsageError, match="precision 'int3'"):
        build(FIT, precision="int3")


@pytest.mark.parametrize(("accelerator", "platform"), [("mi355x", "HIP"), ("b200", "CUDA")])
def test_crashes_name_the_platform(accelerator, platform):
    sim = build(EngineSettings(tp=8, precision="fp8"), accelerator=accelerator)
    assert f"{platform} error: an illegal memory access" in died_serving("crash_first_request", sim.facts)[0]


# --- options


@pytest.mark.parametrize(
    ("argv", "options", "rest"),
    [
        (["--accelerator", "b200", "--", "--model-path", "m"], {"accelerator": "b200"}, ["--model-path", "m"]),
        (
            ["--accelerator=b200", "--model-path", "m", "--world", "3"],
            {"accelerator": "b200", "world": 3},
            ["--model-path", "m"],
        ),
        (["python3", "-m", "sglang.launch_server", "--tp", "4"], {}, ["--tp", "4"]),
        (["--seed", "5", "--startup-scale", "0.1"], {"seed": 5, "startup_scale": 0.1}, []),
        (["--random-seed", "5"], {}, ["--random-seed", "5"]),
        (["--world", "1", "--", "sglang", "serve", "--world", "x"], {"world": 1}, ["--world", "x"]),
    ],
)
def test_own_options_are_told_from_sglangs(argv, options, rest):
    assert split_arguments(argv) == (SimulatorOptions(**options), rest)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--world"], "--world needs a value"),
        (["--world", "x"], "--world needs a number"),
        (["--startup-scale", "-1"], "must not be negative"),
        (["--wrold", "3", "--", "--tp", "4"], "--wrold is no option"),
    ],
)
def test_bad_own_options_are_explained(argv, message):
    with pytest.raises(UsageError, match=message):
        split_arguments(argv)


# --- tokens


def test_tokens_are_stable_additive_and_inside_the_vocabulary():
    tokenizer = Tokenizer(2048)
    text = "The quick brown fox, internationalisation 12345 def f(x):\n    return x"
    ids = tokenizer.encode(text)
    assert ids == Tokenizer(2048).encode(text)
    assert all(0 <= token < 2048 for token in ids)
    assert tokenizer.encode(text + " and more") == ids + tokenizer.encode(" and more")
    assert tokenizer.encode("") == []


def test_memory_of_pieces_is_bounded(monkeypatch):
    monkeypatch.setattr("tuner.simulator.tokenizer._MEMORY_LIMIT", 10)
    tokenizer = Tokenizer(2048)
    for index in range(50):
        tokenizer.encode(f"word{index} other")
    assert len(tokenizer._known) < 20


def test_chats_count_all_text_parts():
    tokenizer = Tokenizer(2048)
    plain = tokenizer.encode_chat([{"role": "user", "content": "hello there"}])
    parts = tokenizer.encode_chat(
        [{"role": "user", "content": [{"type": "text", "text": "hello there"}, {"type": "x"}]}]
    )
    assert plain == parts
    assert len(tokenizer.encode_chat([{"role": "user"}])) == 2


def test_block_hashes_name_the_whole_prefix():
    first = block_hashes([*range(128), 1, 2])
    assert len(first) == 2
    assert block_hashes([*range(128), 9])[:2] == first
    assert block_hashes([5, *range(1, 128)])[1] != first[1]
    assert block_hashes(range(63)) == ()


def test_an_answer_can_be_written_piece_by_piece():
    assert answer_text(5, 0, 10) == answer_text(5, 0, 4) + answer_text(5, 4, 6)
    assert len(answer_text(5, 0, 10).split()) == 10
