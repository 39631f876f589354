"""The kubelet of every node: runs the main container of a Pod as a real process of this machine.

What a container sees at a path of its own cannot lie there on this machine: mount points and the termination log are
folders and a file of a temporary folder, and their paths are replaced in command and environment. The launcher inside
the bundle is replaced by `runner`, this checkout's own; init containers, which only bring the bundle, are not run.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.fake_cluster.control import over
from support.fake_cluster.store import Refused, Store, seconds_since, set_condition, stamp

Json = dict[str, Any]
MESSAGE_BYTES = 4096
MARK = "FAKE_CLUSTER_POD"
_BACK_OFF_S = 1.0


@dataclass
class Container:
    """A pod's main container on this machine."""

    uid: str
    folder: Path
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ended_s: float = 0.0
    bound_at: float = 0.0
    gone_at: float | None = None
    process: subprocess.Popen[bytes] | None = None
    started_at: str = ""
    started_s: float = 0.0
    stopping_s: float | None = None
    deadline: bool = False
    oom: bool = False
    evicted: str = ""
    tried_s: float = 0.0
    done: bool = False

    @property
    def message(self) -> Path:
        return self.folder / "termination-log"

    @property
    def log(self) -> Path:
        return self.folder / "log"


@dataclass
class Kubelet:
    """All nodes' kubelets in one. `pull` says what is wrong with pulling an image for a pod, "" if nothing is."""

    store: Store
    folder: Path
    runner: list[str]
    env: dict[str, str]
    containers: dict[str, Container] = field(default_factory=dict)
    dead_nodes: set[str] = field(default_factory=set)
    digests: dict[str, str] = field(default_factory=dict)
    missing_images: set[str] = field(default_factory=set)
    pull_fails: Callable[[Json], bool] = lambda _pod: False
    own_env: Callable[[Json], dict[str, str]] = lambda _pod: {}
    failing_pulls: set[str] = field(default_factory=set)

    def tick(self) -> None:
        pods = self.store.list("pods")
        for pod in pods:
            node = pod["spec"].get("nodeName")
            if node and node not in self.dead_nodes and not over(pod):
                with suppress(Refused):
                    self._tend(pod)
        alive = {pod["metadata"]["uid"] for pod in pods}
        for container in self.containers.values():
            if container.uid not in alive:
                container.gone_at = container.gone_at or time.time()
                if not container.done:
                    self._kill(container)

    def read_log(self, uid: str) -> bytes:
        container = self.containers.get(uid)
        if container is None or container.process is None:
            raise Refused(400, "BadRequest", 'container "trial" in pod is waiting to start: ContainerCreating')
        if container.evicted:
            return b"unable to retrieve container logs for containerd://" + uid.encode()
        return container.log.read_bytes()

    def close(self) -> None:
        for container in self.containers.values():
            self._kill(container)

    # --- what tests do to it

    def oom(self, uid: str) -> None:
        """The container's process runs out of memory and is killed."""
        self.containers[uid].oom = True
        self._kill(self.containers[uid])

    def evict(self, uid: str, message: str) -> None:
        """Node pressure: SIGTERM, two seconds, SIGKILL; the pod object stays."""
        container = self.containers[uid]
        container.evicted = message
        self._signal(container)
        container.stopping_s = time.monotonic() + 2.0

    def lose(self, node: str) -> None:
        """The node loses power: its processes are gone and nobody says so."""
        self.dead_nodes.add(node)

        def silent(held: Json) -> None:
            set_condition(
                held["status"], "Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status."
            )
            held["status"]["silentSince"] = time.time()
            for one in held["status"]["conditions"]:  # when the cluster tells, it has been silent for a while
                one["lastTransitionTime"] = stamp(datetime.now(UTC) - timedelta(minutes=5))

        self.store.update("nodes", "", node, silent)
        for pod in self.store.list("pods"):
            if pod["spec"].get("nodeName") == node and (found := self.containers.get(pod["metadata"]["uid"])):
                self._kill(found)

    # --- one pod

    def _tend(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        container = self.containers.get(uid)
        if container is None:
            container = self.containers[uid] = Container(
                uid, self.folder / uid, pod["metadata"]["name"], pod["metadata"].get("labels", {})
            )
            container.bound_at = _bound_at(pod)
            container.folder.mkdir(parents=True)
            self._change(pod, lambda held: held["status"].update(startTime=stamp(), hostIP="127.0.0.1"))
        if container.process is None:
            self._begin(pod, container)
        else:
            self._watch(pod, container)

    def _begin(self, pod: Json, container: Container) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            self._change(pod, lambda held: held["status"].update(phase="Failed"))
            return
        if time.monotonic() < container.tried_s + _BACK_OFF_S:
            return
        spec = pod["spec"]["containers"][0]
        if self.pull_fails(pod):
            self.failing_pulls.add(container.uid)
        if spec["image"] in self.missing_images or container.uid in self.failing_pulls:
            container.tried_s = time.monotonic()
            self._wait(
                pod,
                "ImagePullBackOff",
                f'Back-off pulling image "{spec["image"]}": ErrImagePull: {spec["image"]}: not found',
            )
            return
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume and self._missing("secrets", pod, volume["secret"]["secretName"]):
                said = f'MountVolume.SetUp failed for volume "{volume["name"]}" : secret '
                said += f'"{volume["secret"]["secretName"]}" not found'
                self.store.event(pod, "FailedMount", said, source="kubelet")
                container.tried_s = time.monotonic()
                return
        try:
            self._run(pod, container)
        except OSError as error:
            self._end(pod, container, {"exitCode": 128, "reason": "StartError", "message": str(error)})

    def _missing(self, kind: str, pod: Json, name: str) -> bool:
        return self.store.find(kind, pod["metadata"]["namespace"], name) is None

    def _wait(self, pod: Json, reason: str, message: str) -> None:
        waiting = self._status(pod, {"waiting": {"reason": reason, "message": message}})
        self._change(pod, lambda held: held["status"].update(containerStatuses=[waiting]))
        self.store.event(pod, "Failed", message, source="kubelet")

    def _run(self, pod: Json, container: Container) -> None:
        spec = pod["spec"]["containers"][0]
        paths = self._mount(pod, container)
        container.message.touch()
        paths[spec.get("terminationMessagePath", "/dev/termination-log")] = str(container.message)
        words = [_moved(word, paths) for word in [*spec.get("command", []), *spec.get("args", [])]]
        options = next((place for place, word in enumerate(words) if word.startswith("--")), len(words))
        env = {**self.env, **{e["name"]: _moved(_value(e, pod), paths) for e in spec.get("env", [])}}
        env |= {**self.own_env(pod), MARK: container.uid}
        with container.log.open("wb") as log:
            container.process = subprocess.Popen(
                [*self.runner, *words[options:]],
                cwd=container.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        container.started_at, container.started_s = stamp(), time.monotonic()
        running = self._status(pod, {"running": {"startedAt": container.started_at}})

        def start(held: Json) -> None:
            held["status"].update(phase="Running", containerStatuses=[running])
            for kind in ("Initialized", "ContainersReady", "Ready"):
                set_condition(held["status"], kind, "True")

        self._change(pod, start)

    def _mount(self, pod: Json, container: Container) -> dict[str, str]:
        """Mount path -> folder of this machine."""
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        paths = {}
        for mount in pod["spec"]["containers"][0].get("volumeMounts", []):
            folder = container.folder / "volumes" / mount["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for item in (volumes[mount["name"]].get("downwardAPI") or {}).get("items", []):
                (folder / item["path"]).write_text(_field(pod, item["fieldRef"]["fieldPath"]))
            paths[mount["mountPath"]] = str(folder)
        return paths

    def _watch(self, pod: Json, container: Container) -> None:
        assert container.process is not None
        code = container.process.poll()
        if code is not None:
            self._kill(container)  # what it left behind: in a container everything ends with PID 1
            self._end(pod, container, self._ending(container, code))
            return
        self._check_deadline(pod, container)
        leaving = "deletionTimestamp" in pod["metadata"]
        if leaving and container.stopping_s is None:
            self._signal(container)
            container.stopping_s = time.monotonic() + pod["metadata"]["deletionGracePeriodSeconds"]
        if container.stopping_s is not None and time.monotonic() > container.stopping_s:
            self._kill(container)

    def _check_deadline(self, pod: Json, container: Container) -> None:
        limit_s = pod["spec"].get("activeDeadlineSeconds")
        if limit_s is None or container.stopping_s is not None or seconds_since(pod["status"]["startTime"]) < limit_s:
            return
        container.deadline = True
        self._signal(container)
        container.stopping_s = time.monotonic() + pod["spec"].get("terminationGracePeriodSeconds", 30)

    def _ending(self, container: Container, code: int) -> Json:
        if container.oom:
            return {"exitCode": 137, "reason": "OOMKilled"}
        code = code if code >= 0 else 128 - code
        return {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}

    def _end(self, pod: Json, container: Container, ending: Json) -> None:
        container.done = True
        message = ending.pop("message", None) or _tail(container.message)
        terminated = {**ending, "startedAt": container.started_at or stamp(), "finishedAt": stamp()}
        if message:
            terminated["message"] = message
        last = self._status(pod, {"terminated": terminated})
        phase = "Succeeded" if ending["exitCode"] == 0 else "Failed"
        reason = {}
        if container.evicted:
            phase, reason = "Failed", {"reason": "Evicted", "message": container.evicted}
        elif container.deadline:
            said = "Pod was active on the node longer than the specified deadline"
            phase, reason = "Failed", {"reason": "DeadlineExceeded", "message": said}

        def end(held: Json) -> None:
            held["status"].update(phase=phase, containerStatuses=[last], **reason)
            for kind in ("ContainersReady", "Ready"):
                set_condition(held["status"], kind, "False", "PodCompleted")

        self._change(pod, end)

    def _status(self, pod: Json, state: Json) -> Json:
        spec = pod["spec"]["containers"][0]
        image = spec["image"]
        known = "" if "waiting" in state else f"{image.partition('@')[0]}@{self.digest(image, pod)}"
        return {
            "name": spec["name"],
            "image": image,
            "imageID": known,
            "state": state,
            "lastState": {},
            "restartCount": 0,
            "ready": "running" in state,
        }

    def digest(self, image: str, pod: Json) -> str:
        """What this node holds under a tag; `digests` may say otherwise for `image` or for `node/image`."""
        name = f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"
        return self.digests.get(f"{pod['spec'].get('nodeName')}/{image}", self.digests.get(image, name))

    def _change(self, pod: Json, change: Any) -> None:
        self.store.update("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], change)

    # --- processes

    def _signal(self, container: Container) -> None:
        """PID 1 alone is told, as in a container."""
        if container.process is not None and container.process.poll() is None:
            container.process.terminate()

    def _kill(self, container: Container) -> None:
        """Everything the pod started, in whatever session."""
        if container.process is None:
            container.done = True
            return
        with suppress(ProcessLookupError):
            os.killpg(container.process.pid, signal.SIGKILL)
        while found := processes_of(container.uid) - {container.process.pid}:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        container.process.wait()
        container.ended_s = container.ended_s or time.monotonic()


def _bound_at(pod: Json) -> float:
    """Unix time at which the pod got its node, in whole seconds."""
    told = next(c for c in pod["status"]["conditions"] if c["type"] == "PodScheduled")
    return datetime.fromisoformat(told["lastTransitionTime"]).timestamp()


def processes_of(uid: str) -> set[int]:
    """Living processes of one pod."""
    mark = f"{MARK}={uid}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.add(int(path.name))
    return found


def _tail(path: Path) -> str:
    """The kubelet keeps the last 4096 bytes."""
    return path.read_bytes()[-MESSAGE_BYTES:].decode(errors="replace") if path.exists() else ""


def _moved(text: str, paths: dict[str, str]) -> str:
    for inside in sorted(paths, key=len, reverse=True):
        if text == inside or text.startswith(f"{inside}/"):
            return paths[inside] + text[len(inside) :]
        if f"={inside}" in text:
            return text.replace(f"={inside}", f"={paths[inside]}")
    return text


def _value(env: Json, pod: Json) -> str:
    if "value" in env:
        return str(env["value"])
    source = env.get("valueFrom", {})
    return _field(pod, source["fieldRef"]["fieldPath"]) if "fieldRef" in source else ""


def _field(pod: Json, path: str) -> str:
    """A downward-API field: `metadata.annotations['key']`, `metadata.name`, `spec.nodeName`."""
    if "['" in path:
        kind, _, key = path.partition("['")
        return str((pod["metadata"].get(kind.split(".")[1]) or {}).get(key.removesuffix("']"), ""))
    found: Any = pod
    for part in path.split("."):
        found = (found or {}).get(part, "")
    return str(found)
