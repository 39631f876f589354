"""The few requests trials need of an API server, over the official client: authentication, TLS and proxies are its.

Objects go in and come out as the plain JSON of the wire: the generated models cost a hundred megabytes and drop what a
newer server says. Every request has a timeout, nothing is retried here. Knows no trial and judges no answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.space.nearest import did_you_mean

Json = dict[str, Any]

CONNECT_S = 5.0
READ_S = 30.0
"""A list of a few hundred pods takes well under a second; beyond this the server is as good as down."""
LOG_READ_S = 10.0
"""Logs come from the pod's node: one that is silent must not keep the others' results waiting."""

_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class ApiError(Exception):
    """A request that failed. `status` None: nobody answered. `reason` and `message` are the API's own words."""

    def __init__(self, status: int | None, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class Cluster:
    """One namespace of one cluster. `on_call` is told right before and right after each change asked for.

    `log_in` makes another client after the server has refused this one's credentials: tokens are rotated. `answered`:
    it has accepted them before.
    """

    def __init__(
        self,
        api: Any,
        namespace: str,
        on_call: Callable[[str], None] | None = None,
        log_in: Callable[[], Any] | None = None,
    ) -> None:
        self._api = api
        self.namespace = namespace
        self.answered = False
        self._on_call = on_call or (lambda _said: None)
        self._log_in = log_in
        self._refused = False
        self._ahead = timedelta()

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def now(self) -> datetime:
        """The server's clock, by which its objects are stamped: this machine's may be minutes off."""
        return datetime.now(UTC) + self._ahead

    # --- jobs and pods

    def list_trials(self, selector: str) -> tuple[list[Json], list[Json]]:
        """The Jobs and the Pods that a label selector finds, one request each."""
        return self.list_jobs(selector), self.list_pods(selector)

    def list_jobs(self, selector: str) -> list[Json]:
        return self._items(f"{self._batch}/jobs", labelSelector=selector)

    def list_pods(self, selector: str) -> list[Json]:
        return self._items(f"{self._core}/pods", labelSelector=selector)

    def read_job(self, name: str) -> Json:
        return self._json("GET", f"{self._batch}/jobs/{name}")

    def create_job(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        """Create it; the server refuses keys it does not know. A dry run changes nothing."""
        name = manifest["metadata"]["name"]
        query = {"fieldValidation": "Strict", **({"dryRun": "All"} if dry_run else {})}
        say = None if dry_run else f"create {name}"
        return self._json("POST", f"{self._batch}/jobs", query, dict(manifest), say=say)

    def delete_job(self, name: str, uid: str) -> None:
        """Delete this very Job and then its Pods; one that is gone, or another one of the name, is left alone.

        The API's own default would leave the Pods running and their GPUs taken.
        """
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        self._change("DELETE", f"{self._batch}/jobs/{name}", options, "application/json", f"delete {name}")

    def remove_finalizer(self, pod: Mapping[str, Any], finalizer: str) -> None:
        """Let the Pod go; one that is gone is left alone."""
        meta = pod["metadata"]
        # By value, not by place in the list: the job controller removes its own finalizer at the same time.
        patch = {"metadata": {"uid": meta["uid"], "$deleteFromPrimitiveList/finalizers": [finalizer]}}
        merge = "application/strategic-merge-patch+json"
        self._change("PATCH", f"{self._core}/pods/{meta['name']}", patch, merge, f"free {meta['name']}")

    def pod_log(self, pod: str, container: str, *, read_s: float = LOG_READ_S, **cut: int) -> str:
        """Its log; `cut` is of the API's own: `tailLines`, `limitBytes`."""
        query = {"container": container, **{key: str(value) for key, value in cut.items()}}
        return self._request("GET", f"{self._core}/pods/{pod}/log", query, read_s=read_s).decode(errors="replace")

    # --- what surrounds them

    def events(self, uid: str) -> list[Json]:
        """Events about one object."""
        return self._items(f"{self._core}/events", fieldSelector=f"involvedObject.uid={uid}")

    def nodes(self) -> list[Json]:
        return self._items("/api/v1/nodes")

    def can_i(
        self, verb: str, resource: str, group: str = "", *, subresource: str = "", everywhere: bool = False
    ) -> bool:
        """Whether the server would allow it, in this namespace or `everywhere`."""
        attributes = {"verb": verb, "resource": resource, "group": group, "subresource": subresource}
        if not everywhere:
            attributes["namespace"] = self.namespace
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._json("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", None, body)
        return bool(answer.get("status", {}).get("allowed"))

    def get(self, path: str, *, metadata_only: bool = False) -> Json:
        """Any other object by its path, such as `/version`. Of a Secret ask for the metadata alone."""
        return self._json("GET", path, accept=_METADATA if metadata_only else _JSON)

    # --- requests

    @property
    def _batch(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}"

    @property
    def _core(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}"

    def _items(self, path: str, **query: str) -> list[Json]:
        items: list[Json] = self._json("GET", path, query).get("items") or []
        return items

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        *,
        say: str | None = None,
        accept: str = _JSON,
    ) -> Json:
        data = self._request(method, path, query, body, say=say, accept=accept)
        document = None
        with suppress(ValueError):
            document = json.loads(data)
        if not isinstance(document, dict):
            raise ApiError(None, "NotJson", f"{self.server} does not answer like an API server")
        return document

    def _change(self, method: str, path: str, body: Json, content_type: str, say: str) -> None:
        """Gone (404), or replaced by another of the same name (409 of a precondition), is as good as done."""
        try:
            self._request(method, path, None, body, content_type=content_type, say=say)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        *,
        content_type: str = _JSON,
        say: str | None = None,
        accept: str = _JSON,
        read_s: float = READ_S,
    ) -> bytes:
        if say:
            self._on_call(f"before {say}")
        types = {"Accept": accept, **({"Content-Type": content_type} if body else {})}
        data = self._send(method, path, dict(query or {}), body, types, read_s)
        if say:
            self._on_call(f"after {say}")
        return data

    def _send(
        self, method: str, path: str, query: dict[str, str], body: Json | None, types: dict[str, str], read_s: float
    ) -> bytes:
        from kubernetes.client.exceptions import OpenApiException
        from urllib3.exceptions import HTTPError

        request = self._authorised(method, path, query, body, types)
        try:
            answer = self._api.call_api(*request, _request_timeout=(CONNECT_S, read_s))
            data: bytes = answer.read()
        except (HTTPError, OSError, OpenApiException) as error:
            raise ApiError(None, "Unreachable", f"no answer from {self.server}: {_innermost(error)}") from error
        self._set_clock(answer.getheader("Date"))
        self._refused = answer.status == 401 or (answer.status == 403 and b"system:anonymous" in data)
        if answer.status >= 300:
            raise _refusal(answer.status, data, answer.getheader("Retry-After"))
        self.answered = True
        return data

    def _authorised(
        self, method: str, path: str, query: dict[str, str], body: Json | None, types: dict[str, str]
    ) -> Any:
        """The request with the credentials of the moment: the client runs a kubeconfig's login command for them."""
        try:
            if self._refused and self._log_in is not None:
                self._api, self._refused = self._log_in(), False
            return self._api.param_serialize(
                method, path, None, list(query.items()), types, body, auth_settings=["BearerToken"]
            )
        except Exception as error:  # the client lets out whatever its parsers and the login command raise
            raise ApiError(401, "Unauthorized", f"no credentials for {self.server}: {error}") from error

    def _set_clock(self, date: str | None) -> None:
        try:
            self._ahead = parsedate_to_datetime(date or "") - datetime.now(UTC)
        except (ValueError, TypeError):  # no date: our own clock has to do
            return


