"""The study as its database tells it, with the keys others rely on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.fake_runtime import FakeCluster
from support.problems import a_config, a_problem, config_of, failed, measured

from tuner.errors import UsageError
from tuner.study.history import PastTrial
from tuner.study.problem import Budget
from tuner.study.search import search
from tuner.study.storage import open_storage
from tuner.study.summary import best_of, common_failure, identity_changes, read_summary, study_names, summarize


def searched(database, script=measured, **changes):
    cluster = FakeCluster(script)
    search(a_problem(**{"budget": Budget(trials=4)} | changes), database, cluster.controller(), poll_s=1e4)
    return read_summary(database)


def test_the_json_has_the_contracts_keys(database):
    doc = searched(database).as_json()
    assert json.loads(json.dumps(doc)) == doc
    assert (doc["study"], doc["exit_reason"], doc["schema_version"]) == ("demo", "confirmed", 1)
    assert doc["trials"]["measured"] == 4
    best = doc["best"]
    assert best["args"] == [f"--tp={best['config']['layout']['tp']}"]
    assert best["usd_per_million_output_tokens"] == pytest.approx(
        16.8 / (0.95 * best["capacity_req_per_s"] * 1000 * 3600) * 1e6
    )
    assert (best["ttft_p95_s"], best["simulated"], best["confirmed"]) == (4.2, True, True)
    assert (best["env"], best["program"], best["number"]) == ({"A": "1"}, ["python3"], best["trial"])
    assert doc["budget"]["used"]["trials"] == 4
    assert list(doc)[1] == "common_failure"  # the reason everything failed is read first


def test_seeds_are_named_with_their_figures(database):
    summary = searched(database)
    assert list(summary.seeds) == ["engine-default", "baseline"]
    assert summary.seeds["baseline"].config == a_config().as_json()
    assert "baseline" in summary.as_json()["seeds"]
    assert "engine defaults beyond model, tp" in summary.seeds["engine-default"].label


def test_a_retried_seed_shows_its_measurement(database):
    lost = []

    def script(spec):
        if config_of(spec) == a_config() and not lost:
            lost.append(spec)
            return failed(spec, "infrastructure", "evicted")
        return measured(spec)

    assert searched(database, script).seeds["baseline"].state == "measured"


def test_a_finished_study_can_be_read_while_nobody_runs_it(database):
    searched(database)
    storage = open_storage(database, must_exist=True)
    assert study_names(storage) == ["demo"]
    with pytest.raises(UsageError, match="no study 'other'; it holds: demo"):
        summarize(storage, "other")
    storage.close()


def test_a_database_with_several_studies_asks_which(database):
    searched(database)
    search(a_problem(name="other", budget=Budget(trials=1)), database, FakeCluster(measured).controller(), poll_s=1e4)
    with pytest.raises(UsageError, match=r"holds 2 studies \(demo, other\); name one with --study"):
        read_summary(database)
    assert read_summary(database, "other").counted == 1


def test_an_empty_database_holds_no_study(database):
    open_storage(database).close()
    with pytest.raises(UsageError, match="holds no study"):
        read_summary(database)


def test_the_study_knows_what_it_was_begun_with(database):
    summary = searched(database)
    assert identity_changes(summary, {**summary.identity, "image": "x"}) == ['image: "sglang@sha256:1" -> "x"']
    assert summary.plan["limits"] == {"ttft_p95_s": 5.0, "error_rate": 0.005}


def test_best_prefers_confirmed_then_unrefuted_then_cheapest(database):
    figures = searched(database).ranked[0]

    def ranked(*standings):
        return [replace(figures, trial=i, standing=says) for i, says in enumerate(standings)]

    assert best_of(ranked(None, "missed", "holds")).trial == 2
    assert best_of(ranked("missed", None, "open")).trial == 1
    assert best_of(ranked("missed", "missed")).trial == 0
    assert best_of([]) is None


def a_failure(kind, state="failed"):
    return PastTrial(
        0, state, False, "f", "sampler", {}, {}, {}, result={"failure": {"kind": kind}}, failure=f"{kind}: x"
    )


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ([], None),
        ([a_failure("bad_flag")], "the only trial failed for one reason: bad_flag: x"),
        ([a_failure("bad_flag")] * 3, "all 3 trials failed for one reason: bad_flag: x"),
        ([a_failure("client_bound", "invalid")] * 2, "all 2 trials failed for one reason: client_bound: x"),
        ([a_failure("bad_flag"), a_failure("hang")], None),
        ([a_failure("bad_flag"), a_failure("bad_flag", "measured")], None),
    ],
)
def test_one_common_reason_is_named(history, reason):
    assert common_failure(history) == reason
