"""Specifications of small trials against the fake engine, and what tests ask of processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner.space.workload import Length, Limits, Workload
from tuner.trial.spec import Deadlines, TrialSpec

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def engine_argv(*switches: object) -> tuple[str, ...]:
    """The command line of a fake engine."""
    return (sys.executable, str(FAKE_ENGINE), *(str(switch) for switch in switches))


def a_spec(*switches: object, **changes: Any) -> TrialSpec:
    """A trial of a few seconds: short prompts, one GPU, deadlines that end a broken test soon."""
    spec = TrialSpec(
        id="demo-0001-abcdef012345",
        study="demo",
        config={"pool": "here", "layout": {"tp": 1, "dp": 1, "attn_dp": 1, "ep": 1}},
        fingerprint="abcdef012345",
        argv=engine_argv(*switches),
        env={},
        gpus=1,
        usd_per_hour=2.0,
        workload=Workload(Length.fixed(32), Length.fixed(8), endpoint="completions"),
        limits=Limits(ttft_p95_s=1.0),
        guard=0.05,
        deadlines=Deadlines(ready_s=30.0, first_token_s=10.0, probe_s=5.0, stop_s=3.0),
        pool="here",
        context={"accelerator": "mi355x"},
    )
    return replace(spec, **changes)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """The first true value of `condition`; other processes have no event to wait for."""
    give_up_s = time.monotonic() + timeout_s
    while time.monotonic() < give_up_s:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {timeout_s} s for {what}")


def read_pids(path: Path) -> list[int]:
    """What the fake engine wrote with `--pids`; [] while there is nothing."""
    return json.loads(path.read_text()) if path.exists() else []
