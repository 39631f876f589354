"""From a pool of the space file and the command line to a target."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from support.targets import TUNER_IMAGE, a_pool, a_target

from tuner.errors import UsageError
from tuner.runtime.kubernetes.target import Source, target_of


def test_a_target_says_everything_the_pool_says():
    target = a_target(
        gpus_per_node=4,
        max_nodes=3,
        exclusive=False,
        autoscale={"wait": "20m"},
        compile_cache={"host_path": "/k"},
        files={"secret": "prompts"},
        queue="night",
    )
    assert (target.pool, target.image, target.tuner_image) == ("here", "registry.example/sglang:v1", TUNER_IMAGE)
    assert (target.vendor, target.accelerator, target.gpu_resource) == ("amd", "mi355x", "amd.com/gpu")
    assert (target.gpus_per_node, target.max_nodes, target.exclusive) == (4, 3, False)
    assert target.autoscale_wait_s == 1200.0
    assert target.model_cache is None
    assert target.compile_cache == Source(host_path="/k")
    assert target.files == Source(secret="prompts")
    assert target.queue == "night"


def test_a_pool_that_does_not_scale_waits_for_nothing():
    assert a_target().autoscale_wait_s is None


@pytest.mark.parametrize(
    ("pool", "option", "expected"), [(None, None, None), (None, "o", "o"), ("p", None, "p"), ("p", "o", "p")]
)
def test_the_command_line_stands_in_where_a_pool_says_nothing_of_its_cluster(pool, option, expected):
    """Pools of one search may lie in several clusters: one option must not move them all."""
    keys = {"namespace": pool, "context": pool} if pool else {}
    target = target_of("here", a_pool(**keys), namespace=option, context=option, tuner_image=TUNER_IMAGE)
    assert (target.namespace, target.context) == (expected, expected)


def test_without_a_tuner_image_nothing_could_run():
    with pytest.raises(UsageError, match="--tuner-image"):
        target_of("here", a_pool(), namespace=None, context=None, tuner_image="")


def test_an_unusable_patch_is_refused_before_anything_is_created():
    with pytest.raises(UsageError, match=r"pools\.here\.pod_patch\.hostIPC"):
        a_target(pod_patch={"hostIPC": True})


def test_a_secret_in_the_pools_environment_is_refused_without_its_value():
    with pytest.raises(UsageError, match=r"pools\.here\.env: HF_TOKEN") as refused:
        a_target(env={"HF_TOKEN": "veryveryhidden"})
    assert "veryveryhidden" not in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"files": {"pvc": "a", "secret": "b"}},
        {"files": {}},
        {"namespace": "Not_A_Label"},
        {"namespace": "n" * 64},
        {"queue": "q q"},
        {"context": ""},
    ],
)
def test_what_no_cluster_would_take_is_refused_with_the_file(keys):
    with pytest.raises(ValidationError):
        a_pool(**keys)
