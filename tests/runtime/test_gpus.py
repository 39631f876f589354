from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.runtime.gpus import GpuLocks, choose, present_gpus, visible_variable


@pytest.fixture
def machine(tmp_path):
    """Device files and KFD nodes of a made-up machine."""

    def make(nvidia=0, amd=0):
        dev, kfd = tmp_path / "dev", tmp_path / "nodes"
        dev.mkdir()
        for name in [*(f"nvidia{i}" for i in range(nvidia)), "nvidiactl", "nvidia-uvm"]:
            (dev / name).write_text("")
        for node in range(amd + 2):
            (kfd / str(node)).mkdir(parents=True)
            simds = 0 if node < 2 else 1024  # the two CPUs come first
            (kfd / str(node) / "properties").write_text(f"cpu_cores_count 8\nsimd_count {simds}\nmem_banks_count 1\n")
        return {"dev": dev, "kfd_nodes": kfd}

    return make


@pytest.mark.parametrize(
    ("gpus", "env", "names"),
    [
        ({"nvidia": 4}, {}, ("0", "1", "2", "3")),
        ({"amd": 2}, {}, ("0", "1")),
        ({}, {}, ()),
        ({"amd": 8}, {"HIP_VISIBLE_DEVICES": "4, 5"}, ("4", "5")),
        ({"nvidia": 8}, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, ("GPU-a", "GPU-b")),
        ({"nvidia": 8}, {"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,1"}, ()),
    ],
)
def test_gpus_of_a_machine_are_those_this_process_may_see(machine, gpus, env, names):
    assert present_gpus(env, **machine(**gpus)) == names


def test_the_variable_follows_the_vendor():
    assert visible_variable("mi355x") == "HIP_VISIBLE_DEVICES"
    assert visible_variable({"name": "mi400", "like": "mi355x"}) == "HIP_VISIBLE_DEVICES"
    assert visible_variable("b200") == "CUDA_VISIBLE_DEVICES"
    assert visible_variable("unheard-of") in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("free", "count", "chosen"),
    [
        ("01234567", 4, "0123"),
        ("234567", 4, "4567"),
        ("23456", 4, "2345"),
        ("123", 2, "23"),
        ("01", 4, ""),
        ("01", 0, ""),
    ],
)
def test_an_aligned_block_is_taken_first(free, count, chosen):
    assert choose(tuple(free), tuple("01234567"), count) == tuple(chosen)


@given(st.sets(st.sampled_from("01234567")), st.integers(0, 9))
def test_a_choice_is_of_the_free_ones_and_complete_or_nothing(free, count):
    chosen = choose(sorted(free), tuple("01234567"), count)
    assert set(chosen) <= free
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) == (count if count <= len(free) else 0)


def test_a_lock_is_held_until_its_descriptor_is_closed(tmp_path):
    locks = GpuLocks(tmp_path / "locks")
    held = locks.take("GPU-a/../b")
    assert held is not None
    assert locks.take("GPU-a/../b") is None
    os.close(held)
    again = locks.take("GPU-a/../b")
    assert again is not None
    os.close(again)