def _innermost(error: BaseException) -> str:
    """`Connection refused` rather than three lines of wrappers around it."""
    cause: object = getattr(error, "reason", None) or error
    return " ".join(str(cause).rpartition(">: ")[2].split()) or type(error).__name__


def _refusal(status: int, data: bytes, retry_after: str | None) -> ApiError:
    try:
        document = json.loads(data)
        reason, message = str(document.get("reason") or ""), str(document.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = "", data[:300].decode(errors="replace").strip()
    wait_s = float(retry_after) if retry_after and retry_after.isdigit() else None
    return ApiError(status, reason, message, wait_s)


# --- where the cluster is


def kubeconfig() -> str:
    """The files kubectl would read."""
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def connect(context: str | None, namespace: str | None, on_call: Callable[[str], None] | None = None) -> Cluster:
    """The cluster of a kubeconfig context; None: the current one, or the one this process runs in.

    `namespace` None is the context's own, or this pod's own. Sends nothing yet.

    Raises:
        UsageError: no kubeconfig, no such context, or one that cannot be used.
    """
    inside, files = _inside(context), kubeconfig()
    chosen = {} if inside else _context(context, files)
    own = _own_namespace() if inside else str((chosen.get("context") or {}).get("namespace") or "default")
    try:
        api = _client(chosen.get("name"), files)
    except Exception as error:  # a kubeconfig of others: the client lets out what its parsers raise
        raise UsageError(f"kubeconfig {files}: context {context or 'current'} cannot be used: {error}") from error
    return Cluster(api, namespace or own, on_call, lambda: _client(chosen.get("name"), files))


def _client(context: str | None, files: str) -> Any:
    """A client with today's credentials of a kubeconfig's context; None: those of the pod this process runs in."""
    from kubernetes import config
    from kubernetes.client import ApiClient, Configuration

    settings = Configuration()
    if context is None:
        config.load_incluster_config(client_configuration=settings)
    else:
        config.load_kube_config(files, context, client_configuration=settings, persist_config=False)
    settings.retries = False
    return ApiClient(settings)


def _inside(context: str | None) -> bool:
    """In a pod, unless a kubeconfig is asked for."""
    return (
        context is None
        and not os.environ.get("KUBECONFIG")
        and "KUBERNETES_SERVICE_HOST" in os.environ
        and (_SERVICE_ACCOUNT / "token").exists()
    )


def _own_namespace() -> str:
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _context(wanted: str | None, files: str) -> Json:
    contexts, current = _contexts(files)
    names = sorted(contexts)
    if wanted is None and not current:
        raise UsageError(f"kubeconfig {files}: has no current context; name one with --context ({', '.join(names)})")
    name = wanted or current
    if name not in contexts:
        what = f"context {name}" if wanted else f"the current context {name}"
        raise UsageError(f"{what}: not in {files} ({', '.join(names)}){did_you_mean(name, names)}")
    return contexts[name]


def _contexts(files: str) -> tuple[dict[str, Json], str]:
    """All contexts of these files and the current one, "" if there is none.

    As kubectl reads them: of several files the first that says which is current counts. The client takes the last.
    """
    from kubernetes.config.kube_config import KubeConfigMerger

    if not any(Path(file).expanduser().exists() for file in files.split(os.pathsep) if file):
        raise _no_kubeconfig(files, "no such file")
    try:
        read = KubeConfigMerger(files)
        contexts = {str(node.value["name"]): dict(node.value) for node in read.config.value["contexts"]}
        current = next((str(now) for file in read.config_files.values() if (now := file.get("current-context"))), "")
    except (TypeError, AttributeError, KeyError) as error:
        raise _no_kubeconfig(files, "its shape is not a kubeconfig's") from error
    except Exception as error:  # files of others: the client lets out what its parsers raise
        raise _no_kubeconfig(files, " ".join(str(error).split())) from error
    return contexts, current


def _no_kubeconfig(files: str, why: str) -> UsageError:
    return UsageError(f"no usable kubeconfig at {files}: {why}; set KUBECONFIG, or try --runtime simulated")
