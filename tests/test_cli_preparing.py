"""What comes before a search: `init` writes a valid space file, `plan` shows sums, capacity and the Job."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from support.cli import tuner
from support.spaces import small_space

from tuner.errors import EXIT_USAGE
from tuner.model.accuracy import relative_error
from tuner.model.catalogue import accelerators, architectures
from tuner.report.draft import Draft, DraftPool, draft
from tuner.space.find import find_space

B200 = """\
  b200:
    accelerator: b200
    engine: {kind: sglang, version: "0.5.16"}
    image: x
    usd_per_gpu_hour: 4.20
    billing: gpu
workload:
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TUNER_STORAGE", "COLUMNS", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)


# --- init


@pytest.mark.parametrize("accelerator", accelerators())
def test_init_writes_a_file_that_validates_at_once(accelerator):
    image = ["--image", "registry.example/sglang:1"] if accelerator.startswith("mi3") else []
    said = tuner("init", "--model", "glm-5.2", "--accelerator", accelerator, *image, "--output", "space.yaml")
    assert 0 == said.code, said.err
    assert "wrote space.yaml" in said.err
    assert f"glm52-{accelerator}" in (text := Path("space.yaml").read_text())
    assert "CHECK" in text
    again = tuner("validate", "space.yaml")
    assert 0 == again.code, again.err


@pytest.mark.parametrize("model", [name for name in architectures() if name != "glm-5.2"])
def test_every_architecture_has_a_checkpoint_to_begin_with(model):
    said = tuner("init", "--model", model, "--accelerator", "b200")
    assert 0 == said.code, said.err
    doc = yaml.safe_load(said.out)
    assert model == doc["model"]["architecture"]
    assert "rules" not in doc  # the shipped rules are about GLM-5.2


@pytest.mark.parametrize(("accelerator", "shipped"), [("mi355x", "amd-mi355x"), ("b200", "nvidia-b200")])
def test_the_shipped_hardware_comes_with_its_recipe_and_rules(accelerator, shipped):
    doc = yaml.safe_load(tuner("init", "--model", "glm-5.2", "--accelerator", accelerator).out)
    known = yaml.safe_load(find_space(shipped).read_text())
    assert known["rules"] == doc["rules"]
    for key in ("image", "env", "engine", "node_selector", "usd_per_gpu_hour"):
        assert known["pools"][accelerator][key] == doc["pools"][accelerator][key]
    assert known["space"]["weights"] == doc["space"]["weights"]


def test_options_of_init_are_in_the_file():
    options = {
        "--name": "mine", "--checkpoint": "/models/own", "--image": "r/i:1", "--price": 3.5, "--nodes": 1,
        "--gpus-per-node": 4, "--input-tokens": 3000, "--output-tokens": 300, "--cached-fraction": 0.1, "--ttft-p95": 2,
    }  # fmt: skip
    flat = [word for pair in options.items() for word in pair]
    said = tuner("init", "--model", "glm-5.2", "--accelerator", "b300", *flat)
    doc = yaml.safe_load(said.out)
    pool = doc["pools"]["b300"]
    assert ("mine", "r/i:1", 3.5, 1, 4) == (
        doc["name"], pool["image"], pool["usd_per_gpu_hour"], pool["max_nodes"], pool["gpus_per_node"]
    )  # fmt: skip
    assert [3000, 300, 0.1] == [doc["workload"][k] for k in ("input_tokens", "output_tokens", "cached_fraction")]
    assert 2 == doc["objective"]["subject_to"]["ttft_p95_s"]
    assert {"fp8"} == set(doc["space"]["weights"]["choice"])
    assert "/models/own" == doc["space"]["weights"]["choice"]["fp8"]["model"]
    assert [[2, 4], 4] == [doc["space"]["layout"]["tp"], doc["space"]["layout"]["gpus"]]
    assert doc["confirm"]["different_nodes"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "say with --model: model (glm-5.2"),
        (("--model", "glm-5.2"), "say with --accelerator: accelerator (mi355x"),
        (("--model", "glm-52", "--accelerator", "b200"), "--model glm-52: not in the catalogue; did you mean 'glm-5"),
        (("--model", "glm-5.2", "--accelerator", "mi300x"), "say with --image: serving image for mi300x"),
        (("--model", "glm-5.2", "--accelerator", "b200", "--context", "x"), "--context goes with --from-cluster"),
    ],
)
def test_without_a_terminal_what_is_missing_is_said_and_not_asked(words, message):
    said = tuner("init", *words)
    assert (EXIT_USAGE, "") == (said.code, said.out)
    assert message in said.err.replace("`", "'")


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path):
    words = ("init", "--model", "glm-5.2", "--accelerator", "b200", "--output", "space.yaml")
    (tmp_path / "space.yaml").write_text("mine")
    assert EXIT_USAGE == tuner(*words).code
    assert "mine" == (tmp_path / "space.yaml").read_text()
    assert 0 == tuner(*words, "--force").code


