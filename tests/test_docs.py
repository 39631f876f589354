"""The documents: every command in them is run by a test or a script, every symptom is printed by the program."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from support.cli import tuner
from support.spaces import small_space

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

TUTORIAL = "docs/tutorial.md"
RUN_ELSEWHERE = {
    # command as the document has it -> (who runs it, what must stand there)
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "tests test"),
    "tuner search --space my-space.yaml --runtime local": ("tests/e2e/test_local_search.py", "--runtime"),
    "helm template glm52 k8s/chart --values values.yaml": ("tests/export/conftest.py", "self.chart.render"),
    "helm template demo k8s/chart --values values.yaml": ("tests/export/conftest.py", "self.chart.render"),
    "tuner init --model glm-5.2 --from-cluster --output my-space.yaml": (
        "tests/test_cli_preparing.py", '"--from-cluster"'
    ),
    "tuner status --study glm52-mi355x --watch": (
        "tests/test_docs.py", 'tuner("status", "--study", "demo", "--watch")'
    ),
    "make image IMAGE=registry.example/tuner:1": ("k8s/kind/run.sh", "make image IMAGE="),
    "tuner doctor --space my-space.yaml --tuner-image registry.example/tuner:1": (
        "tests/runtime/kubernetes/test_doctor_command.py", '"doctor"'
    ),
    "tuner search --space my-space.yaml --tuner-image registry.example/tuner:1": (
        "tests/e2e/test_real_cluster.py", '"search", "--space"'
    ),
    "tuner logs glm52-mi355x-7-0d1f6c0e2b7a -f": ("tests/test_cli_cluster.py", '"logs"'),
    "tuner trial show glm52-mi355x-7-0d1f6c0e2b7a": ("tests/test_cli_cluster.py", '"show"'),
    "kubectl patch $pod --type strategic --patch "
    '{"metadata": {"$deleteFromPrimitiveList/finalizers": ["sglang-tuner/harvest"]}}': (
        "tests/test_cli_cluster.py", "--type strategic --patch"
    ),
    "tuner gc": ("tests/test_cli_cluster.py", '"gc"'),
    "tuner report --space my-space.yaml": ("tests/report/test_report_page.py", 'tuner("report"'),
    "tuner compare glm52-mi355x glm52-b200": ("tests/report/test_report_compare.py", 'tuner("compare"'),
    "tuner compare glm52-mi355x glm52-b200 --price b200=1.90": ("tests/report/test_report_compare.py", '"--price"'),
    "tuner compare glm52-mi355x --limit ttft_p95_s=3": ("tests/report/test_report_compare.py", '"--limit"'),
    "export TUNER_STORAGE=postgresql+psycopg://tuner@db.example/tuner": ("tests/support/postgres.py", "postgresql"),
}  # fmt: skip
"""What needs hardware, a cluster, a database server or minutes of both cores."""

MINE = (
    "tuner init --model glm-5.2 --accelerator mi355x --output my-space.yaml",
    "tuner init --model glm-5.2 --accelerator b200 --output my-space.yaml",
    "tuner validate my-space.yaml",
    "tuner plan --space my-space.yaml",
    "tuner plan --space my-space.yaml --memory",
    "tuner plan --space my-space.yaml --job --tuner-image registry.example/tuner:1 --namespace serving",
    "tuner status --space my-space.yaml",
    "tuner export helm --space my-space.yaml --output values.yaml",
    "tuner export manifest --space my-space.yaml",
    "tuner export command --space my-space.yaml --rank 2",
    "tuner export config --space my-space.yaml",
)
"""Run below on a small space. Simulated and unconfirmed results need their options, which measured ones do not."""

QUICK = (
    ("name: small", "name: demo"),
    ("input_tokens: 4000", "input_tokens: 1000"),
    ("output_tokens: 200", "output_tokens: 40"),
    ("ttft_p95_s: 5.0", "ttft_p95_s: 1.0"),
    ("minutes: 2", "minutes: 1"),
)


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page):
    """Every line of a page's shell blocks that starts a program of ours, of make or of a cluster."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    known = ("tuner ", "make ", "helm ", "kubectl ", "docker ", "pip ", "export ")
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.startswith(known)]


def listed(page):
    return [c for c in commands(page) if c in RUN_ELSEWHERE or c in MINE or page == TUTORIAL]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_run_by_someone(page):
    assert commands(page) == listed(page), "run it here, or say in RUN_ELSEWHERE who does"


def test_nobody_is_named_for_a_command_that_is_in_no_page():
    there = {command for page in PAGES for command in commands(page)}
    assert not set(RUN_ELSEWHERE) - there
    assert not set(MINE) - there


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_whoever_is_named_does_run_it(command):
    path, words = RUN_ELSEWHERE[command]
    assert words in text_of(path)


@pytest.fixture
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TUNER_STORAGE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_folder")
def test_the_tutorial_runs_as_it_stands():
    """Every command, in order; the space file it wrote gives way to a smaller one, so that this takes seconds."""
    said = {}
    ran = [command for command in commands(TUTORIAL) if command not in RUN_ELSEWHERE]
    for command in ran:
        said[command] = tuner(*shlex.split(command)[1:])
        assert 0 == said[command].code, (command, said[command].err)
        if command.startswith("tuner init"):
            small_space(".", *QUICK).rename("demo.yaml")
    assert len(ran) > 8
    (search,) = [command for command in ran if command.startswith("tuner search")]
    assert "SIMULATED, nothing was measured" in said[search].out
    assert "ended with a confirmed winner" in said["tuner status --space demo.yaml --watch"].out
    assert Path("values.yaml").read_text().startswith("# Helm values")
    assert Path("engine.yaml").read_text().startswith("# sglang configuration file")
    assert 0 == tuner("status", "--study", "demo", "--watch").code


@pytest.mark.usefixtures("_folder")
def test_the_commands_for_a_space_of_ones_own_run_too():
    inits = [command for command in MINE if command.startswith("tuner init")]
    for command in inits:
        assert 0 == tuner(*shlex.split(command)[1:]).code
        Path("my-space.yaml").unlink()
    small_space(".", *QUICK, ("budget: {trials: 4}", "budget: {trials: 2}")).rename("my-space.yaml")
    assert 0 == tuner("search", "--space", "my-space.yaml", "--runtime", "simulated").code
    for command in MINE[len(inits) :]:
        simulated = ["--allow-simulated", "--force"] if " export " in command else []
        said = tuner(*shlex.split(command)[1:], *simulated)
        assert 0 == said.code, (command, said.err)


# --- troubleshooting


@cache
def messages():
    """Every text of the program, with a … for what is filled in; pieces of one message stand together."""
    found = []
    for path in sorted((ROOT / "tuner").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                pieces = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append("".join(map(str, pieces)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return tuple(re.sub(r"`?…`?", "…", text) for text in found)


def symptoms():
    return re.findall(r"^### `(.+)`$", text_of("docs/troubleshooting.md"), re.MULTILINE)


def test_there_are_symptoms():
    assert len(symptoms()) >= 15


@pytest.mark.parametrize("symptom", symptoms())
def test_every_symptom_is_a_message_of_the_program(symptom):
    assert any(symptom in text for text in messages())


# --- links


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", text_of(page))
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]


def test_the_readme_leads_to_every_page():
    readme = text_of("README.md")
    assert not [page for page in PAGES if page != "README.md" and page not in readme]
