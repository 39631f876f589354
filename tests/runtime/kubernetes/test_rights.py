"""The table of permissions, what the client really asks for, and what rbac.yaml grants are one and the same."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tuner.runtime.kubernetes.client import Cluster
from tuner.runtime.kubernetes.rights import HELPFUL, NEEDED

K8S = Path(__file__).parents[3] / "k8s"
POD = {"metadata": {"name": "p", "uid": "u"}}
CALLS: dict[str, tuple[Any, ...]] = {
    "list_trials": ("a=b",),
    "list_jobs": ("a=b",),
    "list_pods": ("a=b",),
    "read_job": ("j",),
    "create_job": ({"metadata": {"name": "j"}},),
    "delete_job": ("j", "u"),
    "remove_finalizer": (POD, "f"),
    "pod_log": ("p", "trial"),
    "events": ("u",),
    "nodes": (),
}
# Reviews of one's own permissions, and a read of whatever path the caller names: doctor's, which may be refused.
OTHERS = {"can_i", "get"}
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/(?:namespaces/(?P<ns>[^/]+)/)?(?P<resource>\w+)(?:/(?P<name>\w+))?(?:/(?P<sub>\w+))?"
)


class RecordingApi:
    """Answers everything with nothing, and keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def param_serialize(self, method: str, path: str, *_rest: Any, **_options: Any) -> tuple[str, str]:
        return method, path

    def call_api(self, method: str, path: str, **_options: Any) -> Any:
        self.asked.append((method, path))
        return Answer()


class Answer:
    status = 200

    def read(self) -> bytes:
        return json.dumps({"items": []}).encode()

    def getheader(self, _name: str) -> None:
        return None


def permission(method: str, path: str) -> tuple[str, str, str, bool]:
    """(verb, group, resource, everywhere) that the server checks for a request."""
    found = PATH.fullmatch(path)
    assert found, path
    reading = "get" if found["name"] else "list"
    verb = {"GET": reading, "POST": "create", "DELETE": "delete", "PATCH": "patch"}[method]
    resource = f"{found['resource']}/{found['sub']}" if found["sub"] else found["resource"]
    return verb, found["group"] or "", resource, found["ns"] is None


def granted(file: str) -> set[tuple[str, str, str, bool]]:
    documents = list(yaml.safe_load_all((K8S / file).read_text()))
    return {
        (verb, group, resource, document["kind"] == "ClusterRole")
        for document in documents
        if document["kind"] in ("Role", "ClusterRole")
        for rule in document["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


TABLE = {(r.verb, r.group, r.of, r.everywhere) for r in (*NEEDED, *HELPFUL)}


def test_the_table_is_what_the_client_asks_for():
    api = RecordingApi()
    for name, arguments in CALLS.items():
        getattr(Cluster(api, "ns"), name)(*arguments)

    assert {permission(*asked) for asked in api.asked} == TABLE


def test_no_request_of_the_client_is_left_out():
    methods = {name for name, _ in inspect.getmembers(Cluster, inspect.isfunction) if not name.startswith("_")}

    assert methods - {"now"} == set(CALLS) | OTHERS


@pytest.mark.parametrize(("file", "rights"), [("rbac.yaml", NEEDED), ("rbac-nodes.yaml", HELPFUL)])
def test_the_shipped_roles_grant_the_table_and_nothing_else(file, rights):
    assert granted(file) == {(r.verb, r.group, r.of, r.everywhere) for r in rights}


@pytest.mark.parametrize("file", ["rbac.yaml", "rbac-nodes.yaml"])
def test_every_rule_says_why(file):
    lines = (K8S / file).read_text().splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("  - apiGroups")]

    assert rules
    assert all(lines[number - 1].lstrip().startswith("#") for number in rules)


def test_rights_read_as_rbac_writes_them():
    assert [str(right) for right in NEEDED if right.verb == "get"] == ["get jobs.batch", "get pods/log"]
