"""Winner + target -> values: what is carried over, what is refused, how the file reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tuner.errors import UsageError
from tuner.export.chart import chart_defaults, chart_path, merged
from tuner.export.command import to_command
from tuner.export.helm import helm_values, pinned, to_yaml
from tuner.export.manifest import to_manifest
from tuner.export.target import SecretKey, Volume
from tuner.export.winner import Figures, refusal

GOLDEN = Path(__file__).parents[1] / "golden" / "exported-values.yaml"


def test_exported_file_is_the_golden_one(a_winner, a_target):
    """UPDATE_GOLDEN=1 writes it anew; read the difference before you commit it."""
    text = to_yaml(helm_values(a_winner(), a_target()))
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_yaml_says_what_the_values_say(a_winner, a_target):
    values = helm_values(a_winner(), a_target())
    assert yaml.safe_load(to_yaml(values)) == values


def test_values_hold_the_measured_command_line_and_plumbing_apart(a_winner, a_target):
    winner = a_winner()
    launch = helm_values(winner, a_target(port=8000, served_name="glm"))["launch"]
    assert tuple(launch["program"]) == winner.program
    assert tuple(launch["args"]) == winner.args
    assert launch["plumbing"][:5] == ["--host", "0.0.0.0", "--port", "8000", "--enable-metrics"]
    assert launch["plumbing"][-2:] == ["--served-model-name", "glm"]


def test_without_a_served_name_the_engine_chooses(a_winner, a_target):
    assert "--served-model-name" not in helm_values(a_winner(), a_target(served_name=""))["launch"]["plumbing"]


@pytest.mark.parametrize(
    ("image", "digest", "expected"),
    [
        ("a/b:c", "sha256:12", "a/b:c@sha256:12"),
        ("a/b:c", "docker.io/a/b@sha256:12", "a/b:c@sha256:12"),
        ("a/b@sha256:12", "sha256:34", "a/b@sha256:12"),
        ("a/b:c", "", "a/b:c"),
    ],
)
def test_image_is_pinned_to_the_digest_that_was_measured(image, digest, expected):
    assert pinned(image, digest) == expected


def test_unpinned_image_is_said_to_be(a_winner, a_target):
    assert "image is not pinned" in to_yaml(helm_values(a_winner(image_digest=""), a_target()))
    assert "image is not pinned" not in to_yaml(helm_values(a_winner(), a_target()))


def test_kernels_of_two_images_never_share_a_folder(a_winner, a_target):
    """By digest, and by reference where no digest is known."""
    winners = [
        a_winner(),
        a_winner(image_digest="sha256:" + "f" * 64),
        a_winner(image_digest=""),
        a_winner(image_digest="", image="a/b:c"),
    ]
    folders = [helm_values(winner, a_target())["compileCache"]["subPath"] for winner in winners]
    assert len(set(folders)) == 4
    assert folders[0] == "0123456789ab"


@pytest.mark.parametrize(
    ("changes", "stamps"),
    [
        ({}, []),
        ({"simulated": True}, ["SIMULATED"]),
        ({"confirmed": False}, ["UNCONFIRMED"]),
        ({"simulated": True, "confirmed": False}, ["SIMULATED", "UNCONFIRMED"]),
    ],
)
def test_stamps_stand_on_top(a_winner, a_target, changes, stamps):
    lines = to_yaml(helm_values(a_winner(**changes), a_target())).splitlines()
    assert [line[2:].partition(":")[0] for line in lines[2 : 2 + len(stamps)]] == stamps
    assert any(line.startswith("# Measured: ") for line in lines) is ("SIMULATED" not in stamps)


def test_comment_cannot_be_broken_out_of(a_winner, a_target):
    """A line break in a name stays inside the comment."""
    values = helm_values(a_winner(study="a\nreplicas: 99", model="b\u2028gpu: 1\x85x: 1\rz: 1"), a_target())
    assert yaml.safe_load(to_yaml(values)) == values


@pytest.mark.parametrize(
    ("allow_simulated", "force", "simulated", "confirmed", "words"),
    [
        (False, False, False, True, []),
        (False, False, True, True, ["--allow-simulated"]),
        (True, False, True, True, []),
        (False, True, True, True, ["--allow-simulated"]),
        (False, False, False, False, ["--force"]),
        (False, True, False, False, []),
        (True, False, False, False, ["--force"]),
        (False, False, True, False, ["--allow-simulated", "--force"]),
        (True, True, True, False, []),
    ],
)
def test_refusal(a_winner, allow_simulated, force, simulated, confirmed, words):
    winner = a_winner(simulated=simulated, confirmed=confirmed)
    said = refusal(winner, allow_simulated=allow_simulated, force=force)
    assert (said is None) is (not words)
    assert [word for word in ("--allow-simulated", "--force") if word in (said or "")] == words


def test_a_refuted_one_is_refused_as_such_and_stamped_when_forced(a_winner, a_target):
    winner = a_winner(confirmed=False, refuted=True)
    said = refusal(winner, allow_simulated=False, force=False)
    assert "is REFUTED, a confirmation run at 2.375 req/s missed a limit" in said
    assert refusal(winner, allow_simulated=False, force=True) is None
    text = to_yaml(helm_values(winner, a_target()))
    assert "# REFUTED: a confirmation run at this rate missed a limit." in text
    assert "UNCONFIRMED" not in text
    assert "refuted by a confirmation run" in text


@pytest.mark.parametrize(
    ("winner", "target", "words"),
    [
        ({"env": {"HF_TOKEN": "hf_abc"}}, {"secret_env": {}}, "HF_TOKEN looks like a secret"),
        ({"args": ("--api-key", "hf_abc")}, {}, "--api-key looks like a secret"),
        ({"args": ("--api-key=hf_abc",)}, {}, "--api-key looks like a secret"),
        ({"env": {"SGLANG_SIMULATE_ACC_LEN": "3"}}, {}, "SGLANG_SIMULATE_ACC_LEN simulates the engine"),
        ({"gpus": 16}, {}, "needs 16 GPUs"),
        ({"gpus": 0}, {}, "needs 0 GPUs"),
        ({"image": ""}, {}, "records no image"),
        ({"args": ()}, {}, "no command line"),
        ({}, {"served_name": "a:b"}, "no ':'"),
        ({"args": ("a\0b",)}, {}, "holds a NUL"),
        ({"env": {"A": "\ud800"}}, {}, "no Unicode text"),
        ({"env": {"A;rm": "1"}}, {}, "variable's name"),
        ({}, {"secret_env": {"A B": SecretKey("s", "k")}}, "variable's name"),
    ],
)
def test_what_must_not_be_exported_is_refused_without_repeating_a_value(a_winner, a_target, winner, target, words):
    with pytest.raises(UsageError, match=words) as caught:
        helm_values(a_winner(**winner), a_target(**target))
    assert "hf_abc" not in str(caught.value)


def test_secret_with_a_reference_is_exported_without_its_value(a_winner, a_target):
    text = to_yaml(helm_values(a_winner(env={"HF_TOKEN": "hf_abc"}), a_target()))
    assert "hf_abc" not in text
    assert yaml.safe_load(text)["secretEnv"]["HF_TOKEN"] == {"secret": "hugging-face", "key": "token"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["ttft_p95_s", "limits"])
def test_figures_are_finite(field, value):
    fields = dict.fromkeys(
        ("usd_per_million_output_tokens", "capacity_req_per_s", "guarded_req_per_s", "ttft_p95_s"), 1.0
    ) | {"output_tokens_per_s": 1.0, "limits": {}}
    fields[field] = {"e2e_p95_s": value} if field == "limits" else value
    with pytest.raises(ValueError, match="finite"):
        Figures(**fields)


@pytest.mark.parametrize("places", [{}, {"pvc": "a", "host_path": "/b"}])
def test_volume_is_one_thing(places):
    with pytest.raises(ValueError, match="exactly one"):
        Volume(**places)


def test_values_are_not_tied_to_each_other(a_winner, a_target):
    """Changing one export leaves the next alone."""
    helm_values(a_winner(), a_target())["securityContext"]["pod"]["runAsUser"] = 5
    assert "runAsUser" not in helm_values(a_winner(), a_target())["securityContext"]["pod"]


def test_chart_of_a_wheel_is_found_first(tmp_path):
    package = tmp_path / "tuner"
    for folder in (tmp_path / "k8s" / "chart", package / "_shipped" / "chart"):
        with pytest.raises(UsageError, match="chart is missing") if "k8s" in str(folder) else _no_error():
            chart_path(package)
        folder.mkdir(parents=True)
        (folder / "Chart.yaml").touch()
        assert chart_path(package) == folder


def _no_error():
    from contextlib import nullcontext

    return nullcontext()


def test_chart_of_a_checkout_is_found():
    assert (chart_path() / "values.schema.json").is_file()
    assert chart_defaults()["gpu"] == {"resource": "amd.com/gpu", "count": 8}


def test_values_merge_as_helm_merges(helm, a_winner, a_target):
    """The manifest lays values over the chart's defaults the way Helm does."""
    values = helm_values(a_winner(), a_target()) | {
        "affinity": None,
        "launch": {"program": ["sglang", "serve"], "args": ["--x"], "plumbing": None},
        "compileCache": {"env": {"XDG_CACHE_HOME": None, "MINE": "m"}},
        "imagePullSecrets": [],
    }
    ours, helms = merged(chart_defaults(), values), helm.chart.merge_values(values)
    assert ours == helms
    assert "affinity" not in ours
    assert "XDG_CACHE_HOME" not in ours["compileCache"]["env"]


def test_nothing_simulated_is_called_measured(a_winner, a_target):
    """In none of the three outputs, but to say that nothing was."""
    values = helm_values(a_winner(simulated=True), a_target())
    for text in (to_yaml(values), to_manifest(values, name="demo"), to_command(values)):
        assert "measured" not in text.lower().replace("no engine was measured", "")