def test_on_a_terminal_only_what_is_missing_is_asked(monkeypatch):
    import typer

    asked = []
    monkeypatch.setattr("tuner.commands.init._terminal", lambda: True)
    monkeypatch.setattr(typer, "prompt", lambda question, **_how: asked.append(question) or "b200")
    said = tuner("init", "--model", "glm-5.2")
    assert 0 == said.code, said.err
    assert ["accelerator (mi355x, b200, b300, h200, mi325x, mi300x)"] == asked


def test_a_users_own_architecture_is_a_file(tmp_path):
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
        "num_hidden_layers": 61, "vocab_size": 129280, "num_attention_heads": 128, "num_key_value_heads": 128,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 3, "max_position_embeddings": 163840,
        "num_nextn_predict_layers": 1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = tuner("init", "--model", "config.json", "--accelerator", "b200", "--checkpoint", "me/own", "-o", "s.yaml")
    assert 0 == said.code, said.err
    assert 0 == tuner("validate", "s.yaml").code


def test_two_pools_share_a_file_and_each_keeps_its_own_rules():
    text = draft(Draft("glm-5.2", [DraftPool("mi355x"), DraftPool("b200")], "both"))
    rules = {rule["id"]: rule for rule in yaml.safe_load(text)["rules"]}
    assert "pool == 'mi355x' and (layout.attn_dp > 1" in rules["attn-dp-dsa-hang"]["forbid"]
    assert "pool == 'b200' and (" in rules["mtp-memory"]["forbid"]
    Path("both.yaml").write_text(text)
    assert 0 == tuner("validate", "both.yaml").code


# --- init from a cluster


