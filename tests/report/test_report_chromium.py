"""The page in a real browser: no errors, nothing asked for, all charts drawn, readable in light and dark.

Pictures are left in $TUNER_ARTEFACTS (default: artefacts/ in the checkout) for people to look at.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.chromium import browser, render
from support.studies import a_summary, mixed

from tuner.report.facts.study_report import gather
from tuner.report.page.document import page

ARTEFACTS = Path(os.environ.get("TUNER_ARTEFACTS") or Path(__file__).parents[2] / "artefacts")
DARK = "--blink-settings=preferredColorScheme=0"
CHARTS = {"tradeoff", "load-ttft", "load-tokens", "course", "effects", "predicted", "spent"}

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(browser() is None, reason="Chromium is not installed; .ci/run installs it where it can"),
]


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    file = folder / "report.html"
    file.write_text(page(gather(a_summary(folder, mixed))), encoding="utf-8")
    return file


def test_the_page_loads_without_errors_asks_for_nothing_and_has_every_chart(html, tmp_path):
    rendered = render(html, tmp_path)
    assert rendered.console == []
    assert [url for url in rendered.requests if not url.startswith(("file:", "data:"))] == []
    drawn = set(
        re.findall(r'<figure class="chart" id="chart-([\w-]+)"><figcaption>[^<]+</figcaption><svg', rendered.dom)
    )
    assert drawn == CHARTS


def test_a_page_that_asks_for_something_is_noticed(tmp_path):
    """The check before sees what it looks for: an image elsewhere, and an error on the console."""
    bad = tmp_path / "bad.html"
    bad.write_text('<img src="http://127.0.0.1:9/x.png"><script>throw new Error("seen")</script>')
    rendered = render(bad, tmp_path)
    assert any("127.0.0.1:9" in url for url in rendered.requests)
    assert any("seen" in line for line in rendered.console)


@pytest.mark.parametrize(
    ("name", "size", "flags"),
    [("laptop-light", "1280,3400", ()), ("laptop-dark", "1280,3400", (DARK,)), ("phone-light", "500,4000", ())],
)
def test_screenshots_are_kept(html, tmp_path, name, size, flags):
    ARTEFACTS.mkdir(exist_ok=True)
    shot = ARTEFACTS / f"report-{name}.png"
    shot.unlink(missing_ok=True)
    render(html, tmp_path, *flags, size=size, shot=shot)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 30_000  # a blank page of this size has a tenth of that


def test_light_and_dark_differ(html, tmp_path):
    shots = [tmp_path / "light.png", tmp_path / "dark.png"]
    for shot, flags in zip(shots, ((), (DARK,)), strict=True):
        render(html, tmp_path, *flags, size="400,300", shot=shot)
    assert shots[0].read_bytes() != shots[1].read_bytes()
