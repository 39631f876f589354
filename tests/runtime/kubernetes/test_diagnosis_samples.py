"""Every snapshot captured on a real cluster, and what must be made of it: the table is verdicts.tsv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tuner.runtime.kubernetes.diagnosis import diagnose
from tuner.runtime.kubernetes.verdict import Expectation, Snapshot, Verdict

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
TABLE = list(csv.DictReader((HERE / "verdicts.tsv").read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


def captured(sample: str) -> dict[str, Any]:
    return json.loads((SAMPLES / f"{sample}.json").read_text())


def verdict_on(found: dict[str, Any], after_s: float) -> Verdict:
    job, pod = found["job"], found["pod"]
    spec = pod["spec"] if pod else job["spec"]["template"]["spec"]
    names = [container["name"] for container in spec["containers"]]
    created = (job.get("metadata") or pod["metadata"])["creationTimestamp"]
    now = datetime.fromisoformat(created) + timedelta(seconds=after_s)
    expected = Expectation("mi355x", "amd.com/gpu", 8, container="trial" if "trial" in names else names[0])
    return diagnose(Snapshot(job, pod, found["events"], found["nodes"], now), expected)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['sample']}-{row['snapshot']}-{row['after_s']}s")
def test_every_captured_sample_gets_its_verdict(row):
    verdict = verdict_on(captured(row["sample"])[row["snapshot"]], float(row["after_s"]))

    assert (verdict.kind, verdict.failure_kind or "-", verdict.otherwise or "-") == (
        row["kind"],
        row["failure_kind"],
        row["otherwise"],
    )
    assert row["part of what is said"] in (verdict.message or verdict.stage)


def all_snapshots() -> Iterator[tuple[str, str]]:
    for path in SAMPLES.glob("*.json"):
        yield from ((path.stem, name) for name in json.loads(path.read_text()))


def test_the_table_covers_every_sample():
    assert set(all_snapshots()) == {(row["sample"], row["snapshot"]) for row in TABLE}


def test_queue_wait_ends_when_the_trials_container_ran():
    verdict = verdict_on(captured("runner_ok")["pods"], 3600)

    assert verdict.seconds_queued == 2.0


def test_queue_wait_goes_on_while_nothing_runs():
    assert verdict_on(captured("gpu_handover")["pods-waiting:b-h5pnv"], 500).seconds_queued == 500.0
