"""What a controller of 32 trials at once costs an API server and itself: requests, memory, and how soon it reacts.

A whole search over HTTP on the fake cluster, in real time: 2 pools of 16 nodes, trials of `--seconds`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from support.fake_cluster import FakeCluster  # noqa: E402

CHANGES = ("POST", "PATCH", "DELETE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45.0, help="how long a trial takes")
    parser.add_argument("--trials", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quick = [sys.executable, str(TESTS / "support" / "quick_runner.py")]
        env = {"QUICK_RUNNER_S": str(options.seconds)}
        with FakeCluster(folder / "cluster", runner=quick, env=env) as cluster:
            for pool, resource in (("amd", "amd.com/gpu"), ("nvidia", "nvidia.com/gpu")):
                for number in range(16):
                    cluster.node(f"{pool}-{number}", resource=resource, pool=pool)
            report = run(cluster, folder, options.trials)
            say(cluster, report)


def run(cluster: FakeCluster, folder: Path, trials: int) -> dict:
    text = (TESTS / "support" / "two_pools.yaml").read_text().replace("max_nodes: 2", "max_nodes: 16")
    text = text.replace("{values: [2, 3, 4, 6, 8]}", "{int: [1, 40]}")
    (folder / "space.yaml").write_text(text)
    (folder / "tiny-model.json").write_text((TESTS / "e2e" / "data" / "tiny-model.json").read_text())
    (folder / "study").mkdir()
    order = {"folder": str(folder / "study"), "kubeconfig": str(cluster.kubeconfig(folder / "kubeconfig"))}
    order |= {"trials": trials, "kills": [], "speed": 1.0}
    command = [sys.executable, str(TESTS / "support" / "kube_zygote.py"), str(folder / "space.yaml")]
    env = {**os.environ, "WAIT_FOR_DISK": "as a user's does"}
    zygote = subprocess.run(command, input=json.dumps(order) + "\n", text=True, check=True, timeout=1800, env=env)
    assert zygote.returncode == 0
    return json.loads((folder / "study" / "report.json").read_text())


def say(cluster: FakeCluster, report: dict) -> None:
    outcome = report["outcome"]
    requests = list(cluster.api.requests)
    changes = [r for r in requests if r[1] in CHANGES]
    logs = [r for r in requests if r[2].partition("?")[0].endswith("/log") and "tailLines" not in r[2]]
    tails = sum("tailLines" in path for _, _, path in requests)
    looks = len(requests) - len(changes) - len(logs)
    ended = {c.name: c.ended_s for c in cluster.kubelet.containers.values() if c.ended_s}
    seen = {path.split("/")[-2]: at_s for at_s, _, path in logs}
    freed = {path.rpartition("/")[2]: at_s for at_s, verb, path in changes if verb == "PATCH"}
    print(f"trials {outcome['counted']}, {outcome['took_s']:.0f} s, {outcome['message']}")
    per_s = looks / outcome["took_s"]
    print(f"requests: {per_s:.2f}/s to look ({tails} of {looks} at the ends of running logs)")
    print(f"and with each change: {len(changes)} changes, {len(logs)} logs of trials that ended")
    print(f"controller's memory: {outcome['rss_mib']:.0f} MiB at most")
    for what, at_s in (("seen and read", seen), ("recorded and let go", freed)):
        late = sorted(at_s[name] - ended[name] for name in at_s if name in ended)
        print(f"from a trial's end until it was {what}: median {late[len(late) // 2]:.1f} s, most {late[-1]:.1f} s")


if __name__ == "__main__":
    main()
