"""Every permission the controller uses, in one place: `k8s/rbac.yaml` grants these, `tuner doctor` asks for these.

A test holds them together with the requests the client really sends. Permission reviews and `/version` are allowed to
everybody who may log in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one kind of object, in the trials' namespace or (`everywhere`) in the whole cluster."""

    verb: str
    resource: str
    why: str
    group: str = ""
    subresource: str = ""
    everywhere: bool = False

    @property
    def of(self) -> str:
        """As RBAC writes it: `pods/log`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def __str__(self) -> str:
        return f"{self.verb} {self.of}{'.' if self.group else ''}{self.group}"


NEEDED = (
    Right("create", "jobs", "start a trial", group="batch"),
    Right("get", "jobs", "tell our own earlier call from somebody else's Job of the name", group="batch"),
    Right("list", "jobs", "see how trials stand, and which of a study are there after a restart", group="batch"),
    Right("delete", "jobs", "remove a trial once it is recorded; its pods go with it", group="batch"),
    Right("list", "pods", "see how trials stand, and read results from termination messages"),
    Right("patch", "pods", "let go of a pod whose result is recorded, by removing our finalizer"),
    Right(
        "get",
        "pods",
        "read the records of load levels, say where a running trial stands, and show logs",
        subresource="log",
    ),
    Right("list", "events", "say why nothing runs: quota, PodSecurity, missing volumes and secrets"),
)

HELPFUL = (Right("list", "nodes", "tell at once that no node will ever hold a trial", everywhere=True),)
"""Without these a search goes on, and knows less."""
