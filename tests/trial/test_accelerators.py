"""GPUs told from a made-up /sys, /dev and nvidia-smi."""

from __future__ import annotations

import pytest

from tuner.trial.accelerators import Memory, _output, memory_in_use, parse_smi, visible

GIB = 2**30


@pytest.fixture
def machine(tmp_path):
    """Places to look at; without arguments there is nothing."""

    def make(amd=(), kfd=True, hidden=(), smi=""):
        for index, used_gib in enumerate(amd):
            minor = 128 + index
            device = tmp_path / f"class/drm/card{index}/device"
            (device / f"drm/renderD{minor}").mkdir(parents=True)
            (tmp_path / f"class/drm/renderD{minor}").mkdir()
            (tmp_path / f"class/drm/renderD{minor}/device").symlink_to(device)
            (device / "mem_info_vram_total").write_text(f"{288 * GIB}\n")
            (device / "mem_info_vram_used").write_text(f"{used_gib * GIB}\n")
            node = tmp_path / f"class/kfd/kfd/topology/nodes/{index + 1}"
            if kfd:
                node.mkdir(parents=True)
                text = f"simd_count 1024\nunique_id {0xABC0 + index}\ndrm_render_minor {minor}\n"
                (node / "properties").write_text("" if index in hidden else text)
            (tmp_path / "dri").mkdir(exist_ok=True)
            if index not in hidden:
                (tmp_path / f"dri/renderD{minor}").write_text("")
        if amd and kfd:
            cpu = tmp_path / "class/kfd/kfd/topology/nodes/0"
            cpu.mkdir()
            (cpu / "properties").write_text("simd_count 0\ndrm_render_minor 0\n")
        program = tmp_path / "nvidia-smi"
        if smi:
            program.write_text(f"#!/bin/sh\n{smi}\n")
            program.chmod(0o755)
        return {"sys_class": tmp_path / "class", "dev_dri": tmp_path / "dri", "nvidia_smi": str(program)}

    return make


def used(memories):
    return [memory.used_bytes // GIB for memory in memories]


@pytest.mark.parametrize(
    ("env", "gpus", "seen"),
    [
        ({}, 4, [0, 10, 20, 30]),
        ({}, 2, [0, 10]),
        ({"HIP_VISIBLE_DEVICES": "2,3"}, 4, [20, 30]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, 1, [30]),
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, 1, [30]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-abc1"}, 1, [10]),
        ({"HIP_VISIBLE_DEVICES": ""}, 1, []),
        ({"HIP_VISIBLE_DEVICES": "1,9,2"}, 3, [10]),
    ],
)
def test_amd_gpus_are_those_the_trial_sees_in_hips_order(machine, env, gpus, seen):
    places = machine(amd=(0, 10, 20, 30))
    assert used(memory_in_use(env, gpus, **places)) == seen


@pytest.mark.parametrize("kfd", [True, False])
def test_a_container_looks_at_its_own_gpus_though_it_sees_all_cards(machine, kfd):
    places = machine(amd=(0, 10, 20, 30), kfd=kfd, hidden=(0, 1))
    assert used(memory_in_use({}, 8, **places)) == [20, 30]


def test_cards_beyond_ten_are_numbered_not_spelled(machine):
    assert used(memory_in_use({}, 16, **machine(amd=tuple(range(12))))) == list(range(12))


ROWS = "0, GPU-aa11, 100, 183359\n1, GPU-bb22, 91679, 183359\n2, GPU-cc33, [N/A], [N/A]\nnoise\n"


def test_nvidia_smi_is_read(machine):
    places = machine(smi=f"cat <<'X'\n{ROWS}X")
    assert [m.name for m in memory_in_use({}, 8, **places)] == ["0", "1"]
    (memory,) = memory_in_use({"CUDA_VISIBLE_DEVICES": "GPU-bb"}, 1, **places)
    assert memory.used_share == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("smi", ["", "exit 9", "echo garbage"])
def test_where_nothing_tells_there_is_nothing(machine, smi):
    assert memory_in_use({}, 8, **machine(smi=smi)) == ()


def test_a_program_that_hangs_or_is_none_costs_its_time_limit_and_no_more(tmp_path):
    assert _output(["sleep", "600"], timeout_s=0.1) == ""
    assert _output([str(tmp_path)]) == ""


def test_parsing_keeps_whole_rows_only():
    assert parse_smi(ROWS)[0] == Memory("0", "GPU-aa11", 100 * 2**20, 183359 * 2**20)
    assert visible(parse_smi(ROWS), "1, 0")[0].name == "1"
