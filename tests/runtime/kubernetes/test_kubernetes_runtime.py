"""The runtime against the fake cluster: what a controller does when clusters, nodes, and controllers let it down."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.clusters import UID, runtime_on, site_on, spec_of, target
from support.fake_cluster import FakeCluster
from support.fake_cluster.store import stamp
from support.kube_cases import QUICK
from support.trials import wait_for

from tuner.errors import RuntimeUnusable, UsageError
from tuner.runtime.kubernetes.assemble import check_sites, places_of
from tuner.runtime.kubernetes.client import connect
from tuner.runtime.kubernetes.names import FINALIZER
from tuner.runtime.kubernetes.outage import Allowance, Outage
from tuner.runtime.kubernetes.place import Place
from tuner.runtime.kubernetes.runtime import KubernetesRuntime
from tuner.runtime.protocol import Ended, Stage

SAMPLE = {"here": spec_of("may-i")}


@pytest.fixture
def cluster(tmp_path):
    with FakeCluster(tmp_path / "cluster", runner=QUICK) as made:
        made.node("node-1")
        made.node("node-2")
        yield made


class Clock:
    """Goes on by sleeping alone, and that ten times as fast: how slow the machine is makes no difference."""

    now_s = 0.0

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds
        time.sleep(seconds / 10)


def ended(runtime, count=1, within_s=60.0):
    found = []
    give_up_s = time.monotonic() + within_s
    while len(found) < count and time.monotonic() < give_up_s:
        found += [notice for notice in runtime.poll(0.2) if isinstance(notice, Ended)]
    assert len(found) == count
    return found


def stages(runtime, word, within_s=60.0):
    give_up_s = time.monotonic() + within_s
    seen = []
    while time.monotonic() < give_up_s:
        seen += [notice.text for notice in runtime.poll(0.2) if isinstance(notice, Stage)]
        if any(word in text for text in seen):
            return seen
    raise AssertionError(seen)


def running(cluster, count=1):
    def found():
        pods = [p for p in cluster.pods() if p["status"]["phase"] == "Running"]
        return pods[:count] if len(pods) >= count else None

    return wait_for(found, f"{count} running pods")


def clean(cluster):
    wait_for(lambda: not cluster.jobs() and not cluster.pods() and not cluster.processes(), "an empty namespace")


# --- the ordinary way


def test_a_result_comes_with_its_node_its_image_and_the_time_its_gpus_were_held(cluster):
    runtime = runtime_on(cluster)
    runtime.start(spec_of("t-1", gpus=4))
    (notice,) = ended(runtime)
    result = notice.result
    assert (result.state, result.node) == ("measured", "node-1")
    assert result.image_digest.startswith("sha256:")
    (container,) = cluster.kubelet.containers.values()
    held_s = time.time() - container.bound_at
    assert 0.1 <= result.gpu_seconds <= 4 * held_s, "the runner's own 0.1 s, or what whole seconds make of it"
    runtime.release("t-1")
    runtime.close()
    clean(cluster)


def test_deletion_takes_the_pods_along_and_names_the_job_by_its_uid(cluster):
    runtime = runtime_on(cluster)
    runtime.start(spec_of("t-1"))
    ended(runtime)
    (job,) = cluster.jobs()
    assert FINALIZER in cluster.pods()[0]["metadata"]["finalizers"], "nothing may take the result before it is recorded"
    cluster.store.delete("jobs", "demo", job["metadata"]["name"])
    again = cluster.store.create(
        "jobs",
        "demo",
        {"metadata": {"name": job["metadata"]["name"]}, "spec": job["spec"] | {"suspend": True}, "status": {}},
    )
    runtime.release("t-1")
    assert [j["metadata"]["uid"] for j in cluster.jobs()] == [again["metadata"]["uid"]], "another's job of that name"


def test_a_trial_that_finds_no_room_waits_and_is_not_charged(slow):
    runtime = runtime_on(slow)
    specs = [spec_of(f"t-{n}", gpus=8) for n in range(3)]
    for spec in specs:
        runtime.start(spec)
    stages(runtime, "waiting for a free node")
    running(slow, 2)
    waiting = next(p for p in slow.pods() if p["status"]["phase"] == "Pending")["metadata"]["labels"][
        "sglang-tuner/trial"
    ]
    first = running(slow)[0]
    runtime.release(first["metadata"]["labels"]["sglang-tuner/trial"])
    taken = wait_for(
        lambda: [
            p
            for p in slow.pods()
            if p["status"]["phase"] == "Running" and waiting == p["metadata"]["labels"]["sglang-tuner/trial"]
        ],
        "the next trial on the node that is free",
    )
    assert taken[0]["spec"]["nodeName"] == first["spec"]["nodeName"]


def test_of_many_trials_that_ended_the_first_are_told_before_the_others_are_read(cluster):
    """A log takes 0.6 s here: two of them are what a poll may take; no new look is needed for the rest."""
    for n in (3, 4):
        cluster.node(f"node-{n}")
    site = site_on(cluster)
    site.every_s = 2.5
    clock = lambda: 0.6 * sum("/log" in path for path in cluster.requests("GET"))  # noqa: E731
    runtime = KubernetesRuntime({"here": Place(target(), site, 2, 1)}, clock=clock, sleep=lambda _s: None)
    for n in range(4):
        runtime.start(spec_of(f"t-{n}"))
    wait_for(lambda: [p["status"]["phase"] for p in cluster.pods()] == ["Succeeded"] * 4, "all to end")
    for second, trial in enumerate(("t-2", "t-0", "t-3", "t-1")):
        (pod,) = [p for p in cluster.pods() if p["metadata"]["labels"]["sglang-tuner/trial"] == trial]
        ended_at(cluster, pod["metadata"]["name"], f"2026-08-28T10:00:0{second}Z")
    assert [notice.trial_id for notice in runtime.poll(0.0)] == ["t-2", "t-0"]
    runtime.release("t-2")
    asked = len(cluster.requests("GET"))
    assert [notice.trial_id for notice in runtime.poll(0.0)] == ["t-3", "t-1"]
    assert all("/log" in path for path in cluster.requests("GET")[asked:])
    assert not runtime.poll(0.0), "each is told once"


def ended_at(cluster, pod, when):
    def end(held):
        held["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = when

    cluster.store.update("pods", "demo", pod, end)


# --- after a restart


def test_a_new_controller_adopts_what_runs_and_harvests_what_ended(cluster):
    first = runtime_on(cluster)
    for n in (1, 2):
        first.start(spec_of(f"t-{n}"))
    first.close()
    wait_for(lambda: all(p["status"]["phase"] == "Succeeded" for p in cluster.pods()) and cluster.pods(), "both to end")
    second = runtime_on(cluster)
    assert second.reconcile(UID, {"t-1": 1, "t-2": 1, "t-3": 1}) == {
        "t-1": "finished",
        "t-2": "finished",
        "t-3": "gone",
    }
    assert {notice.result.state for notice in ended(second, 2)} == {"measured"}
    assert len(cluster.kubelet.containers) == 2, "nothing ran again"


def test_a_new_controller_removes_what_it_does_not_expect_and_leaves_other_studies_alone(slow):
    first, other = runtime_on(slow), runtime_on(slow)
    first.start(spec_of("t-1"))
    spec = spec_of("t-1")
    other.start(replace(spec, context={**spec.context, "study_uid": "uid-2"}))
    running(slow, 2)
    second = runtime_on(slow)
    assert second.reconcile(UID, {"t-1": 2}) == {"t-1": "gone"}
    second.close()
    wait_for(lambda: len(slow.pods()) == 1, "our own pod to go")
    assert slow.pods()[0]["metadata"]["labels"]["sglang-tuner/study-uid"] == "uid-2"


def test_a_job_that_appears_late_is_swept_away(slow):
    """The request of a controller that was killed may arrive after its successor has looked."""
    second = runtime_on(slow)
    second.reconcile(UID, {})
    second.start(spec_of("t-2"))
    runtime_on(slow).start(spec_of("t-1"))
    second.poll(1.0)
    wait_for(lambda: second.poll(0.1) is not None and len(slow.jobs()) == 1, "the late job to go")
    assert "t-2" in slow.jobs()[0]["metadata"]["name"]


def test_closing_leaves_trials_running_unless_they_are_to_be_cancelled(slow):
    leaving, cancelling = runtime_on(slow), runtime_on(slow, cancel=True)
    leaving.start(spec_of("t-1"))
    running(slow)
    leaving.close()
    assert len(slow.processes()) == 1
    cancelling.reconcile(UID, {"t-1": 1})
    cancelling.close()
    clean(slow)


# --- creating


def test_a_lost_answer_to_create_is_found_out_by_uid_and_specification(cluster):
    runtime = runtime_on(cluster)
    first = runtime_on(cluster)
    first.start(spec_of("t-1"))
    runtime.start(spec_of("t-1"))
    assert len(cluster.jobs()) == 1
    assert ended(runtime)[0].result.state == "measured"


def test_a_name_that_another_specification_has_is_an_infrastructure_failure(slow):
    runtime_on(slow).start(spec_of("t-1", seed=1))
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1", seed=2))
    (notice,) = ended(runtime)
    assert (notice.result.failure.failure_class, notice.result.failure.kind) == ("infrastructure", "name_taken")
    assert "get jobs.batch" in slow.api.used, "the right to read a Job is needed for this"


@pytest.mark.parametrize(("status", "message"), [(0, ""), (429, "slow down"), (503, "no leader"), (500, "oops")])
def test_a_server_out_of_order_is_ridden_out(cluster, status, message):
    cluster.fault("POST", "/jobs$", status, "", message)
    cluster.fault("GET", "/pods$", status, "", message)
    cluster.fault("GET", "/log$", status, "", message, times=2)  # one may hit a look at its end
    cluster.fault("DELETE", "/jobs/", status, "", message)
    cluster.fault("PATCH", "/pods/", status, "", message)
    clock = Clock()
    runtime = runtime_on(cluster, clock=clock, sleep=clock.sleep)
    runtime.start(spec_of("t-1"))
    assert ended(runtime)[0].result.state == "measured"
    runtime.release("t-1")
    runtime.close()
    clean(cluster)


def test_a_quota_that_is_used_up_is_waited_for(slow):
    slow.quota("jobs", {"count/jobs.batch": "1"})
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    runtime.start(spec_of("t-2"))
    stages(runtime, "quota jobs is used up")
    running(slow)
    runtime.release("t-1")
    wait_for(lambda: runtime.poll(0.1) is not None and any("t-2" in j["metadata"]["name"] for j in slow.jobs()), "t-2")


def test_a_quota_smaller_than_one_trial_ends_the_search_and_leaves_nothing(cluster):
    cluster.quota("gpus", {"requests.amd.com/gpu": "4"})
    runtime = KubernetesRuntime({"here": Place(target(), site_on(cluster), 2, 8)})
    with pytest.raises(RuntimeUnusable, match="quota gpus is smaller than one trial"):  # noqa: PT012
        runtime.start(spec_of("t-1", gpus=8))
        ended(runtime)
    runtime.close()
    clean(cluster)


def test_an_image_that_does_not_exist_ends_the_search_and_leaves_nothing(cluster):
    cluster.kubelet.missing_images.add("stock:1")
    runtime = runtime_on(cluster)
    with pytest.raises(RuntimeUnusable, match="stock:1 cannot be pulled"):  # noqa: PT012
        runtime.start(spec_of("t-1"))
        ended(runtime)
    runtime.close()
    clean(cluster)


@pytest.mark.parametrize("before", ["ended by itself", "was evicted", "runs", "runs since another controller"])
def test_an_image_that_is_gone_after_a_trial_ran_costs_the_next_trial_only(slow, before):
    """Whatever became of the trial that ran: what is wrong now was not wrong in the space file."""
    if before == "ended by itself":
        slow.kubelet.env["QUICK_RUNNER_S"] = "0.1"
    if before == "was evicted":
        slow.plan("evict")
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    if before in ("ended by itself", "was evicted"):
        ended(runtime)
    else:
        has_run_for_a_minute(slow, *running(slow))
    slow.kubelet.missing_images.add("stock:1")
    runtime.start(spec_of("t-2"))
    if before == "runs since another controller":
        wait_for(lambda: "ImagePullBackOff" in str(slow.pods()), "the pull to fail")
        runtime.close()
        runtime = runtime_on(slow)
        assert runtime.reconcile(UID, {"t-2": 1, "t-1": 1}) == {"t-2": "running", "t-1": "running"}
    (notice,) = ended(runtime)
    failure = notice.result.failure
    assert (notice.trial_id, failure.failure_class, failure.kind) == ("t-2", "infrastructure", "image_pull")


def has_run_for_a_minute(cluster, pod):
    def change(held):
        (status,) = held["status"]["containerStatuses"]
        status["state"]["running"]["startedAt"] = stamp(datetime.now(UTC) - timedelta(minutes=1))

    cluster.store.update("pods", "demo", pod["metadata"]["name"], change)


# --- what happens to pods


@pytest.mark.parametrize(
    ("what", "failure_class", "kind"),
    [
        ("oom", "configuration", "host_oom"),
        ("evict", "infrastructure", "evicted"),
        ("pressure", "infrastructure", "evicted"),
        ("lose_node", "infrastructure", "node_lost"),
        ("delete", "infrastructure", "interrupted"),
    ],
)
def test_a_pod_that_is_taken_away_ends_its_trial_by_its_own_class(slow, what, failure_class, kind):
    slow.plan(what)
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    (notice,) = ended(runtime)
    assert (notice.result.failure.failure_class, notice.result.failure.kind) == (failure_class, kind)
    assert notice.result.node == "node-1"
    runtime.release("t-1")
    runtime.close()
    if what != "lose_node":  # a pod of a lost node stays until somebody removes the node
        clean(slow)


def test_a_job_that_somebody_deleted_is_an_infrastructure_failure(slow):
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    running(slow)
    slow.store.delete("jobs", "demo", slow.jobs()[0]["metadata"]["name"])
    assert ended(runtime)[0].result.failure.failure_class == "infrastructure"


def test_another_image_under_the_same_tag_is_an_infrastructure_failure(slow):
    slow.kubelet.digests["node-2/stock:1"] = "sha256:other"
    runtime = runtime_on(slow)
    for n in (1, 2):
        runtime.start(spec_of(f"t-{n}"))
    (notice,) = ended(runtime)
    assert notice.result.failure.kind == "image_changed"
    assert "another image under the same tag" in notice.result.failure.message
    again = runtime_on(slow, pins={"stock:1": "sha256:as-it-was"})
    again.reconcile(UID, {"t-1": 1})
    assert ended(again)[0].result.failure.kind == "image_changed"


# --- a server that stays away, or refuses


def test_a_long_outage_makes_the_runtime_unusable_and_says_that_trials_go_on(slow):
    site = site_on(slow)
    site.outage = Outage(limit_s=1.0)
    runtime = KubernetesRuntime({"here": Place(target(), site, 2, 1)})
    runtime.start(spec_of("t-1"))
    running(slow)
    slow.api.down = True
    with pytest.raises(RuntimeUnusable, match="its trials go on"):
        ended(runtime)
    assert slow.processes()
    slow.api.down = False


@pytest.mark.parametrize(
    ("status", "reason", "message", "says"),
    [
        (401, "Unauthorized", "Unauthorized", "credentials"),
        (403, "Forbidden", 'pods is forbidden: User "u" cannot list resource "pods" in API group ""', "no permission"),
    ],
)
def test_a_refusal_makes_the_runtime_unusable_at_once(cluster, status, reason, message, says):
    runtime = runtime_on(cluster)
    cluster.fault("GET", "/pods$", status, reason, message)
    with pytest.raises(RuntimeUnusable, match=says):
        runtime.reconcile(UID, {})


def test_a_token_that_is_replaced_while_trials_run_is_read_anew(slow):
    """Service-account tokens are rotated, and people log in again."""
    slow.api.token = "monday"
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    running(slow)
    slow.api.token = "tuesday"
    stages(runtime, "does not accept the credentials")
    slow.kubeconfig(slow.folder / "kubeconfig")  # somebody logs in
    slow.strike("oom", slow.pods()[0])
    assert ended(runtime)[0].result.failure.kind == "host_oom"


def test_pauses_grow_to_half_a_minute_and_heed_what_the_server_says():
    outage, pauses = Outage(), []
    for _ in range(7):
        outage.note(100.0, "down")
        pauses.append(outage.next_try_s - 100.0)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    outage.note(100.0, "busy", retry_after_s=45.0)
    assert outage.next_try_s == 145.0
    assert not outage.too_long(1800.0)
    assert outage.too_long(2000.0)
    outage.over()
    assert (outage.lasts_s(3000.0), outage.next_try_s) == (0.0, 0.0)


def test_the_allowance_is_one_request_a_second_on_average():
    allowance = Allowance()
    allowance.spend(0.0, 20)
    assert not allowance.has(0.5)
    assert allowance.has(1.0)
    assert not allowance.has(100.0, 21)


# --- before anything is created


@pytest.fixture
def kubeconfig(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "config", contexts=("fake", "other"))))
    return tmp_path / "config"


def places(pool=None, **options):
    given = {"namespace": None, "context": None, "tuner_image": "tuner:1", **options}
    from support.targets import a_pool

    return places_of({"here": a_pool(image="stock:1", **(pool or {}))}, [8], **given)


def test_a_cluster_that_can_run_the_search_is_told_nothing_and_holds_nothing(cluster, kubeconfig):
    assert check_sites(places(), SAMPLE) == []
    assert cluster.jobs() == []


def test_a_full_quota_is_a_remark(cluster, kubeconfig):
    cluster.quota("jobs", {"count/jobs.batch": "1"})
    cluster.store.create("jobs", "demo", {"metadata": {"name": "theirs"}, "spec": {"suspend": True}, "status": {}})
    (remark,) = check_sites(places(), SAMPLE)
    assert "quota jobs is used up" in remark


def test_nodes_that_may_not_be_listed_are_a_remark(cluster, kubeconfig):
    from tuner.runtime.kubernetes.rights import NEEDED

    cluster.api.allowed = {str(right) for right in NEEDED}
    (remark,) = check_sites(places(), SAMPLE)
    assert "nodes may not be listed" in remark


@pytest.mark.parametrize(
    ("spoil", "options", "pool", "says"),
    [
        (lambda c: None, {"namespace": "nope"}, {}, "no namespace nope"),
        (lambda c: setattr(c.api, "allowed", {"list pods"}), {}, {}, "no permission to create jobs.batch"),
        (lambda c: setattr(c.api, "token", "secret"), {}, {}, "credentials"),
        (lambda c: setattr(c.api, "down", True), {}, {}, "does not answer"),
        (lambda c: None, {}, {"accelerator": "b200"}, "none of 2 nodes advertises nvidia.com/gpu"),
        (lambda c: None, {}, {"node_selector": {"a": "b"}}, "without label a=b"),
        (lambda c: None, {}, {"pod_patch": {"spec": {"nodeNmae": "x"}}}, "unknown field .*nodeNmae"),
    ],
)
def test_a_cluster_that_cannot_is_refused_before_anything_is_created(cluster, kubeconfig, spoil, options, pool, says):
    made = places(pool, **options)
    spoil(cluster)
    with pytest.raises(RuntimeUnusable, match=says):
        check_sites(made, SAMPLE)
    cluster.api.down = False
    assert cluster.jobs() == []


def test_a_pool_has_the_slots_of_its_nodes_and_its_own_context_and_namespace(cluster, kubeconfig):
    pool = {"max_nodes": 3, "exclusive": False, "context": "other", "namespace": "ours"}
    place = places(pool, context="fake", namespace="theirs")["here"]
    assert place.slots == 3
    assert place.site.cluster.namespace == "ours"
    assert (
        places_of({"here": place_pool(exclusive=False)}, [2, 4], namespace=None, context=None, tuner_image="t")[
            "here"
        ].slots
        == 4
    )


def place_pool(**changes):
    from support.targets import a_pool

    return a_pool(image="stock:1", **changes)


@pytest.mark.parametrize(
    ("config", "context", "says"),
    [
        ("", "nope", "context nope: not in .*fake, other"),
        ("", "othr", "did you mean 'other'"),
        ("/nonexistent/config", None, "no usable kubeconfig at /nonexistent/config"),
    ],
)
def test_a_kubeconfig_that_does_not_help_is_named(cluster, kubeconfig, monkeypatch, config, context, says):
    if config:
        monkeypatch.setenv("KUBECONFIG", config)
    with pytest.raises(UsageError, match=says):
        connect(context, None)


@pytest.mark.parametrize(
    ("text", "context", "says"),
    [
        ("", None, "no usable kubeconfig at .*empty"),
        ("a: [", None, "no usable kubeconfig at .*while parsing a flow node"),
        ("- a", None, "its shape is not a kubeconfig's"),
        ("current-context: gone", None, "the current context gone: not in"),
        ("contexts: [{name: a, context: {}}]", None, r"has no current context; name one with --context \(a\)"),
        ("contexts: [{name: a, context: {cluster: c, user: u}}]", "a", "context a cannot be used: .*clusters"),
    ],
)
def test_what_is_wrong_with_a_kubeconfig_is_said(tmp_path, monkeypatch, text, context, says):
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(UsageError, match=says):
        connect(context, None)


def test_of_several_kubeconfigs_the_first_says_which_context_is_current(cluster, tmp_path, monkeypatch):
    """As kubectl has it: trials must not go to another cluster than the one that it shows."""
    mine = cluster.kubeconfig(tmp_path / "mine", contexts=("mine", "spare"), namespace="of-mine")
    theirs = cluster.kubeconfig(tmp_path / "theirs", contexts=("theirs",), namespace="of-theirs")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{mine}:{theirs}")
    assert connect(None, None).namespace == "of-mine"
    assert connect("theirs", None).namespace == "of-theirs"


def test_the_namespace_is_the_contexts_own_unless_it_is_given(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "config", namespace="theirs")))
    assert connect(None, None).namespace == "theirs"
    assert connect(None, "ours").namespace == "ours"
    assert os.environ["KUBECONFIG"]
