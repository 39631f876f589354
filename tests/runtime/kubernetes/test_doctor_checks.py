"""Each check of the doctor over facts: what is well, what is not known, and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.cluster_objects import a_node
from support.targets import STUDY_UID, a_target
from support.trials import a_spec

from tuner.runtime.kubernetes.doctor import examine_pool, examine_site
from tuner.runtime.kubernetes.facts import PoolFacts, Reference, Refusal, SiteFacts, references
from tuner.runtime.kubernetes.job import job_manifest
from tuner.runtime.kubernetes.rights import HELPFUL, NEEDED

MISSING = Refusal(404, "NotFound", "not found")
HIDDEN = Refusal(403, "Forbidden", "forbidden")
ALL = dict.fromkeys((*NEEDED, *HELPFUL), True)
SITE = SiteFacts("https://api", "ml", {"gitVersion": "v1.31.2"}, ALL, {}, [], [a_node()])
DIGEST = f"reg/sglang@sha256:{'a' * 64}"


def a_pool(found=None, dry_run=None, **pool):
    target = a_target(**{"image": DIGEST, **pool})
    spec = replace(a_spec(), pool="here", image="", gpus=8)
    pod = job_manifest(spec, target, STUDY_UID)["spec"]["template"]["spec"]
    return PoolFacts(target, pod, 8, found or {}, dry_run or {})


def said(lines, subject):
    return [(line.level, line.text) for line in lines if line.subject == subject]


def site_says(subject, **facts):
    return said(examine_site(replace(SITE, **facts)), subject)


def pool_says(subject, site=SITE, **facts):
    return said(examine_pool(site, a_pool(**facts)), subject)


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ({"gitVersion": "v1.29.0"}, "ok", "v1.29.0"),
        ({"gitVersion": "v1.31.4-gke.1"}, "ok", "v1.31.4-gke.1"),
        ({"major": "1", "minor": "36+"}, "ok", "1.36+"),
        ({"gitVersion": "v1.28.9"}, "problem", "trials need 1.29 or newer"),
        ({}, "unknown", "does not say"),
        (Refusal(None, "Unreachable", "connection refused"), "problem", "does not answer - connection refused"),
        (Refusal(401, "Unauthorized", "Unauthorized"), "problem", "your login"),
    ],
)
def test_the_servers_version(version, level, text):
    [(found, line)] = site_says("server", version=version)

    assert (found, text in line) == (level, True)


def test_a_server_that_does_not_answer_is_asked_nothing_more():
    site = replace(SITE, version=Refusal(None, "Unreachable", "no route"))

    assert len(examine_site(site)) == 1
    assert examine_pool(site, a_pool()) == []


@pytest.mark.parametrize(
    ("namespace", "level", "text"),
    [
        ({}, "ok", "ml is there"),
        ({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}, "ok", "enforces baseline"),
        ({"status": {"phase": "Terminating"}}, "problem", "being deleted"),
        (MISSING, "problem", "kubectl create namespace ml"),
        (HIDDEN, "unknown", "you may not look"),
    ],
)
def test_the_namespace(namespace, level, text):
    [(found, line)] = site_says("namespace", namespace_object=namespace)

    assert (found, text in line) == (level, True)


def test_each_missing_permission_is_named_with_its_purpose():
    patch = next(right for right in NEEDED if right.verb == "patch")
    nodes = HELPFUL[0]
    found = site_says("permissions", rights={**ALL, patch: False, nodes: False})

    assert [level for level, _ in found] == ["problem", "unknown"]
    assert "patch pods in namespace ml is not allowed - let go of a pod" in found[0][1]
    assert "k8s/rbac-nodes.yaml" in found[1][1]
    assert site_says("permissions") == [("ok", "all 8 that a search needs in namespace ml")]
    assert site_says("permissions", rights=HIDDEN)[0][0] == "unknown"


@pytest.mark.parametrize(
    ("nodes", "pool", "level", "text"),
    [
        ([a_node()], {}, "ok", "1 can hold a trial: gpu-0 (8 amd.com/gpu)"),
        ([a_node(labels={"pool": "x"})], {"node_selector": {"pool": "x"}}, "ok", "(8 amd.com/gpu, pool=x)"),
        ([a_node()], {"node_selector": {"pool": "x"}}, "problem", "1 without label pool=x"),
        ([a_node(str(n)) for n in range(9)], {"max_nodes": 9}, "ok", "and 1 more"),
        ([a_node()], {"max_nodes": 3}, "unknown", "max_nodes says 3"),
        ([a_node(cordoned=True)], {}, "problem", "none now: 1 cordoned"),
        ([a_node(healthy=7)], {}, "problem", "7 of 8 amd.com/gpu healthy"),
        ([a_node(gpus=0)], {}, "problem", "advertises amd.com/gpu"),
        ([], {"autoscale": {"wait": "20m"}}, "ok", "may grow one within 1200 s"),
        (HIDDEN, {}, "unknown", "cannot be counted"),
    ],
)
def test_nodes(nodes, pool, level, text):
    [(found, line)] = pool_says("nodes", replace(SITE, nodes=nodes), **pool)

    assert (found, text in line) == (level, True), line


def test_nodes_that_hold_only_the_smaller_trials_are_told_apart():
    pool = replace(a_pool(), smallest_gpus=4)
    [(level, text)] = said(examine_pool(replace(SITE, nodes=[a_node(gpus=4)]), pool), "nodes")

    assert (level, "up to 4 GPUs" in text) == ("problem", True)


def a_quota(hard, used=None):
    return {"metadata": {"name": "team"}, "status": {"hard": hard, "used": used or {}}}


@pytest.mark.parametrize(
    ("quotas", "level", "text"),
    [
        ([], "ok", "none"),
        ([a_quota({"requests.amd.com/gpu": "16"})], "ok", "one trial fits"),
        (
            [a_quota({"requests.amd.com/gpu": "4"})],
            "problem",
            "team allows 4 requests.amd.com/gpu, one trial asks for 8",
        ),
        ([a_quota({"limits.memory": "1Ti"})], "problem", "limits.memory"),
        ([a_quota({"count/jobs.batch": "1"}, {"count/jobs.batch": "1"})], "unknown", "wait until it has room"),
        ([{"metadata": {"name": "new"}, "spec": {"hard": {"pods": "0"}}}], "problem", "new allows 0 pods"),
        (HIDDEN, "unknown", "you may not look"),
    ],
)
def test_quotas(quotas, level, text):
    [(found, line)] = pool_says("quota", replace(SITE, quotas=quotas))

    assert (found, text in line) == (level, True), line


@pytest.mark.parametrize(
    ("image", "level", "text"),
    [
        (DIGEST, "unknown", "shows with the first trial"),
        ("reg.example:5000/team/sglang:v1", "unknown", "its tag is resolved"),
        ("reg/sglang:latest", "unknown", "names no version"),
        ("sglang", "unknown", "names no version"),
        ("reg/Bad NAME:1", "problem", "no name of an image"),
        ("reg/here:1", "ok", "already on 1 nodes"),
    ],
)
def test_images(image, level, text):
    node = a_node()
    node["status"]["images"] = [{"names": ["reg/here:1"]}, {}]
    found = [line for line in pool_says("image", replace(SITE, nodes=[node]), image=image) if image in line[1]]

    assert [(lev, text in line) for lev, line in found] == [(level, True)]


CLAIM = Reference("PersistentVolumeClaim", "models")


def a_claim(phase="Bound", modes=("ReadOnlyMany",)):
    return {"status": {"phase": phase}, "spec": {"accessModes": list(modes)}}


@pytest.mark.parametrize(
    ("claim", "nodes", "level", "text"),
    [
        (a_claim(), 4, "ok", "is bound (ReadOnlyMany)"),
        (a_claim(modes=["ReadWriteOnce"]), 1, "ok", "is bound"),
        (a_claim(modes=["ReadWriteOnce"]), 2, "problem", "one node at a time (ReadWriteOnce), max_nodes is 2"),
        (a_claim("Pending"), 1, "unknown", "is Pending"),
        (a_claim("Lost"), 1, "problem", "has lost its volume"),
        (MISSING, 1, "problem", "there is no PersistentVolumeClaim models"),
        (HIDDEN, 1, "unknown", "you may not look"),
    ],
)
def test_the_model_cache(claim, nodes, level, text):
    [(found, line)] = pool_says("model cache", found={CLAIM: claim}, model_cache={"pvc": "models"}, max_nodes=nodes)

    assert (found, text in line) == (level, True), line


def test_a_folder_of_the_node_can_only_be_seen_by_a_trial():
    [(level, text)] = pool_says("model cache", model_cache={"host_path": "/srv/models"})

    assert (level, "/srv/models must be there on every node" in text) == ("unknown", True)


@pytest.mark.parametrize(("found", "level"), [({}, "ok"), (MISSING, "problem"), (HIDDEN, "unknown")])
def test_secrets_and_other_references(found, level):
    assert pool_says("reference", found={Reference("image pull secret", "regcred"): found})[0][0] == level


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        ({}, "ok", "would accept"),
        (Refusal(422, "Invalid", 'Job "x" is invalid: spec.y: bad'), "problem", "spec.y: bad"),
        (Refusal(429, "TooManyRequests", "slow down"), "unknown", "slow down"),
    ],
)
def test_the_dry_run(answer, level, text):
    [(found, line)] = pool_says("job", dry_run=answer)

    assert (found, text in line) == (level, True)


def test_everything_a_pod_refers_to_is_found_once():
    pod = {
        "imagePullSecrets": [{"name": "regcred"}],
        "priorityClassName": "high",
        "volumes": [
            {"persistentVolumeClaim": {"claimName": "models"}},
            {"secret": {"secretName": "cert"}},
            {"configMap": {"name": "prompts"}},
            {"emptyDir": {}},
        ],
        "containers": [
            {
                "env": [
                    {"valueFrom": {"secretKeyRef": {"name": "hf"}}},
                    {"valueFrom": {"configMapKeyRef": {"name": "prompts"}}},
                    {"value": "1"},
                ],
                "envFrom": [{"secretRef": {"name": "cert"}}, {"configMapRef": {"name": "more"}}],
            }
        ],
    }

    assert {(r.kind, r.name) for r in references(pod)} == {
        ("image pull secret", "regcred"),
        ("PriorityClass", "high"),
        ("PersistentVolumeClaim", "models"),
        ("Secret", "cert"),
        ("Secret", "hf"),
        ("ConfigMap", "prompts"),
        ("ConfigMap", "more"),
    }
    assert len(references(pod)) == 7