@contextmanager
def api_server(answers):
    """An API server on loopback that knows a few paths; everything else is forbidden."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, doc = answers.get(self.path.partition("?")[0], (403, {"reason": "Forbidden", "message": "no"}))
            body = json.dumps(doc).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(path, server):
    path.write_text(
        json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "x"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        })
    )  # fmt: skip


def gpu_node(resource, label, product, gpus=8, taint=None):
    return {
        "metadata": {"name": product.lower(), "labels": {label: product}},
        "spec": {"taints": [taint] if taint else []},
        "status": {"allocatable": {resource: str(gpus)}},
    }


def test_a_cluster_tells_pools_labels_taints_and_counts(tmp_path, monkeypatch):
    b200 = ("nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-B200")
    taint = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
    items = [gpu_node(*b200, taint=taint) for _ in range(3)]
    items += [gpu_node("nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-A10")]
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with api_server({"/api/v1/nodes": (200, {"items": items})}) as url:
        kubeconfig(tmp_path / "config", url)
        said = tuner("init", "--model", "glm-5.2", "--from-cluster", "--context", "here", "-o", "space.yaml")
    assert 0 == said.code, said.err
    assert "left out: 1 nodes with 8 x NVIDIA-A10 (not in the catalogue)" in said.err
    pool = yaml.safe_load(Path("space.yaml").read_text())["pools"]["b200"]
    assert (3, 8, {"nvidia.com/gpu.product": "NVIDIA-B200"}) == (
        pool["max_nodes"], pool["gpus_per_node"], pool["node_selector"]
    )  # fmt: skip
    assert [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] == pool["tolerations"]
    assert 0 == tuner("validate", "space.yaml").code


@pytest.mark.parametrize(
    ("answers", "words", "message"),
    [
        ({}, (), "the nodes cannot be listed: 403 Forbidden: no; ask for the right to list nodes"),
        ({"/api/v1/nodes": (200, {"items": []})}, (), "no node has a GPU the catalogue knows"),
        (
            {"/api/v1/nodes": (200, {"items": [gpu_node("amd.com/gpu", "amd.com/gpu.product-name", "MI355X")]})},
            ("--accelerator", "b200"),
            "--accelerator b200: no node of the cluster has one (found: mi355x)",
        ),
    ],
)
def test_a_cluster_that_does_not_help_is_said_in_one_line(tmp_path, monkeypatch, answers, words, message):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with api_server(answers) as url:
        kubeconfig(tmp_path / "config", url)
        said = tuner("init", "--model", "glm-5.2", "--from-cluster", *words)
    assert (EXIT_USAGE, 1) == (said.code, len(said.err.splitlines()))
    assert message in said.err


# --- plan


def planned(*words):
    return json.loads(tuner("plan", "--space", "space.yaml", *words, "--json").out)


def test_the_forecast_says_how_it_is_computed_and_the_sums_hold():
    small_space(".")
    doc = planned()["forecast"]
    hours = doc["trials"] * doc["seconds_per_trial"] / 3600
    trial, confirmation, together, money = doc["computed"]
    assert trial.startswith("a trial: start-up ")
    assert f"{hours:.1f} h of trials + " in together
    assert "a confirmation run: " in confirmation
    assert f"= ${doc['usd']:,.2f}" in money
    assert trial in tuner("plan", "--space", "space.yaml").out


def test_predictions_carry_their_uncertainty():
    small_space(".")
    out = tuner("plan", "--space", "space.yaml").out
    (first, *_) = planned()["predicted_best"]
    error, cost = first["predicted_relative_error"], first["predicted_usd_per_million_output_tokens"]
    assert relative_error("mi355x") == error
    assert f"{cost / (1 + error):.2f} - {cost / (1 - error):.2f}" in out
    assert "may be off by 25% on mi355x" in out
    assert relative_error("h200") > error


@pytest.mark.parametrize(("rate", "replicas_at_least"), [(0.001, 1), (500, 2)])
def test_a_target_rate_is_served_with_the_guard_kept(rate, replicas_at_least):
    small_space(".", ("workload:\n", B200))
    doc = planned("--target-rate", rate)["capacity"]
    assert (rate, 0.05, {"mi355x", "b200"}) == (doc["target_req_per_s"], doc["guard"], set(doc["pools"]))
    for pool in doc["pools"].values():
        each = pool["predicted_req_per_s_per_replica"]
        assert pool["replicas"] >= replicas_at_least
        assert (pool["replicas"] - 1) * each < rate <= pool["replicas"] * each
        least, most = pool["nodes_if_the_model_errs"]
        assert least <= pool["nodes"] <= most
    amd = doc["pools"]["mi355x"]
    assert pytest.approx(amd["nodes"] * 8 * 2.10 * 730.5, abs=0.01) == amd["usd_per_month"]
    assert f"serving {rate:g} req/s" in tuner("plan", "--space", "space.yaml", "--target-rate", rate).out


def test_the_job_is_the_one_the_search_would_create():
    small_space(".", ("workload:\n", B200))
    words = ("plan", "--space", "space.yaml", "--job", "--tuner-image", "r/tuner:1", "--namespace", "ml")
    said = tuner(*words)
    assert 0 == said.code, said.err
    jobs = list(yaml.safe_load_all(said.out))
    assert [("Job", "ml")] * 2 == [(job["kind"], job["metadata"]["namespace"]) for job in jobs]
    assert json.loads(tuner(*words, "--json").out)["jobs"] == jobs
    assert {"mi355x", "b200"} == {job["metadata"]["labels"]["sglang-tuner/pool"] for job in jobs}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--job",), "no tuner image: say with --tuner-image"),
        (("--namespace", "x"), "--namespace and --tuner-image go with --job"),
    ],
)
def test_plan_refuses_options_that_lack_their_companion(words, message):
    small_space(".")
    said = tuner("plan", "--space", "space.yaml", *words)
    assert EXIT_USAGE == said.code
    assert message in said.err
