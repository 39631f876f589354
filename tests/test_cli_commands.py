"""Every command as a user types it, in one folder: what is printed where, in which shape, and with which exit code."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.cli import tuner
from support.problems import infeasible
from support.spaces import small_space

from tuner.errors import EXIT_INTERRUPTED, EXIT_NOTHING_FEASIBLE, EXIT_UNCONFIRMED, EXIT_USAGE
from tuner.runtime import simulated
from tuner.space.find import find_space

SEARCH = ("search", "--space", "space.yaml", "--runtime", "simulated")
FRACTIONS = ("mem-fraction-static: 0.84", "mem-fraction-static: {values: [0.3, 0.84]}")
RULE = (
    "budget:",
    'rules:\n  - {id: odd-one, forbid: "layout.tp == 4", why: "see [/b] and [red]x[/red] :fire:"}\nbudget:',
)
ENVIRONMENT = ("TUNER_STORAGE", "COLUMNS")
UNCONFIRMED = ("top: 1", "top: 0")
HOPELESS = ("ttft_p95_s: 5.0", "ttft_p95_s: 0.01")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    small_space(folder)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name in ENVIRONMENT:
            patch.delenv(name, raising=False)
        said = tuner(*SEARCH)
    return folder, said


@pytest.fixture
def finished(_finished, tmp_path):
    """A folder with a space and its finished, confirmed study; what the search printed."""
    folder, said = _finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return said


def as_json(*args):
    """The one JSON document a command prints."""
    said = tuner(*args, "--json")
    return said, json.loads(said.out)


# --- validate


def test_validate_says_how_much_of_the_space_can_be_tried():
    small_space(".", FRACTIONS)
    assert (0, "space.yaml: valid; 16 of 32 points can be tried\n", "") == vars_of(tuner("validate", "space.yaml"))
    assert tuner("validate", "--space", "space.yaml").out == tuner("validate", "space.yaml").out
    _, doc = as_json("validate", "space.yaml")
    assert {"valid": True, "space": "small", "points": 32, "valid_points": 16} == doc


def vars_of(said):
    return said.code, said.out, said.err


@pytest.mark.parametrize(
    ("edit", "line", "column"),
    [(("budget:", "budgets:"), 28, 1), (("glm-5.2", "glm-9"), 3, 23), (("layout: {tp: 8}", "layout: {tp: 2}"), 27, 13)],
)
def test_validate_tells_scripts_where_the_mistakes_are(edit, line, column):
    small_space(".", edit)
    for words in ([], ["space.yaml", "--space", "space.yaml"]):
        assert (tuner("validate", *words).code, "which space file" in tuner("validate", *words).err) == (2, True)
    said, doc = as_json("validate", "space.yaml")
    assert (EXIT_USAGE, False) == (said.code, doc["valid"])
    (problem,) = doc["problems"]
    assert ("space.yaml", line, column) == (problem["file"], problem["line"], problem["column"])


def test_shipped_spaces_are_found_by_name_and_a_local_file_goes_first():
    assert "nvidia-b200.yaml" == find_space("nvidia-b200").name
    small_space(".").rename("amd-mi355x.yaml")
    assert "16 of 16" in tuner("validate", "amd-mi355x.yaml").out


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (("usd_per_gpu_hour: 2.10", "usd_per_gpu_hour: 2.10\n    args: {port: 80}"), "pools.mi355x.args.port"),
        (('version: "0.5.16"', 'version: "0.1.0"'), "0.1.0"),
        (("fp8_e4m3}}\n      fp8", "fp9}}\n      fp8"), "space.weights.choice.mxfp4.args.kv-cache-dtype"),
    ],
)
def test_flags_are_checked_against_the_release_of_the_engine(edit, words):
    small_space(".", edit)
    said = tuner("validate", "space.yaml")
    assert (EXIT_USAGE, True) == (said.code, words in said.err)
    assert all(re.match(r"tuner: space.yaml:\d+:\d+: ", line) for line in said.err.splitlines())


@pytest.mark.parametrize("name", [".", ""])
def test_a_folder_is_no_space(name):
    said = tuner("validate", name)
    assert (EXIT_USAGE, "") == (said.code, said.out)


# --- plan


def test_plan_names_every_rule_that_rejected_something_with_its_count_and_reason():
    small_space(".", FRACTIONS, RULE)
    said = tuner("plan", "--space", "space.yaml")
    assert 0 == said.code
    rows = {line.split()[0]: line for line in said.out.splitlines() if line}
    assert re.search(r"odd-one +16 +see \[/b\] and \[red\]x\[/red\] :fire:", rows["odd-one"])
    assert re.search(r"mem-fraction +8 +mem-fraction-static 0.3", rows["mem-fraction"])
    assert "small: 32 points, 8 can be tried" in said.out
    assert "tried first: baseline" in said.out
    assert not said.err


def test_plan_cuts_nothing_off_however_narrow_the_terminal(monkeypatch):
    small_space(".", FRACTIONS)
    monkeypatch.setenv("COLUMNS", "60")
    out = tuner("plan", "--space", "space.yaml").out
    assert "…" not in out
    assert "(argument resolution run:" in re.sub(r"\s+", " ", out)


def test_plan_for_scripts_adds_up():
    small_space(".", FRACTIONS, RULE)
    _, doc = as_json("plan", "--space", "space.yaml")
    assert {"space", "points", "valid", "rejected", "memory", "predicted_best", "forecast"} == set(doc)
    assert {"odd-one": 16, "mem-fraction": 8} == {rule: r["points"] for rule, r in doc["rejected"].items()}
    assert doc["points"] == doc["valid"] + sum(r["points"] for r in doc["rejected"].values())
    assert doc["valid"] == sum(row["points"] for row in doc["memory"])
    costs = [p["predicted_usd_per_million_output_tokens"] for p in doc["predicted_best"]]
    assert costs == sorted(costs)
    assert ("trials", 4, 1, 1) == tuple(doc["forecast"][k] for k in ("ends_by", "trials", "confirmations", "nodes"))
    assert as_json("plan", "--space", "space.yaml", "--trials", "7")[1]["forecast"]["trials"] == 7


def test_plan_shows_known_issues_of_what_it_recommends():
    small_space(".", ("budget:", "rules:\n  - {id: beware, warn: \"weights == 'mxfp4'\", why: mind it}\nbudget:"))
    assert "known issue of some of them, beware: mind it" in tuner("plan", "--space", "space.yaml").out
    _, doc = as_json("plan", "--space", "space.yaml")
    assert {"beware": "mind it"} in [p["known_issues"] for p in doc["predicted_best"]]


def test_the_memory_arithmetic_adds_up_to_the_margins_of_the_table():
    small_space(".")
    _, doc = as_json("plan", "--space", "space.yaml", "--memory")
    least = {round(row["margin_gib_min"], 1) for row in doc["memory"]}
    assert 4 == len(doc["memory_arithmetic"])
    for name, lines in doc["memory_arithmetic"].items():
        assert name.startswith("mi355x tp")
        figures = [float(n) for n in re.findall(r"-?\d+\.\d+", " ".join(lines[-2:]))]
        assert least & {round(n, 1) for n in figures}, lines
    text = tuner("plan", "--space", "space.yaml", "--memory").out
    for lines in doc["memory_arithmetic"].values():
        assert all(f"  {line}" in text for line in lines)


# --- search


def test_a_search_ends_with_a_confirmed_winner_and_says_so(finished):
    assert 0 == finished.code
    assert "SIMULATED, nothing was measured" in finished.out
    assert "search: ended with a confirmed winner (the number of trials is reached)" in finished.out
    assert re.search(r"^best +\d+ +\d+\.\d{3} .* yes ", finished.out, re.MULTILINE)
    assert not re.search(r"^(study |trial |\[)", finished.out, re.MULTILINE)
    assert "study small (new)" in finished.err
    assert "[4/4] trial" in finished.err
    assert finished.err.splitlines()[-1].startswith("tuner: confirmed: mi355x")
    assert {"space.yaml", "small.db"} == {p.name for p in Path().iterdir() if not p.name.endswith(".lock")}


def test_the_json_of_search_and_status_is_the_contract(finished):
    said, doc = as_json(*SEARCH)
    assert 0 == said.code
    assert ("small", "confirmed", True) == (doc["study"], doc["exit_reason"], doc["simulated"])
    assert 4 == sum(doc["trials"].values())
    assert {"measured", "infeasible", "pruned", "failed", "invalid", "running"} <= set(doc["trials"])
    best = doc["best"]
    assert {"tp", "dp", "attn_dp", "ep"} == set(best["config"]["layout"])
    assert "--model-path" == best["args"][0]
    assert 0 < best["usd_per_million_output_tokens"] < 100
    assert 0 < best["capacity_req_per_s"]
    assert 0 < best["ttft_p95_s"] <= 5
    assert (True, True) == (best["simulated"], best["confirmed"])
    _, told = as_json("status", "--space", "space.yaml")
    assert told == {k: v for k, v in doc.items() if k != "message"}


def test_the_same_command_again_tries_nothing_new(finished):
    before = as_json("status")[1]
    again = tuner(*SEARCH)
    assert 0 == again.code
    assert "study small (resumed with 4 trials)" in again.err
    assert "starts" not in again.err
    after = as_json("status")[1]
    assert before["ranked"] == after["ranked"]
    assert before["confirmations"] == after["confirmations"]


def test_more_trials_go_on_to_the_total(finished):
    said, doc = as_json(*SEARCH, "--trials", "6")
    assert (0, 6, 6) == (said.code, doc["counted"], sum(doc["trials"].values()))
    assert "[6/6]" in said.err
    assert 6 == as_json(*SEARCH, "--trials", "5")[1]["counted"]


def test_a_study_stopped_early_and_resumed_equals_one_that_ran_through():
    small_space(".", UNCONFIRMED)
    tuner(*SEARCH, "--study", "a", "--trials", "1")
    parts = as_json(*SEARCH, "--study", "a", "--trials", "3")[1]
    whole = as_json(*SEARCH, "--study", "b", "--trials", "3")[1]
    assert parts["counted"] == whole["counted"] == 3
    assert {f["fingerprint"] for f in parts["ranked"]} & {f["fingerprint"] for f in whole["ranked"]}


def figures(doc):
    return [(f["fingerprint"], f["usd_per_million_output_tokens"]) for f in doc["ranked"]]


def test_the_seed_decides_everything():
    small_space(".", UNCONFIRMED)
    one, same, other = (
        as_json(*SEARCH, "--trials", "2", "--study", name, "--seed", seed)[1]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert figures(one) == figures(same) != figures(other)


def test_the_world_is_hidden_from_the_model_and_changes_what_is_found():
    small_space(".", UNCONFIRMED)
    one, plain = (as_json(*SEARCH, "--trials", "1", "--study", f"w{world}", "--world", world)[1] for world in (3, 0))
    assert figures(one) != figures(plain)


def test_random_sampling_takes_neither_the_models_best_nor_two_of_a_kind():
    small_space(".", UNCONFIRMED)
    said = tuner(*SEARCH, "--sampler", "random", "--trials", "5")
    assert EXIT_UNCONFIRMED == said.code
    origins = re.findall(r"starts \((.*?)\): (.*)", said.err)
    assert ["seed:baseline", *["sampler"] * 4] == [origin for origin, _ in origins]
    assert 5 == len({config for _, config in origins})


def test_json_log_lines_parse_and_name_the_study():
    small_space(".")
    said = tuner(*SEARCH, "--trials", "1", "--log-format", "json")
    lines = [line for line in said.err.splitlines() if not line.startswith("tuner: ")]
    events = [json.loads(line) for line in lines]
    assert {"small"} == {e["study"] for e in events}
    assert {"study.opened", "trial.started", "trial.ended", "search.stopped", "confirm.ended"} <= {
        e["event"] for e in events
    }


def test_an_external_command_measures():
    small_space(".")
    Path("answer.py").write_text(
        "import json, sys\nspec = json.load(sys.stdin)\n"
        "print(json.dumps({'id': spec['id'], 'state': 'measured', 'capacity_req_per_s': 2.0, 'ttft_p95_s': 1.0,"
        " 'output_tokens_per_s': 400.0}))\n",
        encoding="utf-8",
    )
    command = ("search", "--space", "space.yaml", "--runtime", "external", "--trials", "2")
    said, doc = as_json(*command, "--external-command", f"{sys.executable} answer.py")
    assert (0, False, 2) == (said.code, doc["simulated"], doc["trials"]["measured"])
    assert tuner("export", "helm", "--space", "space.yaml").code == 0


def test_a_local_engine_that_cannot_start_is_a_failure_of_the_configuration():
    small_space(".")
    command = ("search", "--space", "space.yaml", "--runtime", "local", "--trials", "1")
    said, doc = as_json(*command, "--engine-command", f"{sys.executable} -c 'raise SystemExit(3)'")
    assert doc["failures"], said.err
    assert doc["best"] is None
    assert said.code in (EXIT_NOTHING_FEASIBLE, EXIT_UNCONFIRMED)


# --- how a search may end


def test_a_limit_nothing_meets_ends_with_the_nearest_miss():
    small_space(".", HOPELESS)
    said = tuner(*SEARCH)
    assert EXIT_NOTHING_FEASIBLE == said.code
    assert "search: ended, nothing tried meets the limits" in said.out
    assert re.search(r"nearest miss: trial \d+, TTFT p95 0.\d+ s .*; TTFT p95 is over by \d+%", said.out)
    assert "tuner: no configuration tried meets the limits" in said.err
    exported = tuner("export", "helm", "--space", "space.yaml", "--allow-simulated", "--force", "--output", "v.yaml")
    assert (EXIT_NOTHING_FEASIBLE, "") == (exported.code, exported.out)
    assert "nearest miss: trial" in exported.err
    assert not Path("v.yaml").exists()
    again, doc = as_json(*SEARCH)
    assert (EXIT_NOTHING_FEASIBLE, "nothing_feasible", None) == (again.code, doc["exit_reason"], doc["best"])
    assert doc["nearest_miss"]["ttft_p95_s"] > 0.01


def test_without_confirmation_nothing_is_confirmed():
    small_space(".", UNCONFIRMED)
    said = tuner(*SEARCH, "--trials", "1")
    assert EXIT_UNCONFIRMED == said.code
    assert "confirm: {top: 0}" in said.err
    assert "no configuration is confirmed yet" in said.out
    refused = tuner("export", "helm", "--space", "space.yaml", "--allow-simulated")
    assert (EXIT_USAGE, True) == (refused.code, "--force" in refused.err)
    stamped = tuner("export", "helm", "--space", "space.yaml", "--allow-simulated", "--force")
    assert 0 == stamped.code
    assert yaml.safe_load(stamped.out)["provenance"]["confirmed"] is False


def test_a_winner_that_does_not_hold_is_not_confirmed(monkeypatch):
    small_space(".")
    simulate = simulated.simulate
    monkeypatch.setattr(
        simulated, "simulate", lambda spec, *rest: (infeasible(spec), 60.0) if spec.confirm else simulate(spec, *rest)
    )
    said = tuner(*SEARCH, "--trials", "2")
    assert EXIT_UNCONFIRMED == said.code
    assert "refuted" in said.out
    assert "at the guarded rate" in said.err


@pytest.mark.parametrize("at", [1, 4])
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(monkeypatch, at):
    small_space(".")
    poll, polls = simulated.SimulatedRuntime.poll, []

    def interrupted(self, timeout_s):
        polls.append(timeout_s)
        if len(polls) == at:
            raise KeyboardInterrupt
        return poll(self, timeout_s)

    monkeypatch.setattr(simulated.SimulatedRuntime, "poll", interrupted)
    said, doc = as_json(*SEARCH)
    assert (EXIT_INTERRUPTED, "interrupted") == (said.code, doc["exit_reason"])
    assert "run the same command to go on" in said.err
    assert "search: interrupted; the same command goes on" in tuner("status").out
    again, doc = as_json(*SEARCH)
    assert (0, 4, 0) == (again.code, doc["counted"], doc["trials"]["running"])


def test_ctrl_c_before_the_search_begins_is_not_a_traceback(monkeypatch):
    small_space(".")

    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("tuner.study.points.evaluate", interrupted)
    said = tuner(*SEARCH)
    assert (EXIT_INTERRUPTED, "") == (said.code, said.out)
    assert "tuner: interrupted; run the same command to go on\n" == said.err
    assert not Path("small.db").exists()


# --- new studies from old ones


def test_a_new_study_tries_the_best_of_the_old_one_first(finished):
    small_space(".", ("ttft_p95_s: 5.0", "ttft_p95_s: 4.0"))
    refused = tuner(*SEARCH)
    assert (EXIT_USAGE, True) == (refused.code, "--new-study NAME --seed-from small" in refused.err)
    best = as_json("status", "--storage", "small.db")[1]["ranked"][0]["fingerprint"]
    new = (*SEARCH, "--new-study", "second", "--seed-from", "small", "--trials", "3")
    said, doc = as_json(*new)
    assert (0, "second", 3) == (said.code, doc["study"], doc["counted"])
    assert best == doc["seeds"]["small-1"]["fingerprint"]
    assert Path("second.db").exists()
    assert "starts (seed:small-1)" in said.err


def test_the_same_command_resumes_a_new_study_too(finished):
    new = (*SEARCH, "--new-study", "second", "--seed-from", "small", "--trials")
    tuner(*new, "2")
    again, doc = as_json(*new, "3")
    assert (0, 3) == (again.code, doc["counted"])
    assert "study second (resumed with 2 trials)" in again.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--new-study", "small"), "study small exists already; go on with it by --study small"),
        (("--new-study", "small", "--seed-from", "small"), "exists already"),
        (("--new-study", "second", "--seed-from", "smal"), "smal.db: no such study database"),
        (("--new-study", "second", "--study", "third"), "not both"),
        (("--study", "a/b"), "slash"),
    ],
)
def test_a_name_that_cannot_be_is_refused(finished, options, words):
    before = as_json("status", "--study", "small")[1]
    said = tuner(*SEARCH, *options)
    assert (EXIT_USAGE, "") == (said.code, said.out)
    assert words in said.err
    assert before == as_json("status", "--study", "small")[1]
    assert not Path("second.db").exists()


def test_an_old_study_with_nothing_in_this_space_cannot_seed(finished):
    small_space(
        ".",
        ("max-running-requests: {values: [32, 64]}", "max-running-requests: {values: [48, 96]}"),
        ("max-running-requests: 64,", "max-running-requests: 48,"),
    )
    said = tuner(*SEARCH, "--new-study", "second", "--seed-from", "small")
    assert (EXIT_USAGE, True) == (said.code, "none of its measured configurations is a point" in said.err)


def test_an_interrupted_new_study_says_how_to_go_on(monkeypatch):
    small_space(".")

    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulated.SimulatedRuntime, "poll", interrupted)
    said = tuner(*SEARCH, "--new-study", "second")
    assert (EXIT_INTERRUPTED, True) == (said.code, "go on with --study second" in said.err)


def test_a_world_goes_with_the_simulated_runtime_alone():
    small_space(".")
    said = tuner("search", "--space", "space.yaml", "--runtime", "local", "--world", "2")
    assert (EXIT_USAGE, True) == (said.code, "--world goes with --runtime simulated" in said.err)


# --- status


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--study", "small"),
        ("--space", "space.yaml"),
        ("--storage", "sqlite:///small.db"),
        ("--storage", "small.db"),
    ],
)
def test_status_finds_the_study_however_it_is_named(finished, options):
    said = tuner("status", *options)
    assert (0, "") == (said.code, said.err)
    assert said.out == finished.out
    assert "small" == as_json("status", *options)[1]["study"]


def test_the_environment_names_the_storage(finished, monkeypatch):
    Path("small.db").rename("elsewhere.db")
    monkeypatch.setenv("TUNER_STORAGE", "sqlite:///elsewhere.db")
    assert 0 == tuner("status", "--space", "space.yaml").code
    assert 0 == tuner("export", "command", "--space", "space.yaml", "--allow-simulated").code
    assert "resumed with 4 trials" in tuner(*SEARCH).err
    assert not Path("small.db").exists()


def test_two_studies_in_one_folder_or_one_database_must_be_named(finished):
    tuner(*SEARCH, "--study", "other", "--trials", "1", "--storage", "small.db")
    said = tuner("status", "--storage", "small.db")
    assert (EXIT_USAGE, True) == (said.code, "holds 2 studies (other, small)" in said.err)
    shutil.copy("small.db", "copy.db")
    said = tuner("status")
    assert (EXIT_USAGE, True) == (said.code, "(databases in this folder: copy.db, small.db)" in said.err)


# --- export


def export(kind, *options):
    return tuner("export", kind, "--space", "space.yaml", *options)


def test_a_simulated_result_leaves_only_with_its_flag_and_its_stamp(finished):
    refused = export("helm")
    assert (EXIT_USAGE, "", True) == (refused.code, refused.out, "--allow-simulated" in refused.err)
    said = export("helm", "--allow-simulated")
    assert (0, "") == (said.code, said.err)
    assert "# SIMULATED" in said.out
    best = as_json("status")[1]["best"]
    values = yaml.safe_load(said.out)
    assert best["args"] == values["launch"]["args"]
    assert (True, True, best["trial"]) == tuple(values["provenance"][k] for k in ("simulated", "confirmed", "trial"))


def test_the_other_kinds_of_export(finished):
    objects = list(yaml.safe_load_all(export("manifest", "--allow-simulated").out))
    assert {"Deployment", "Service"} <= {o["kind"] for o in objects}
    script = export("command", "--allow-simulated").out
    assert script.startswith("#!/bin/sh")
    assert "--model-path" in script


def test_a_rank_that_is_not_confirmed_needs_force_and_is_the_tables_rank(finished):
    refused = export("helm", "--allow-simulated", "--rank", "2")
    assert (EXIT_USAGE, True) == (refused.code, "UNCONFIRMED" in refused.err)
    values = yaml.safe_load(export("helm", "--allow-simulated", "--force", "--rank", "2").out)
    row = next(line for line in finished.out.splitlines() if line.startswith("2."))
    assert str(values["provenance"]["trial"]) in row.split()
    assert EXIT_NOTHING_FEASIBLE == export("helm", "--allow-simulated", "--force", "--rank", "9").code


def test_export_writes_the_file_it_is_told_or_says_why_not(finished):
    said = export("helm", "--allow-simulated", "--output", "values.yaml")
    assert (0, "", "tuner: wrote values.yaml\n") == vars_of(said)
    assert Path("values.yaml").read_text(encoding="utf-8") == export("helm", "--allow-simulated").out
    said = export("helm", "--allow-simulated", "--output", "no/such/folder.yaml")
    assert (EXIT_USAGE, True) == (said.code, "no/such/folder.yaml: cannot be written" in said.err)


def test_export_needs_the_pool_the_winner_ran_on(finished):
    small_space(".", ("  mi355x:\n", "  renamed:\n"))
    said = export("helm", "--allow-simulated")
    assert (EXIT_USAGE, True) == (said.code, "has no pool mi355x" in said.err)


# --- the engine, the program itself


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--nonsense",), "--accelerator is needed"),
        (
            ("--accelerator", "mi355x", "--startup-scale", "0", "--", "--tp", "8"),
            "the following arguments are required: --model-path",
        ),
        (
            ("--accelerator", "mi355x", "--startup-scale", "0", "--", "--model-path", "m", "--tpp", "8"),
            "unrecognized arguments: --tpp 8",
        ),
        (
            ("--accelerator", "mi355x", "--startup-scale", "0", "--", "--model-path", "m", "--tp", "x"),
            "invalid int value: 'x'",
        ),
    ],
)
def test_the_simulated_engine_refuses_bad_options_as_sglang_does(args, words):
    said = tuner("engine", *args)
    assert 2 == said.code
    assert words in said.err


def test_help_and_version():
    assert (0, True) == (tuner("--help").code, "search" in tuner("--help").out)
    listed = re.findall(r"^\W+([a-z]+) {2,}[A-Z]", tuner("--help").out.split("Commands")[1], re.MULTILINE)
    assert ["init", "validate", "plan", "doctor", "search"] == listed[:5], "in the order of their use"
    assert 0 == tuner("engine", "--help").code
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", tuner("--version").out)
    assert EXIT_USAGE == tuner().code


def run(*args, **kwargs):
    program = [sys.executable, "-c", "from tuner.cli import main; main()"]
    return subprocess.Popen([*program, *args], text=True, **kwargs)


def test_a_reader_that_has_gone_is_no_fault(finished):
    """`tuner status | head -1`: no traceback, and the exit code stays."""
    with run("status", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert "" == process.stderr.read()
        assert 0 == process.wait(60)


def test_a_search_goes_on_when_nobody_reads_its_progress():
    small_space(".", HOPELESS)
    with run(*SEARCH, "--trials", "1", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stderr.close()
        doc = json.loads(process.stdout.read())
        assert EXIT_NOTHING_FEASIBLE == process.wait(60)
    assert 1 == doc["counted"]
