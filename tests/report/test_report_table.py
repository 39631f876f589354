"""The summary for people: the winner first, the yardsticks beside it, what failed and why, simulated marked."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from support.fake_runtime import FakeCluster
from support.problems import a_problem, failed, infeasible, measured, raced_out

from tuner.errors import NothingFeasible, UsageError
from tuner.export.from_study import by_rank, target_of, winner_of
from tuner.launch.spaces import open_space
from tuner.report.table import nearest_miss, print_summary
from tuner.study.problem import Budget, ConfirmPlan
from tuner.study.search import search
from tuner.study.summary import read_summary
from tuner.trial.result import UNSPECIFIED, Failure, TrialResult


def a_summary(tmp_path, script, **changes):
    database = f"sqlite:///{tmp_path}/study.db"
    problem = a_problem(**{"budget": Budget(trials=4), "confirm": ConfirmPlan(top=1, repeats=1, minutes=1)} | changes)
    search(problem, database, FakeCluster(script).controller(), poll_s=1e4)
    return read_summary(database)


def shown(summary):
    out = io.StringIO()
    print_summary(summary, out)
    return out.getvalue()


def test_the_winner_comes_first_with_cost_rate_limit_and_confirmation(tmp_path):
    summary = a_summary(tmp_path, measured)
    text = shown(summary)
    best = next(line for line in text.splitlines() if "best" in line)
    assert f"{summary.best.usd_per_million_output_tokens:.3f}" in best
    assert "yes" in best
    assert "SIMULATED, nothing was measured" in text
    assert "confirmed at" in text


def test_the_best_is_compared_with_the_baseline(tmp_path):
    summary = a_summary(tmp_path, measured)
    share = summary.best.usd_per_million_output_tokens / summary.seeds["baseline"].usd_per_million_output_tokens
    assert f"the best costs {share:.0%} of the baseline" in shown(summary)


def test_a_study_without_a_feasible_trial_shows_the_nearest_miss_and_by_how_much(tmp_path):
    summary = a_summary(tmp_path, infeasible)
    assert "no configuration meets the limits (TTFT p95 <= 5 s" in shown(summary)
    assert "TTFT p95 7.5 s" in nearest_miss(summary)
    assert "TTFT p95 is over by 50%: it would hold with TTFT p95 <= 7.5 s" in nearest_miss(summary)


def test_a_miss_by_an_unknown_amount_has_no_figure(tmp_path):
    """An external command may say `infeasible` and no more."""
    said = nearest_miss(a_summary(tmp_path, lambda spec: TrialResult(spec.id, "infeasible")))
    assert "by how much was not told" in said
    assert "%" not in said.partition("nearest miss")[2]


def test_a_miss_by_a_known_amount_is_nearer_than_one_by_an_unknown(tmp_path):
    def script(spec):
        return TrialResult(spec.id, "infeasible", ttft_p95_s=15.0 if "-2-" in spec.id else None)

    assert a_summary(tmp_path, script).nearest_miss.ttft_p95_s == 15.0


@pytest.mark.parametrize(
    ("alike", "reason"), [(True, "all 4 trials failed for one reason: out of memory"), (False, None)]
)
def test_failures_without_a_kind_are_one_reason_only_if_their_words_agree(tmp_path, alike, reason):
    def script(spec):
        words = "out of memory" if alike else f"no such thing as {spec.fingerprint}"
        return TrialResult(spec.id, "failed", failure=Failure("configuration", UNSPECIFIED, words))

    assert a_summary(tmp_path, script).common_failure == reason


def test_one_common_reason_is_said_first(tmp_path):
    summary = a_summary(tmp_path, failed)
    assert shown(summary).splitlines()[0].startswith("all 4 trials failed for one reason")
    assert "oom_weights" in nearest_miss(summary)


def test_a_refuted_configuration_is_marked(tmp_path):
    def script(spec):
        return infeasible(spec) if spec.confirm else measured(spec)

    text = shown(a_summary(tmp_path, script))
    assert "refuted" in text
    assert "no configuration is confirmed yet" in text


def test_a_seed_without_figures_shows_its_state(tmp_path):
    def script(spec):
        return raced_out(spec) if "only" in spec.config else measured(spec)

    row = next(line for line in shown(a_summary(tmp_path, script)).splitlines() if "engine-default" in line)
    assert "pruned" in row


def test_the_tables_ranks_are_those_export_takes(tmp_path):
    """A configuration that a confirmation has refuted comes after the confirmed one, whatever it costs."""
    refuted = []

    def script(spec):
        if spec.confirm and (not refuted or spec.fingerprint in refuted):
            refuted.append(spec.fingerprint)
            return infeasible(spec)
        return measured(spec)

    summary = a_summary(tmp_path, script, confirm=ConfirmPlan(top=3, repeats=1, minutes=1))
    assert refuted[0] in [f.fingerprint for f in summary.ranked]
    assert refuted[0] != summary.best.fingerprint
    lines = shown(summary).splitlines()
    marked = [line for line in lines if re.match(r"(best|\d\.) ", line)]
    assert [str(f.trial) for f in by_rank(summary)] == [re.findall(r" (\d+) ", line)[0] for line in marked]
    assert "refuted" in next(m for m, f in zip(marked, by_rank(summary), strict=True) if f.fingerprint in refuted)
    assert marked[0].startswith("best")
    assert "refuted" not in marked[0]


def test_others_are_described_by_what_differs_from_the_best(tmp_path):
    summary = a_summary(tmp_path, measured)
    lines = shown(summary).splitlines()
    best = summary.best.label.split()
    second = next(line for line in lines if line.startswith("2."))
    assert "=" in second
    assert not [word for word in best if "=" in word and word in second.split()]
    assert f"best: {summary.best.label}" in lines


def test_a_table_fits_the_terminal_and_loses_no_word(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    summary = a_summary(tmp_path, measured)
    table = shown(summary).split("trials:")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table
    assert all(word in table for word in ("engine-default", "baseline", "speculation=off", "mtp(steps=3)"))


@pytest.mark.parametrize(
    ("reason", "stopped_by", "line"),
    [
        ("confirmed", "trials", "search: ended with a confirmed winner (the number of trials is reached)"),
        ("budget", "usd", "search: ended by its budget, without a confirmed winner (the money budget is spent)"),
        ("runtime_unusable", None, "search: stopped, the runtime was unusable; the same command goes on"),
        (None, "trials", "search: running, or killed from outside; then the same command goes on"),
    ],
)
def test_how_the_search_stands_is_said(tmp_path, reason, stopped_by, line):
    summary = replace(a_summary(tmp_path, measured), exit_reason=reason, stopped_by=stopped_by)
    assert line in shown(summary).splitlines()


def test_ranks_put_the_confirmed_one_first_and_end_with_the_measured_ones(tmp_path):
    summary = a_summary(tmp_path, measured)
    assert by_rank(summary)[0] is summary.best
    assert len(summary.ranked) == len(by_rank(summary))
    winner = winner_of(summary, 1)
    assert summary.best.args == winner.args
    assert winner.confirmed
    assert winner.figures.guarded_req_per_s == pytest.approx(0.95 * summary.best.capacity_req_per_s)
    assert [a.trial for a in winner.alternatives] == [f.trial for f in by_rank(summary)[1:4]]


def test_a_rank_nobody_reached_is_refused_with_the_number_measured(tmp_path):
    with pytest.raises(NothingFeasible, match="rank 99 was asked for, 4 configurations"):
        winner_of(a_summary(tmp_path, measured), 99)


def test_the_target_is_the_pool_the_winner_was_measured_on():
    space = open_space("amd-mi355x.yaml")
    target = target_of(space, "mi355x")
    assert ("amd", "amd.com/gpu") == (target.vendor, target.gpu_resource)
    assert target.model_cache.pvc == "models"
    assert {"amd.com/gpu.product-name": "AMD_Instinct_MI355X"} == target.node_selector
    with pytest.raises(UsageError, match="has no pool b200"):
        target_of(space, "b200")
