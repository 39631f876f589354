"""A Kubernetes cluster on this machine: an HTTP API on loopback, controllers, and kubelets that run real processes.

What it does is what was seen on real clusters; what a test wants to go wrong it asks for by `faults`, `plans` and the
methods below.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from support.fake_cluster.control import Controllers, over
from support.fake_cluster.kubelet import Kubelet, processes_of
from support.fake_cluster.server import Api, Fault, Server
from support.fake_cluster.store import Refused, Store, set_condition

import tuner

__all__ = ["FakeCluster", "Fault", "Plan", "Refused"]

Json = dict[str, Any]
_TICK_S = 0.05
_STRIKES = ("oom", "evict", "pressure", "lose_node", "delete")


@dataclass
class Plan:
    """What happens to the next matching pod once its runner is at work: oom, evict, pressure, lose_node, delete.

    Or `image`: its image is not found, so that it never starts. A quick runner that has this before it does not end
    by itself: which pod is struck must not depend on how fast the machine is.
    """

    what: str
    match: Callable[[Json], bool] = lambda _pod: True
    done: bool = False
    pod: str = ""


class FakeCluster:
    """Use as a context manager. `runner` replaces the bundle's launcher inside containers."""

    def __init__(self, folder: Path, *, runner: list[str] | None = None, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        checkout = str(Path(tuner.__file__).parents[1])
        inside = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": checkout, **(env or {})}
        self.store = Store()
        self.kubelet = Kubelet(self.store, folder / "pods", runner or [sys.executable, "-m", "tuner.trial"], inside)
        self.kubelet.pull_fails = self._pull_fails
        self.kubelet.own_env = self._own_env
        self.controllers = Controllers(self.store)
        self.api = Api(self.store, self.kubelet.read_log)
        self.plans: list[Plan] = []
        self.trouble: BaseException | None = None
        self.namespace("demo")

    def __enter__(self) -> Self:
        self.server = Server(self.api)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="fake cluster", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()
        self.kubelet.close()
        if self.trouble is not None:
            raise self.trouble

    def _loop(self) -> None:
        try:
            while not self._stop.is_set():
                before = self.store.version
                self.controllers.tick()
                self.kubelet.tick()
                self._follow_plans()
                with self.store.changed:
                    if self.store.version == before:
                        self.store.changed.wait(_TICK_S)
        except BaseException as error:  # noqa: BLE001 - a test must hear of it
            self.trouble = error

    # --- what there is

    def namespace(self, name: str) -> None:
        self.store.create("namespaces", "", {"metadata": {"name": name}})

    def node(self, name: str, *, gpus: int = 8, resource: str = "amd.com/gpu", **labels: str) -> None:
        """A ready node."""
        amounts = {resource: str(gpus), "cpu": "64", "memory": "2048Gi"}
        labels = {"kubernetes.io/hostname": name, **{key.replace("__", "/"): value for key, value in labels.items()}}
        status: Json = {"capacity": dict(amounts), "allocatable": dict(amounts), "silentSince": 0.0}
        set_condition(status, "Ready", "True", "KubeletReady")
        self.store.create("nodes", "", {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})

    def quota(self, name: str, hard: Mapping[str, str], namespace: str = "demo") -> None:
        self.store.create("resourcequotas", namespace, {"metadata": {"name": name}, "spec": {"hard": dict(hard)}})

    def kubeconfig(self, path: Path, *, contexts: tuple[str, ...] = ("fake",), namespace: str = "demo") -> Path:
        """A kubeconfig whose contexts all mean this cluster; the first is current."""
        user = {"token": self.api.token} if self.api.token else {}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": contexts[0],
            "clusters": [{"name": "fake", "cluster": {"server": self.server.url}}],
            "users": [{"name": "me", "user": user}],
            "contexts": [
                {"name": name, "context": {"cluster": "fake", "user": "me", "namespace": namespace}}
                for name in contexts
            ],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def grant(self, *files: Path) -> set[str]:
        """Allow what the roles in these files allow, and nothing else."""
        documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
        rules = [rule for d in documents if d["kind"] in ("Role", "ClusterRole") for rule in d["rules"]]
        self.api.allowed = {
            f"{verb} {resource}{'.' if group else ''}{group}"
            for rule in rules
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }
        return set(self.api.allowed)

    # --- what goes wrong

    def fault(
        self,
        method: str,
        path: str,
        status: int,
        reason: str = "",
        message: str = "",
        *,
        times: int = 1,
        late: bool = False,
        retry_after: int | None = None,
    ) -> Fault:
        """The next matching requests are answered so; status 0 hangs up, `late` once it is done."""
        fault = Fault(method, path, Refused(status, reason, message, retry_after), times, late)
        self.api.faults.append(fault)
        return fault

    def plan(self, what: str, match: Callable[[Json], bool] = lambda _pod: True) -> Plan:
        plan = Plan(what, match)
        self.plans.append(plan)
        return plan

    def _pull_fails(self, pod: Json) -> bool:
        plan = self._next("image", pod)
        if plan is not None:
            plan.done, plan.pod = True, pod["metadata"]["name"]
        return plan is not None

    def _own_env(self, pod: Json) -> dict[str, str]:
        """For a pod that is going to be struck: its runner waits for it."""
        plan = next((p for what in _STRIKES if (p := self._next(what, pod)) is not None), None)
        if plan is None:
            return {}
        plan.pod = pod["metadata"]["name"]
        return {"QUICK_RUNNER_S": "600"}

    def _next(self, what: str, pod: Json) -> Plan | None:
        open_plans = (p for p in self.plans if p.what == what and not p.done and not p.pod)
        return next((p for p in open_plans if p.match(pod)), None)

    def _follow_plans(self) -> None:
        pods = {pod["metadata"]["name"]: pod for pod in self.store.list("pods")}
        for plan in self.plans:
            if not plan.done and plan.pod:
                self._follow(plan, pods.get(plan.pod))

    def _follow(self, plan: Plan, pod: Json | None) -> None:
        if pod is None or over(pod) or "deletionTimestamp" in pod["metadata"]:
            plan.pod = ""  # somebody was faster: the next one then
            return
        if self.kubelet.containers[pod["metadata"]["uid"]].message.read_bytes():
            plan.done = True
            self.strike(plan.what, pod)

    def strike(self, what: str, pod: Json) -> None:
        meta = pod["metadata"]
        if what == "oom":
            self.kubelet.oom(meta["uid"])
        elif what == "pressure":
            self.kubelet.evict(meta["uid"], "The node was low on resource: ephemeral-storage.")
        elif what == "lose_node":
            self.kubelet.lose(pod["spec"]["nodeName"])
        elif what == "evict":
            self.api._evict(meta["namespace"], meta["name"])
        else:
            self.store.delete("pods", meta["namespace"], meta["name"])

    # --- what a test asks

    def pods(self, namespace: str = "demo") -> list[Json]:
        return self.store.list("pods", namespace)

    def jobs(self, namespace: str = "demo") -> list[Json]:
        return self.store.list("jobs", namespace)

    def processes(self) -> set[int]:
        """Living processes of all pods there ever were."""
        return set().union(*(processes_of(uid) for uid in list(self.kubelet.containers)))

    def requests(self, method: str = "") -> list[str]:
        """Paths asked for, in order."""
        return [f"{verb} {path}" for _, verb, path in list(self.api.requests) if method in ("", verb)]
