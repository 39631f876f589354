"""The page: complete for any study, small, self-contained, escaped, readable in either theme; Markdown and JSON too."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from support.cli import tuner
from support.problems import failed, infeasible, measured
from support.studies import EVIL, a_summary, mixed, stored, with_levels

from tuner.report.facts.study_report import gather
from tuner.report.markdown import to_markdown
from tuner.report.page.command_line import differences, flag_lines
from tuner.report.page.document import SIMULATED, page
from tuner.report.page.style import DARK, LIGHT, TEXTS, style_sheet
from tuner.study.problem import ConfirmPlan

CHARTS = ("tradeoff", "load-ttft", "load-tokens", "course", "effects", "predicted", "spent")
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Outline(HTMLParser):
    """Checks that tags match, collects ids, references, addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.tags, self.wanted, self.addresses, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.wanted += (found.get("aria-labelledby") or "").split()
        self.addresses += [found[k] for k in ("href", "src") if k in found]
        assert not any(name.startswith("on") for name in found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Studies of every kind, by name."""
    folder = tmp_path_factory.mktemp("studies")
    scripts = {"good": with_levels, "mixed": mixed, "bare": measured, "missed": infeasible, "broken": failed}
    return {
        name: gather(a_summary(folder, script, name=name, sampler="prior-gp" if name == "good" else "random"))
        for name, script in scripts.items()
    }


@pytest.mark.parametrize("name", ["good", "mixed", "bare", "missed", "broken"])
def test_every_study_makes_a_whole_page_that_needs_nothing_else(reports, name):
    text = page(reports[name])
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.wanted) <= set(outline.ids)
    assert {f"chart-{key}" for key in CHARTS} <= set(outline.ids)
    assert "script" not in outline.tags
    assert all(a.startswith("#") or a == "data:," for a in outline.addresses)
    assert not re.search(r"@import|url\(", text)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())
    assert f"trial-{reports[name].summary.trials_in_order[0].trial}" in outline.ids


def test_what_comes_from_outside_stays_text(reports):
    text = page(reports["mixed"])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert EVIL in "".join(Outline(text).text)
    assert "<script" not in to_markdown(reports["mixed"])


def test_a_simulated_study_is_stamped_everywhere(reports):
    text = page(reports["good"])
    assert SIMULATED in text
    assert text.count(">SIMULATED</text>") == len(CHARTS)
    assert SIMULATED in to_markdown(reports["good"])


def test_a_measured_study_is_not_stamped(tmp_path):
    def real(spec):
        return replace(with_levels(spec), simulated=False)

    summary = a_summary(tmp_path, real, trials=3)
    trials = tuple(replace(f, simulated=False) for f in summary.trials_in_order)
    assert "SIMULATED" not in page(gather(replace(summary, simulated=False, trials_in_order=trials)))


def test_the_summary_says_what_to_run_how_sure_and_for_how_much(reports):
    report = reports["good"]
    text = " ".join("".join(Outline(page(report)).text).split())
    best = report.summary.best
    assert f"Trial {best.trial}: configuration and launch command" in text
    assert "TTFT p95 <= 5 s, error rate <= 0.5%" in text
    assert "90% interval" in text
    assert ("Confirmed, and a clear winner." in text) is report.certainty.clear
    assert "Confirmed: 1 further run held" in text
    assert "limit 5 s" in text
    assert best.args[0] in text
    assert "GPU-hours" in text


def test_nothing_feasible_shows_the_nearest_miss(reports):
    text = "".join(Outline(page(reports["missed"])).text)
    assert "No configuration can be recommended." in text
    assert "nearest miss" in text
    assert "no configuration meets the limits" in to_markdown(reports["missed"]).replace("\\", "")


def test_failures_are_grouped_with_their_reason(reports):
    text = "".join(Outline(page(reports["broken"])).text)
    assert "oom_weights" in text
    assert "ran out of accelerator memory" in text


def test_a_refuted_best_is_said_to_be_refuted(tmp_path):
    def script(spec):
        return infeasible(spec) if spec.confirm else with_levels(spec)

    report = gather(a_summary(tmp_path, script, confirm=ConfirmPlan(top=8, repeats=1, minutes=1), trials=4))
    text = page(report)
    assert "Refuted: do not deploy this." in text
    assert "clear winner" not in text
    assert not report.certainty.clear


def test_what_is_cheaper_than_the_best_but_refuted_is_below_it_with_a_minus(tmp_path):
    refuted = set()

    def script(spec):
        if spec.confirm and not refuted:  # the first to be confirmed is the cheapest measured
            refuted.add(spec.fingerprint)
        return infeasible(spec) if spec.confirm and spec.fingerprint in refuted else with_levels(spec)

    report = gather(a_summary(tmp_path, script, confirm=ConfirmPlan(top=8, repeats=1, minutes=1), trials=4))
    assert report.ranked[0].standing == "holds"
    ranking = Outline(page(report)).text
    assert any(re.fullmatch(r"-\d+(\.\d)?%", word) for word in ranking)
    assert "+-" not in "".join(ranking)
    refuted_one = next(f for f in report.ranked if f.standing == "missed")
    words = "Measured cheaper, but refuted: a confirmation run missed a limit at its rate:"
    assert f"{words} trial {refuted_one.trial} " in page(report)


def test_an_empty_study_is_a_page_too(reports):
    empty = replace(
        reports["good"].summary, best=None, ranked=(), seeds={}, trials_in_order=(), confirmations_in_order=(), plan={}
    )
    assert "No trial has run yet." in page(gather(empty))
    assert to_markdown(gather(empty)).startswith("# good")


def test_the_document_of_everything_is_json(reports):
    for report in reports.values():
        doc = json.loads(json.dumps(report.as_json(), allow_nan=False))
        assert doc["schema_version"] == 1
        assert len(doc["trial_details"]) == len(report.summary.trials_in_order)
    assert doc["failure_kinds"][0]["kind"] == "oom_weights"


def test_commands_are_shown_as_differences():
    assert flag_lines(["--tp", "4", "--flag", "--seed=-1"]) == ["--tp 4", "--flag", "--seed=-1"]
    here, there = differences(["--tp", "4", "--a", "x y"], ["--tp", "8", "--a", "x y"])
    assert (here, there) == (["--tp 4"], ["--tp 8"])


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_letters_and_marks_have_enough_contrast_on_every_ground(theme):
    for name in TEXTS:
        for ground in ("bg", "card"):
            assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
    assert contrast(theme["warn"], theme["warn-bg"]) >= 4.5


def test_the_style_sheet_knows_both_themes_and_paper():
    sheet = style_sheet()
    assert LIGHT.keys() == DARK.keys()
    assert "prefers-color-scheme:dark" in sheet
    assert "@media print" in sheet
    assert set(re.findall(r"var\(--([\w-]+)\)", sheet)) <= set(LIGHT)


def test_the_command_writes_each_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = stored(tmp_path, mixed, trials=5)
    said = tuner("report", "--study", "demo")
    assert (said.code, said.out) == (0, "")
    assert "wrote demo.html" in said.err
    assert (tmp_path / "demo.html").read_text().startswith("<!DOCTYPE html>")
    assert tuner("report", "--storage", url, "--format", "markdown").out.startswith("# demo")
    assert json.loads(tuner("report", "--study", "demo", "--format", "json").out)["study"] == "demo"
    assert tuner("report", "--study", "demo", "--output", "-").out.startswith("<!DOCTYPE")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "htlm"], "did you mean 'html'"),
        (["--study", "nobody"], "no such study database"),
        (["--study", "demo", "--output", "no/where.html"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path, measured, trials=1)
    said = tuner("report", *args)
    assert said.code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
