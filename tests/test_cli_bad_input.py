"""Bad input: one clear line each, exit 2, and nothing changed."""

from __future__ import annotations

import pytest
from support.cli import tuner
from support.spaces import small_space

LAYOUT = "layout: {tp: [4, 8], dp: [1, 2], gpus: 8}"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNER_STORAGE", raising=False)


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("budget: {trials: 4}", "budgets: {trials: 4}", "space.yaml:28:1", "unknown key; did you mean 'budget'?"),
        ("chunked-prefill-size: {", "chunked-prefil-size: {", "space.yaml:24:3", "chunked-prefill-size"),
        (LAYOUT, "layout: {tp: [3], gpus: 3}", "", "tensor-width"),
        ("    usd_per_gpu_hour: 2.10\n", "", "space.yaml:6:5", "usd_per_gpu_hour: is missing"),
        ("usd_per_gpu_hour: 2.10", "usd_per_gpu_hour: -1", "space.yaml:9:23", "greater than 0"),
        ("usd_per_gpu_hour: 2.10", "usd_per_gpu_hour: .nan", "space.yaml:9:23", "finite"),
        ("ttft_p95_s: 5.0", "ttft_p95_s: .inf", "space.yaml:16:28", "finite"),
        ("mem-fraction-static: 0.84\n", "mem-fraction-static: ${min(1, 2)}\n", "space.yaml:25:24", "a call"),
        (
            "chunked-prefill-size: {values: [16384, 32768]}",
            "chunked-prefill-size: {values: [1000]}",
            "",
            "no valid point",
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(tmp_path, old, new, place, words):
    seeds = [] if "seeds" in words or place else [("  baseline:", "  # baseline:"), ("seeds:\n", "seeds: {}\n")]
    path = small_space(tmp_path, (old, new), *seeds)
    before = sorted(tmp_path.iterdir())
    for command in (
        ("validate", path),
        ("plan", "--space", path),
        ("search", "--space", path, "--runtime", "simulated"),
    ):
        said = tuner(*command)
        assert 2 == said.code
        assert not said.out
        told = [line for line in said.err.splitlines() if words in line]
        assert told, said.err
        assert place in told[0]
    assert before == sorted(tmp_path.iterdir())


def test_all_mistakes_are_told_at_once(tmp_path):
    path = small_space(tmp_path, ("version: 1\n", "version: 2\n"), ("trials: 4", "trials: 0"))
    said = tuner("validate", path)
    assert 2 == said.code
    assert 2 == len(said.err.splitlines())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"\x7fELF\x00\xff\xfe", "not UTF-8 text"),
        (b"a: [1", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path, content, words):
    path = tmp_path / "odd.yaml"
    if content is not None:
        path.write_bytes(content)
    said = tuner("search", "--space", path, "--runtime", "simulated")
    assert 2 == said.code
    assert words in said.err
    assert 1 == len(said.err.splitlines())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--trials", "0"), "--trials"),
        (("--trials", "many"), "--trials"),
        (("--seed", "-1"), "--seed"),
        (("--world", "-1"), "--world"),
        (("--runtime", "simulatd"), "did you mean 'simulated'?"),
        (("--runtime", "simulated", "--sampler", "tpee"), "did you mean 'tpe'?"),
        (("--runtime", "simulated", "--log-format", "xml"), "text, json"),
        (("--runtime", "simulated", "--storage", "sqlite:////no/such/folder/x.db"), "/no/such/folder"),
        (("--runtime", "simulated", "--storage", "nonsense://x"), "nonsense"),
        (("--runtime", "external"), "--external-command"),
        (("--runtime", "simulated", "--external-command", "x"), "--runtime external"),
        (("--runtime", "simulated", "--engine-command", "x"), "--runtime local"),
        (("--runtime", "simulated", "--seed-from", "x"), "--new-study"),
        (("--serch",), "--serch"),
    ],
)
def test_a_bad_option_is_one_line_and_changes_nothing(tmp_path, options, words):
    path = small_space(tmp_path)
    said = tuner("search", "--space", path, *options)
    assert 2 == said.code
    assert words in said.err
    assert [path] == sorted(tmp_path.iterdir())


def test_an_unknown_command_and_a_missing_space_are_named():
    assert "serch" in tuner("serch").err
    said = tuner("plan", "--space", "amd-mi355.yaml")
    assert (2, True) == (said.code, "did you mean 'amd-mi355x.yaml'?" in said.err)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runtime", "kubernetes"], "--tuner-image"),
        (["--runtime", "kubernetes", "--tuner-image", "t:1", "--context", "c"], "no usable kubeconfig at"),
        (["--runtime", "kubernetes", "--tuner-image", "t:1", "--drain", "--cancel"], "not both"),
        (["--runtime", "local", "--namespace", "n"], "--namespace goes with --runtime kubernetes"),
        (["--runtime", "simulated", "--drain"], "--drain goes with --runtime kubernetes"),
    ],
)
def test_options_of_clusters_are_checked_before_anything_is_created(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("TUNER_IMAGE", raising=False)
    said = tuner("search", "--space", small_space(tmp_path), *options)
    assert said.code == 2
    assert says in said.err
    assert not list(tmp_path.glob("*.db"))


def test_a_study_made_by_another_space_is_refused_with_the_differences(tmp_path):
    path = small_space(tmp_path)
    assert 0 == tuner("search", "--space", path, "--runtime", "simulated", "--trials", "1").code
    small_space(tmp_path, ("output_tokens: 200", "output_tokens: 300"), ("ttft_p95_s: 5.0", "ttft_p95_s: 4.0"))
    said = tuner("search", "--space", path, "--runtime", "simulated", "--trials", "2")
    assert 2 == said.code
    assert "workload.output_tokens: 200 -> 300" in said.err
    assert "ttft_p95_s: 5.0 -> 4.0" in said.err
    said = tuner("search", "--space", small_space(tmp_path), "--runtime", "simulated", "--world", "2")
    assert (2, True) == (said.code, "world: 1 -> 2" in said.err)


def test_status_and_export_without_a_study_say_what_is_missing(tmp_path):
    assert 2 == tuner("status").code
    said = tuner("export", "helm", "--space", small_space(tmp_path))
    assert (2, True) == (said.code, "small.db" in said.err)
