"""What the API server's refusals mean; the texts are those of a 1.36 server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuner.runtime.kubernetes.refusals import call_refused
from tuner.runtime.kubernetes.verdict import Expectation

EXPECTED = Expectation("mi355x", "amd.com/gpu", 8)

RBAC = (
    'pods is forbidden: User "system:serviceaccount:ns:tuner" cannot list resource "pods" in API group "" in the '
    'namespace "ns"'
)
QUOTA = (
    'jobs.batch "b" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=1, '
    "limited: count/jobs.batch=1"
)
NO_QUOTA_AT_ALL = QUOTA.replace("limited: count/jobs.batch=1", "limited: count/jobs.batch=0")
UNEQUAL = (
    'Job.batch "trial" is invalid: spec.template.spec.containers[0].resources.requests: Invalid value: "2": must be '
    "equal to amd.com/gpu limit of 1"
)
TOO_LONG = 'Job.batch "x" is invalid: spec.template.labels: Invalid value: "x": must be no more than 63 bytes'
TERMINATING = "unable to create new content in namespace ns because it is being terminated"


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind", "failure_kind", "said"),
    [
        (None, "", "connection refused", "waiting", "", "does not answer while creating job x: connection refused"),
        (429, "TooManyRequests", "", "waiting", "", "TooManyRequests"),
        (500, "InternalError", "failed calling webhook", "waiting", "", "500"),
        (503, "ServiceUnavailable", "", "waiting", "", "busy"),
        (504, "Timeout", "", "waiting", "", "busy"),
        (302, "", "", "waiting", "", "busy"),
        (521, "", "web server is down", "waiting", "", "521"),
        (410, "Expired", "too old resource version", "waiting", "", "410"),
        (409, "Conflict", "the object has been modified", "waiting", "", "modified"),
        (409, "AlreadyExists", 'jobs.batch "x" already exists', "infrastructure", "name_taken", "already exists"),
        (401, "Unauthorized", "Unauthorized", "unusable", "credentials", "log in"),
        (403, "Forbidden", RBAC.replace("serviceaccount:ns:tuner", "anonymous"), "unusable", "credentials", "log in"),
        (403, "Forbidden", RBAC, "unusable", "forbidden", "no permission for list on pods"),
        (403, "Forbidden", QUOTA, "waiting", "", "quota jobs is used up"),
        (403, "Forbidden", NO_QUOTA_AT_ALL, "unusable", "quota", "quota jobs is smaller than one trial"),
        (403, "Forbidden", TERMINATING, "unusable", "no_namespace", "--namespace"),
        (403, "Forbidden", "no idea", "unusable", "forbidden", "creating job x is forbidden - no idea"),
        (404, "NotFound", 'namespaces "nope" not found', "unusable", "no_namespace", "there is no namespace nope"),
        (404, "NotFound", 'jobs.batch "x" not found', "infrastructure", "gone", "repeated"),
        (422, "Invalid", UNEQUAL, "unusable", "refused", "containers[0].resources.requests: Invalid value"),
        (422, "Invalid", TOO_LONG, "unusable", "refused", "must be no more than 63 bytes"),
        (
            400,
            "BadRequest",
            'strict decoding error: unknown field "spec.x"',
            "unusable",
            "refused",
            'unknown field "sp',
        ),
        (405, "MethodNotAllowed", "", "unusable", "refused", "MethodNotAllowed"),
    ],
)
def test_each_refusal_has_its_consequence_and_names_the_cause(status, reason, message, kind, failure_kind, said):
    found = call_refused(status, reason, message, EXPECTED, "creating job x")

    assert (found.kind, found.failure_kind) == (kind, failure_kind)
    assert said in (found.message or found.stage)


def test_a_quota_of_gpus_below_one_trial_leaves_smaller_ones_their_chance():
    message = (
        "exceeded quota: gpus, requested: requests.amd.com/gpu=8, used: requests.amd.com/gpu=0, "
        "limited: requests.amd.com/gpu=4"
    )

    assert call_refused(403, "Forbidden", message, EXPECTED, "x").kind == "unusable"
    small = replace(EXPECTED, smallest_gpus=4)
    assert call_refused(403, "Forbidden", message, small, "x").kind == "infrastructure"


def test_once_a_trial_has_run_a_refused_manifest_is_that_trials_alone():
    assert call_refused(422, "Invalid", TOO_LONG, replace(EXPECTED, proven=True), "x").kind == "infrastructure"


def test_a_lost_permission_ends_the_search_whatever_ran_before():
    assert call_refused(403, "Forbidden", RBAC, replace(EXPECTED, proven=True), "x").kind == "unusable"


def test_messages_are_one_line():
    assert "\n" not in call_refused(422, "Invalid", "is invalid: [a\n  b]", EXPECTED, "x").message
