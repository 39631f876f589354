"""What the end of a running trial's log says of it, whose log is read when, and what a log that cannot be read does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import pytest
from support.clusters import UID, cluster_of, runtime_on, spec_of
from support.quick_runner import LEVEL
from support.trials import a_spec

from tuner.runtime.kubernetes.client import ApiError
from tuner.runtime.kubernetes.outage import Allowance, Outage
from tuner.runtime.kubernetes.tails import Tails, stage_of
from tuner.runtime.kubernetes.tracked import Tracked
from tuner.runtime.protocol import Stage
from tuner.trial.records import lines_of, read_records

SPEC = a_spec()
BEGIN = ("begin", {"id": SPEC.id, "attempt": SPEC.attempt, "fingerprint": SPEC.fingerprint})
OTHERS = ("begin", {"id": SPEC.id, "attempt": SPEC.attempt + 1, "fingerprint": SPEC.fingerprint})
LOADING, WARMING = ("stage", "loading weights 43 %"), ("stage", "warming up")
HOLDS = ("level", asdict(LEVEL))
SAYS = "level 2.10 req/s: p95 1.20 s, holds"
NOISE = "[2026-08-28 10:00:00] INFO: 127.0.0.1:1 - GET /health 200 tuner-record 7 nonsense\n"


def log_of(*records, first=1):
    return "".join(f"{line}\n" for number, record in enumerate(records, first) for line in lines_of(number, *record))


@pytest.mark.parametrize(
    ("tail", "says"),
    [
        ("", ""),
        (NOISE * 20, ""),
        ("unable to retrieve container logs for containerd://0123", ""),
        (log_of(BEGIN), ""),
        (log_of(BEGIN, LOADING), LOADING[1]),
        (log_of(BEGIN, LOADING, WARMING), WARMING[1]),
        (log_of(LOADING, first=40), LOADING[1]),  # the tail begins after the first record
        (log_of(BEGIN, WARMING, HOLDS), SAYS),
        (log_of(HOLDS, ("stage", "level 2: 4.2 req/s"), first=9), "level 2: 4.2 req/s"),
        (log_of(BEGIN, LOADING) + NOISE * 5 + log_of(HOLDS, first=3) + NOISE, SAYS),
        (log_of(BEGIN, LOADING)[5:] + "Traceback", LOADING[1]),  # its first line is cut
        (log_of(BEGIN, LOADING, HOLDS)[:-9], LOADING[1]),  # its last one is
        (log_of(LOADING, first=3) + log_of(("stage", "x" * 20_000), first=4).partition("\n")[0], LOADING[1]),
        (log_of(LOADING, WARMING).replace("warming", "warning"), LOADING[1]),  # not what was written
        (log_of(OTHERS, LOADING, HOLDS), ""),
        (log_of(BEGIN, LOADING, ("level", {"rate": 1})), LOADING[1]),  # of another version
        (log_of(BEGIN, LOADING, ("level", {**asdict(LEVEL), "ttft_p95_s": "soon"})), LOADING[1]),
        (log_of(BEGIN, WARMING, ("result", {"state": "measured"})), WARMING[1]),
        ("2026-08-28T10:00:00.1Z " + log_of(BEGIN, LOADING).replace("\n", "\r\n"), LOADING[1]),
    ],
)
def test_the_last_whole_stage_or_level_of_this_attempt_is_what_a_trial_does(tail, says):
    assert stage_of(SPEC, tail) == (Stage(SPEC.id, says) if says else None)


def shown(rate):
    return ("level", {**asdict(LEVEL), "capacity_at_most_req_per_s": rate})


@pytest.mark.parametrize(
    ("records", "at_most"),
    [
        ((BEGIN, LOADING), None),
        ((BEGIN, HOLDS), None),  # an older runner's level
        ((BEGIN, shown(3.2), ("stage", "level 2: 3.0 req/s")), 3.2),
        ((BEGIN, shown(3.2), shown(3.0)), 3.0),
        ((BEGIN, shown(3.2), HOLDS), 3.2),
        ((OTHERS, shown(3.2), LOADING), None),  # of another attempt
    ],
)
def test_the_last_level_says_what_the_trial_has_shown_of_its_capacity(records, at_most):
    stage = stage_of(SPEC, log_of(*records))
    assert (stage.capacity_at_most_req_per_s if stage else None) == at_most


# --- whose turn it is


@dataclass
class Site:
    """Logs by pod, and what was asked for."""

    logs: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    every_s: float = 2.5
    outage: Outage = field(default_factory=Outage)

    @property
    def cluster(self):
        return self

    def pod_log(self, pod, container, *, read_s, **cut):
        assert (container, cut["tailLines"] <= 50, cut["limitBytes"] <= 2**17, read_s <= 5) == (
            "trial",
            True,
            True,
            True,
        )
        self.asked.append(pod)
        if pod not in self.logs:
            raise ApiError(500, "InternalError", "Get https://10.0.0.1:10250: context deadline exceeded")
        return self.logs[pod]


@dataclass
class Place:
    site: Site


def trials_at(site, *pods):
    return [Tracked(replace(SPEC, id=f"of-{pod}"), Place(site), {}, created=True, runs_in=pod) for pod in pods]


def read_for(tails, trials, seconds, every_s=2.5):
    """Ask at every look, as the runtime does; what was told, in order."""
    found = [tails.read_next(trials, every_s * look) for look in range(int(seconds / every_s) + 1)]
    runs_in = {trial.spec.id: trial.runs_in for trial in trials}
    return [(runs_in[stage.trial_id], stage.text) for stage in filter(None, found)]


def test_every_running_trial_has_its_turn_and_only_news_is_told():
    site = Site({pod: log_of(LOADING) for pod in "abc"})
    trials = trials_at(site, "a", "b", "c")
    tails = Tails(Allowance())
    assert read_for(tails, trials, 25) == [(pod, LOADING[1]) for pod in "abc"]
    assert site.asked == ["a", "b", "c", "a", "b", "c"], "one every other look"
    site.logs["b"] = log_of(WARMING)
    assert [tails.read_next(trials, 30.0 + 5 * n) for n in range(3)] == [
        None,
        Stage(trials[1].spec.id, WARMING[1]),
        None,
    ]


def test_thirty_two_trials_cost_one_request_in_five_seconds():
    site = Site({str(n): log_of(LOADING) for n in range(32)})
    told = read_for(Tails(Allowance()), trials_at(site, *site.logs), 160)
    assert sorted(pod for pod, _ in told) == sorted(site.logs), "and each is heard of"
    assert len(site.asked) == 33


def test_a_log_that_cannot_be_read_waits_a_minute_and_lets_the_others_go_first():
    site = Site({"b": log_of(LOADING)})
    assert read_for(Tails(Allowance()), trials_at(site, "a", "b"), 55) == [("b", LOADING[1])]
    assert site.asked.count("a") == 1


def test_what_does_not_run_or_cannot_be_afforded_is_not_asked_for():
    site = Site({pod: log_of(LOADING) for pod in "abc"})
    gone, waiting, out = trials_at(site, "a", "", "c")
    gone.ended = True
    out.place = Place(Site(outage=Outage(since_s=1.0)))
    assert read_for(Tails(Allowance()), [gone, waiting, out], 10) == []
    assert read_for(Tails(Allowance(per_s=0.0, left=0.0)), trials_at(site, "a"), 10) == []
    assert site.asked == []


# --- over HTTP


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ({}, ["begin", "stage", "level"]),
        ({"tailLines": 2}, ["stage", "level"]),
        ({"tailLines": 2, "limitBytes": 70}, ["stage"]),  # the first bytes of those two
        ({"limitBytes": 10_000, "tailLines": 0}, []),
    ],
)
def test_a_log_is_cut_by_the_server_as_asked(slow, cut, left):
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    heard(runtime, "t-1", SAYS)
    (pod,) = slow.pods()
    log = cluster_of(slow).pod_log(pod["metadata"]["name"], "trial", **cut)
    assert [record.kind for record in read_records(log.splitlines()).records] == left


def heard(runtime, trial_id, text):
    """Every stage of a trial until this one."""
    seen = []
    for _ in range(600):
        seen += [notice.text for notice in runtime.poll(0.2) if notice.trial_id == trial_id]
        if text in seen:
            return seen
    raise AssertionError(seen)


def test_a_running_trial_says_what_its_runner_does(slow):
    runtime = runtime_on(slow)
    for n in (1, 2):
        runtime.start(spec_of(f"t-{n}"))
    seen = heard(runtime, "t-1", SAYS)
    assert seen[-2].startswith(("running on node", "measuring")), "first the cluster's word, then the runner's"
    asked = [path for path in slow.requests("GET") if "/log" in path]
    assert all("tailLines=" in path and "limitBytes=" in path for path in asked)
    again = runtime_on(slow)
    again.reconcile(UID, {"t-1": 1, "t-2": 1})
    heard(again, "t-2", SAYS)  # also of a trial that another controller began


def test_a_log_that_cannot_be_read_is_no_failure_of_its_trial(slow):
    slow.fault("GET", "/log$", 500, "InternalError", "Get https://10.0.0.1:10250: i/o timeout", times=10**6)
    runtime = runtime_on(slow)
    runtime.start(spec_of("t-1"))
    seen = []
    for _ in range(300):
        seen += runtime.poll(0.2)
        if any("/log" in path for path in slow.requests("GET")):
            break
    seen += runtime.poll(0.5)
    assert any("/log" in path for path in slow.requests("GET"))
    assert all(isinstance(notice, Stage) for notice in seen)
