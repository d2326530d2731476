"""Kubernetes' API as far as pods and jobs go: it keeps what it is told, and what was asked of it, by verb and resource.

Bodies have to be what the schemas of Kubernetes allow, without a field that they do not know. A job gets its pod at
once; how both are doing is what the test says.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

from tests.recorders.faults import Answer
from tests.recorders.server import Handler

VERSION = "1.36"
_PATH = re.compile(r"/(?:api/v1|apis/batch/v1)/namespaces/([a-z0-9-]+)/([a-z]+)(?:/([a-z0-9.-]+)(?:/([a-z]+))?)?")
_GROUP = {"pods": "", "events": "", "jobs": "batch"}
_LIST = {"pods": "PodList", "events": "EventList", "jobs": "JobList"}
_VERB = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "GET": "get"}


class Call(NamedTuple):
    """A request in the words of a Role: ``("get", "batch", "jobs/status")``, and what it was about."""

    verb: str
    group: str
    resource: str
    name: str = ""

    @property
    def right(self) -> tuple[str, str, str]:
        return self[:3]


class KubernetesRecorder:
    """An API server of this machine, and the kubeconfig that leads to it. Set ``outage`` to have it answer so."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.calls: list[Call] = []
        self.problems: list[str] = []
        self.namespaces: set[str] = set()
        self.made: dict[str, dict[str, dict[str, Any]]] = {"pods": {}, "jobs": {}, "events": {}}
        self.pod_status: dict[str, Any] = {"phase": "Pending"}
        self.job_status: dict[str, Any] = {}
        self.outage: int | None = None
        recorder = self

        class Api(Handler):
            def serve(self, content: bytes) -> None:
                try:
                    answer = recorder._answer(self.command, self.path, content)
                except Exception as error:  # a mistake of the recorder's must not look like one of the cluster's
                    recorder.problems.append(f"{self.command} {self.path}: {error!r}")
                    answer = _status(500, repr(error))
                self.reply(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        kubeconfig.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{self._server.server_port}")), encoding="utf-8")

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def forget(self) -> None:
        """As after its start."""
        self.calls.clear()
        self.problems.clear()
        self.namespaces.clear()
        for kind in self.made.values():
            kind.clear()
        self.pod_status, self.job_status, self.outage = {"phase": "Pending"}, {}, None

    @property
    def rights(self) -> set[tuple[str, str, str]]:
        """What a Role has to allow for all that was asked."""
        return {call.right for call in self.calls}

    @property
    def pods(self) -> list[dict[str, Any]]:
        """As they were asked for."""
        return list(self.made["pods"].values())

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return list(self.made["jobs"].values())

    def _answer(self, method: str, target: str, content: bytes) -> Answer:
        path = _PATH.fullmatch(urlsplit(target).path)
        if path is None or path[2] not in _GROUP:
            self.problems.append(f"{method} {target}: it is not known here")
            return _status(404, f"no {target}")
        namespace, kind, name, part = path.groups()
        verb = "list" if method == "GET" and name is None else _VERB[method]
        resource = f"{kind}/{part}" if part else kind
        self.calls.append(Call(verb, _GROUP[kind], resource, name or ""))
        self.namespaces.add(namespace)
        if self.outage is not None:
            return _status(self.outage, "out of order")
        if verb == "create":
            return self._create(kind, json.loads(content))
        if verb == "list":
            return self._list(kind, parse_qs(urlsplit(target).query))
        return self._one(verb, kind, name, part)

    def _one(self, verb: str, kind: str, name: str, part: str | None) -> Answer:
        if name not in self.made[kind]:
            return _status(404, f"no {kind} {name}")
        if part == "log":
            return Answer(200, b"RUNNER'S LINE\n", {"Content-Type": "text/plain"})
        found = self._told(kind, self.made[kind][name])
        if verb == "delete":
            del self.made[kind][name]
        return Answer(200, found)

    def _create(self, kind: str, body: dict[str, Any]) -> Answer:
        name = body["metadata"]["name"]
        try:
            kubernetes_validate.validate(body, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            self.problems.append(f"{kind} {name}: {error}")
            return _status(422, str(error))
        if name in self.made[kind]:
            return _status(409, f"{kind} {name} is there already")
        self.made[kind][name] = body
        if kind == "jobs":
            template = body["spec"]["template"]
            metadata = {**template["metadata"], "name": f"{name}-x1y2z"}
            metadata["labels"] = {**metadata.get("labels", {}), "job-name": name}
            self.made["pods"][metadata["name"]] = {"kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        return Answer(201, body)

    def _list(self, kind: str, query: dict[str, list[str]]) -> Answer:
        labels = query.get("labelSelector", [""])[0]
        fields = query.get("fieldSelector", [""])[0]
        found = [
            self._told(kind, each)
            for each in self.made[kind].values()
            if _matches(labels, each["metadata"].get("labels", {})) and _matches(fields, _fields(each))
        ]
        version = "batch/v1" if kind == "jobs" else "v1"
        return Answer(200, {"kind": _LIST[kind], "apiVersion": version, "metadata": {}, "items": found})

    def _told(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        statuses = {"pods": self.pod_status, "jobs": self.job_status}
        return {**body, "status": statuses[kind]} if kind in statuses else body


def _fields(body: dict[str, Any]) -> dict[str, str]:
    about = body.get("involvedObject", {})
    return {"metadata.name": body["metadata"]["name"], "involvedObject.name": about.get("name", "")}


def _matches(selector: str, values: dict[str, str]) -> bool:
    for term in filter(None, selector.split(",")):
        name, sign, value = re.fullmatch(r"(!?[^!=]+)(!=|==?|)(.*)", term).groups()  # type: ignore[union-attr]
        if name.startswith("!"):
            holds = name[1:] not in values
        else:
            holds = (values.get(name) == value) != (sign == "!=") if sign else name in values
        if not holds:
            return False
    return True


def _status(code: int, message: str) -> Answer:
    return Answer(code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code})


def _kubeconfig(address: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {"token": "a-token"}}],
    }
