"""The HTTP side: routes, selectors, permissions, validation, quotas, and faults a test asks for."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.fake_cluster import patches
from support.fake_cluster.store import API, CLUSTER_WIDE, Refused, Store, qualified, set_condition

Json = dict[str, Any]
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1|apis/scheduling\.k8s\.io/v1)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<kind>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log|eviction))?"
)
_PIECE = 16 * 1024
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


@dataclass
class Fault:
    """Answer `times` matching requests with an error instead. Status 0 hangs up, `late` after having done it."""

    method: str
    path: str
    answer: Refused
    times: int = 1
    late: bool = False

    def hits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("*", method) and re.search(self.path, path) is not None


@dataclass
class Api:
    """Answers requests on a store. `allowed` None allows everything; else `verb resource[/sub][.group]` in it.

    `used` is what was asked for of that.
    """

    store: Store
    read_log: Callable[[str], bytes]
    token: str | None = None
    allowed: set[str] | None = None
    used: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    down: bool = False
    requests: list[tuple[float, str, str]] = field(default_factory=list)
    version: str = "v1.36.1"

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        """Status and body."""
        url = urlsplit(target)
        path = unquote(url.path)
        self.requests.append((time.monotonic(), method, target))
        struck = next((fault for fault in self.faults if fault.hits(method, path)), None)
        if struck is not None:
            struck.times -= 1
            if struck.late:
                self._routed(method, path, url.query, headers, body)
            raise struck.answer
        return self._routed(method, path, url.query, headers, body)

    def _routed(self, method: str, path: str, asked: str, headers: Any, body: bytes) -> tuple[int, bytes]:
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        query = {key: values[-1] for key, values in parse_qs(asked).items()}
        document = json.loads(body) if body else {}
        if path == "/version":
            return 200, json.dumps({"gitVersion": self.version, "major": "1", "minor": self.version[3:5]}).encode()
        if path.endswith("/selfsubjectaccessreviews"):
            return 201, json.dumps(self._review(document)).encode()
        found = _PATH.fullmatch(path)
        if found is None and (namespace := re.fullmatch(r"/api/v1/namespaces/([^/]+)", path)):
            return self._namespaced(method, "namespaces", "", namespace[1], None, query, document, headers)
        if found is None or found["kind"] not in API:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        namespace = found["namespace"] or ""
        return self._namespaced(method, found["kind"], namespace, found["name"], found["sub"], query, document, headers)

    def _namespaced(
        self,
        method: str,
        kind: str,
        namespace: str,
        name: str | None,
        sub: str | None,
        query: Json,
        body: Json,
        headers: Any,
    ) -> tuple[int, bytes]:
        self._authorise(method, kind, namespace, name, sub)
        if sub == "log":
            pod = self.store.get(kind, namespace, str(name))
            return 200, _cut(self.read_log(pod["metadata"]["uid"]), query)
        if sub == "eviction":
            return 201, _json(self._evict(namespace, str(name)))
        if method == "POST":
            return 201, _json(self._create(kind, namespace, body, query))
        if method == "GET" and name is None:
            return 200, _json(self._list(kind, namespace, query))
        if method == "GET":
            return 200, _json(self.store.get(kind, namespace, str(name)))
        if method == "PATCH":
            content_type = str(headers.get("Content-Type"))
            return 200, _json(
                self.store.update(kind, namespace, str(name), lambda held: patches.apply(held, body, content_type))
            )
        if method == "DELETE" and name is not None:
            return 200, _json(self._delete(kind, namespace, name, query, body))
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    # --- one verb each

    def _authorise(self, method: str, kind: str, namespace: str, name: str | None, sub: str | None) -> None:
        verb = _VERBS.get(method) or ("get" if name else "list")
        resource = f"{kind}/{sub}" if sub else kind
        group = API[kind][0].rpartition("/")[0] if kind in API else ""
        right = f"{verb} {resource}{'.' if group else ''}{group}"
        self.used.add(right)
        if self.allowed is None or right in self.allowed:
            return
        who = 'User "system:serviceaccount:ns:tuner"'
        about = f'{qualified(kind)} "{name}"' if name else qualified(kind)
        scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        message = f'{about} is forbidden: {who} cannot {verb} resource "{resource}" in API group "{group}" {scope}'
        raise Refused(403, "Forbidden", message)

    def _review(self, body: Json) -> Json:
        asked = body["spec"]["resourceAttributes"]
        resource = asked["resource"] + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        group = asked.get("group", "")
        allowed = self.allowed is None or f"{asked['verb']} {resource}{'.' if group else ''}{group}" in self.allowed
        return {**body, "status": {"allowed": allowed}}

    def _list(self, kind: str, namespace: str, query: Json) -> Json:
        found = self.store.list(kind, None if kind in CLUSTER_WIDE else namespace)
        found = [o for o in found if _labels_match(o, query.get("labelSelector", ""))]
        found = [o for o in found if _fields_match(o, query.get("fieldSelector", ""))]
        version, name = API[kind]
        meta = {"resourceVersion": str(self.store.version)}
        return {"apiVersion": version, "kind": f"{name}List", "metadata": meta, "items": found}

    def _create(self, kind: str, namespace: str, body: Json, query: Json) -> Json:
        name = str(body.get("metadata", {}).get("name", ""))
        if not _NAME.fullmatch(name) or len(name) > 63:
            message = f'Job.batch "{name}" is invalid: metadata.name: Invalid value: "{name}": must be no more than 63'
            raise Refused(422, "Invalid", f"{message} characters")
        if kind == "jobs":
            _check_job(body, strict=query.get("fieldValidation") == "Strict")
            self._check_job_quota(namespace, name)
            body = {**body, "status": {}}
        return self.store.create(kind, namespace, body, dry_run=query.get("dryRun") == "All")

    def _check_job_quota(self, namespace: str, name: str) -> None:
        for quota in self.store.list("resourcequotas", namespace):
            limit = quota["spec"]["hard"].get("count/jobs.batch")
            used = len(self.store.list("jobs", namespace))
            if limit is not None and used >= int(limit):
                held = (
                    f"requested: count/jobs.batch=1, used: count/jobs.batch={used}, limited: count/jobs.batch={limit}"
                )
                who = quota["metadata"]["name"]
                raise Refused(403, "Forbidden", f'jobs.batch "{name}" is forbidden: exceeded quota: {who}, {held}')

    def _delete(self, kind: str, namespace: str, name: str, query: Json, body: Json) -> Json:
        propagation = body.get("propagationPolicy") or query.get("propagationPolicy")
        if propagation is None:  # the default of batch/v1 is the one nobody expects
            propagation = "Orphan" if kind == "jobs" else "Background"
        uid = (body.get("preconditions") or {}).get("uid")
        grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        grace_s = None if grace is None else int(grace)
        gone = self.store.delete(kind, namespace, name, propagation=propagation, uid=uid, grace_s=grace_s)
        details = {"name": name, "kind": kind, "uid": gone["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details}

    def _evict(self, namespace: str, name: str) -> Json:
        def disrupt(pod: Json) -> None:
            message = "Eviction API: evicting"
            set_condition(pod["status"], "DisruptionTarget", "True", "EvictionByEvictionAPI", message)

        self.store.update("pods", namespace, name, disrupt)
        return self.store.delete("pods", namespace, name)


def _cut(log: bytes, query: Json) -> bytes:
    """`tailLines` counts what a node stores as lines, pieces of 16 KiB; `limitBytes` keeps the first of them."""
    for name in {"tailLines", "limitBytes"} & set(query):
        if not query[name].isdigit():
            raise Refused(422, "Invalid", f"{name}: Invalid value: {query[name]}: must be greater than or equal to 0")
    if (lines := query.get("tailLines")) is not None:
        stored = [
            line[at : at + _PIECE] for line in log.splitlines(keepends=True) for at in range(0, len(line), _PIECE)
        ]
        log = b"".join(stored[max(0, len(stored) - int(lines)) :])
    return log[: int(query.get("limitBytes", len(log)))]


def _json(document: Json) -> bytes:
    return json.dumps(document).encode()


def _labels_match(held: Json, selector: str) -> bool:
    labels = held["metadata"].get("labels") or {}
    for term in filter(None, re.split(r",(?![^(]*\))", selector)):
        if found := re.fullmatch(r"\s*([^\s!=]+)\s+(in|notin)\s+\(([^)]*)\)\s*", term):
            inside = labels.get(found[1]) in [value.strip() for value in found[3].split(",")]
            if inside is not (found[2] == "in"):
                return False
        elif "!=" in term:
            key, _, value = term.partition("!=")
            if labels.get(key.strip()) == value.strip():
                return False
        elif "=" in term:
            key, _, value = term.replace("==", "=").partition("=")
            if labels.get(key.strip()) != value.strip():
                return False
        elif (term.strip().lstrip("!") in labels) is term.strip().startswith("!"):
            return False
    return True


def _fields_match(held: Json, selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        key, _, value = term.replace("==", "=").partition("=")
        found: Any = held
        for part in key.split("."):
            found = (found or {}).get(part)
        if str(found) != value:
            return False
    return True


def _check_job(job: Json, *, strict: bool) -> None:
    from kubernetes.client import V1Job
    from pydantic import ValidationError

    if strict:
        try:
            V1Job.model_validate(job)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            message = f'strict decoding error: unknown field "{where}" ({first["msg"]})'
            raise Refused(400, "BadRequest", message) from None
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        raise _invalid(name, "spec.template.spec.restartPolicy", "supported values: OnFailure, Never")
    for place, container in enumerate(pod["containers"]):
        resources = container.get("resources", {})
        for key, limit in resources.get("limits", {}).items():
            if "/" in key and resources.get("requests", {}).get(key, limit) != limit:
                where = f"spec.template.spec.containers[{place}].resources.requests"
                raise _invalid(name, where, f"must be equal to {key} limit of {limit}")


def _invalid(name: str, where: str, why: str) -> Refused:
    return Refused(422, "Invalid", f'Job.batch "{name}" is invalid: {where}: Invalid value: {why}')


class Server:
    """Listens on loopback until `close`."""

    def __init__(self, api: Api) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            retry_after = None
            if api.down:
                self.close_connection = True
                return
            try:
                status, answer = api.answer(self.command, self.path, self.headers, body)
            except Refused as refused:
                if refused.status == 0:
                    self.close_connection = True
                    return
                status, answer = refused.status, _json(refused.document())
                retry_after = refused.retry_after
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the base class calls them so

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    return Handler
