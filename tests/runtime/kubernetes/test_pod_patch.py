"""Strategic merge by the API's rules, and what of it is refused."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import UsageError
from tuner.runtime.kubernetes.patch import check_patch, merged

A = {"name": "A", "value": "1"}
BASE = {
    "metadata": {"labels": {"a": "1"}, "finalizers": ["ours"]},
    "spec": {
        "hostIPC": False,
        "nodeSelector": {"a": "1", "b": "2"},
        "tolerations": [{"key": "a"}],
        "containers": [
            {"name": "one", "env": [A, {"name": "B", "value": "2"}], "args": ["x"]},
            {"name": "two"},
        ],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}, {"name": "w", "emptyDir": {}}],
    },
}


@pytest.mark.parametrize(
    ("patch", "place", "becomes"),
    [
        ({"hostIPC": True}, "hostIPC", True),
        ({"nodeSelector": {"b": "3", "c": "4"}}, "nodeSelector", {"a": "1", "b": "3", "c": "4"}),
        ({"nodeSelector": {"b": None}}, "nodeSelector", {"a": "1"}),
        ({"nodeSelector": {"$patch": "replace", "z": "1"}}, "nodeSelector", {"z": "1"}),
        ({"nodeSelector": {"$patch": "delete"}}, "nodeSelector", None),
        ({"nodeSelector": None}, "nodeSelector", None),
        ({"tolerations": [{"key": "b"}]}, "tolerations", [{"key": "b"}]),
        ({"dnsConfig": {"searches": ["x"]}}, "dnsConfig", {"searches": ["x"]}),
        (
            {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]},
            "volumes",
            [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}, {"name": "w", "emptyDir": {}}],
        ),
        (
            {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}, {"name": "w", "$patch": "delete"}]},
            "volumes",
            [{"name": "v", "hostPath": {"path": "/x"}}],
        ),
        ({"volumes": [{"$patch": "replace"}, {"name": "only"}]}, "volumes", [{"name": "only"}]),
        ({"volumes": [{"$patch": "replace", "name": "only"}]}, "volumes", [{"name": "only"}]),
        ({"containers": [{"name": "one", "$patch": "delete"}]}, "containers", [{"name": "two"}]),
        (
            {"containers": [{"name": "one", "args": ["y"], "env": [{"name": "B", "value": "3"}, {"name": "C"}]}]},
            "containers",
            [{"name": "one", "env": [A, {"name": "B", "value": "3"}, {"name": "C"}], "args": ["y"]}, {"name": "two"}],
        ),
    ],
)  # fmt: skip
def test_a_patch_merges_as_the_api_would(patch, place, becomes):
    before = copy.deepcopy(BASE)
    check_patch({"spec": patch}, "p")
    assert merged(BASE, {"spec": patch})["spec"].get(place) == becomes
    assert before == BASE


def test_finalizers_are_a_set():
    assert merged(BASE, {"metadata": {"finalizers": ["ours", "theirs"]}})["metadata"]["finalizers"] == [
        "ours",
        "theirs",
    ]


@given(
    st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)
)
def test_the_same_patch_twice_changes_nothing_more(value):
    once = merged(BASE, {"spec": {"x": value}})
    assert merged(once, {"spec": {"x": value}}) == once


def test_an_empty_patch_changes_nothing():
    assert merged(BASE, {}) == BASE


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"hostIPC": True}, "p.hostIPC: a pod template has metadata and spec"),
        (
            {"spec": {"containers": [{"env": []}]}},
            "p.spec.containers.0: says no name; items of containers are merged by it",
        ),
        ({"spec": {"containers": ["one"]}}, "p.spec.containers.0: must be a mapping with name"),
        (
            {"spec": {"volumes": [{"name": "v", "$patch": "merge"}]}},
            "p.spec.volumes.0.$patch: is one of delete, replace",
        ),
        ({"spec": {"$retainKeys": ["a"]}}, "p.spec.$retainKeys: this directive is not supported"),
        ({"spec": {"$setElementOrder/containers": []}}, "this directive is not supported"),
        (
            {"spec": {"containers": [{"name": "trial", "env": [{"name": "HF_TOKEN", "value": "abc"}]}]}},
            "p.spec.containers.0.env.0: HF_TOKEN looks like a secret",
        ),
        ({"spec": {"containers": [{"name": "t", "volumeMounts": [{"name": "x"}]}]}}, "says no mountPath"),
    ],
)
def test_what_cannot_be_merged_or_would_show_a_secret_is_refused_with_its_place(patch, says):
    with pytest.raises(UsageError) as refused:
        check_patch(patch, "p")
    assert says in str(refused.value)
    assert "abc" not in str(refused.value)
