from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.trial.engine_log import LogFollower, read_end
from tuner.trial.log_ring import HEAD_BYTES, PART_BYTES, LogRing, older


@pytest.fixture
def ring_of(tmp_path):
    """A ring whose write end the test holds; its parts are small."""
    made = []

    def make(**options):
        ring = LogRing(tmp_path / "engine.log", **({"head_bytes": 100, "part_bytes": 200} | options))
        handle = os.dup(ring.write_end)
        ring.start()
        made.append((ring, handle))
        return ring, handle

    yield make
    for ring, handle in made:
        os.close(handle)
        ring.close()


def files(tmp_path):
    path = tmp_path / "engine.log"
    return [part.read_text() if part.exists() else "" for part in (*older(path), path)]


def test_a_short_log_is_one_file_nobody_else_may_read(ring_of, tmp_path):
    ring, handle = ring_of()
    os.write(handle, b"one\ntwo\n")
    ring.flush()
    assert files(tmp_path) == ["", "", "one\ntwo\n"]
    assert (tmp_path / "engine.log").stat().st_mode & 0o077 == 0


def test_a_long_log_keeps_its_beginning_and_its_end_and_no_more(ring_of, tmp_path):
    ring, handle = ring_of()
    lines = [f"line {n:04d}\n" for n in range(1000)]
    for line in lines:
        os.write(handle, line.encode())
    ring.flush()
    head, previous, current = files(tmp_path)
    text = "".join(lines)
    assert head == text[:100]
    assert text.endswith(previous + current)
    assert len(previous) == 200
    assert len(current) <= 200


def test_the_cap_is_64_mib():
    assert HEAD_BYTES + 2 * PART_BYTES == 64 * 1024 * 1024


def test_the_end_is_read_across_files_from_a_lines_start(ring_of, tmp_path):
    ring, handle = ring_of()
    path = tmp_path / "engine.log"
    for n in range(1000):
        os.write(handle, f"line {n:04d}\n".encode())
        if n in (5, 12, 35, 999):
            ring.flush()
            kept = "".join(f"line {m:04d}\n" for m in range(n + 1))
            end = read_end(path, 150)
            assert kept.endswith(end)
            assert end.startswith("line")
            assert len(end) >= min(len(kept), 150) - 10
    assert read_end(path) == files(tmp_path)[0] + files(tmp_path)[1] + files(tmp_path)[2]


def test_a_follower_misses_no_line_when_the_file_is_put_aside(ring_of, tmp_path):
    ring, handle = ring_of()
    follower = LogFollower(tmp_path / "engine.log")
    for percent in range(0, 100, 10):
        os.write(handle, f"Loading safetensors checkpoint shards: {percent}% Completed\n{'x' * 40}\n".encode())
        ring.flush()
        assert follower.look() == [f"loading weights {percent} %"]
    os.write(handle, b"[1] The server is fired up")
    ring.flush()
    assert follower.look() == []
    os.write(handle, b" and ready to roll!\n")
    ring.flush()
    assert follower.look() == ["fired up"]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_secrets_never_reach_the_disk_wherever_a_write_cuts_them(ring_of, tmp_path, size):
    ring, handle = ring_of(secrets=("s3cr3t-abcdef", "hf_12345678"), head_bytes=10_000)
    text = b"a s3cr3t-abcdef b s3cr3t-abcdex hf_hf_12345678\nhf_123456"
    for at in range(0, len(text), size):
        os.write(handle, text[at : at + size])
        ring.flush()
    assert "s3cr3t-abcdef" not in files(tmp_path)[2]
    assert files(tmp_path)[2].startswith("a *** b s3cr3t-abcdex hf_***\n")


def test_what_waited_for_the_rest_of_a_secret_is_written_at_the_end(tmp_path):
    ring = LogRing(tmp_path / "engine.log", secrets=("hf_12345678",))
    child = subprocess.Popen([sys.executable, "-c", "print('see hf_1234', end='')"], stdout=ring.write_end)
    ring.start()
    child.wait()
    ring.close()
    ring.close()
    assert files(tmp_path)[2] == "see hf_1234"


def test_a_new_engine_begins_a_new_log(ring_of, tmp_path):
    for part in (*older(tmp_path / "engine.log"), tmp_path / "engine.log"):
        part.write_text("of an earlier engine")
    ring_of()
    assert files(tmp_path) == ["", "", ""]


def test_a_disk_that_takes_nothing_costs_the_log_and_never_the_engine(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    ring = LogRing(tmp_path / "engine.log")
    os.close(ring._file)
    ring._file = os.open("/dev/full", os.O_WRONLY)
    child = subprocess.Popen([sys.executable, "-c", "print('x' * 3_000_000)"], stdout=ring.write_end)
    ring.start()
    assert child.wait(30) == 0
    ring.close()


def test_without_a_child_nothing_stays_open(tmp_path):
    ring = LogRing(tmp_path / "engine.log")
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    ring.abandon()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before - 3
