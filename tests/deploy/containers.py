"""Containers of a pod's specification, as processes in an image: with its user and rights, its volumes, and a file
system that is read-only but for them. They share this machine's network, where names lead to the machine itself.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.deploy.image_build import Image
from tests.deploy.namespaces import bound, in_namespaces, machine, overlaid, shell

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
LIMIT_S = 600


@dataclass
class Cluster:
    """What pods take from their cluster: config maps and secrets by name, and names of hosts.

    ``instead`` has texts that config maps and commands have, and what is there instead, such as ports that are free.
    """

    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hosts: Sequence[str] = ()
    instead: Mapping[str, str] = field(default_factory=dict)

    def changed(self, text: str) -> str:
        for old, new in self.instead.items():
            text = text.replace(old, new)
        return text


class Pod:
    """A pod of an image, whose volumes and changes to the image lie below a folder."""

    def __init__(self, image: Image, spec: Mapping[str, Any], cluster: Cluster, folder: Path) -> None:
        self.folder = folder
        self._image, self._spec, self._cluster = image, spec, cluster
        self._started: dict[str, subprocess.Popen[str]] = {}
        self._others: list[subprocess.Popen[str]] = []
        self._number = 0
        self._security = spec["securityContext"]
        (folder / "volumes").mkdir(parents=True)
        for volume in spec["volumes"]:
            self._make(self.volume(volume["name"]), volume)
        if spec.get("automountServiceAccountToken"):
            for name in ("token", "ca.crt", "namespace"):
                self._put(folder / "account" / name, "scorewatch")
        (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *cluster.hosts)))

    def start(self, name: str, *, command: Sequence[str] | None = None) -> subprocess.Popen[str]:
        """Start a container, or another command in its place."""
        container = self.container(name)
        security = container.get("securityContext", {})
        assert security.get("readOnlyRootFilesystem"), name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        user, group = self._security["runAsUser"], self._security["runAsGroup"]
        groups = self._security.get("fsGroup", group)
        words = command or [*container.get("command", self._image.entrypoint), *container.get("args", [])]
        variables = [f"{key}={value}" for key, value in self._environ(container).items()]
        root, upper, work = (self._new(f"{kind}-{self._number}") for kind in ("root", "changes", "work"))
        self._number += 1
        lines = [
            overlaid(self._image.layers, upper, work, root),
            *machine(root),
            *self._mounts(container, root),
            shell("mount", "-o", "remount,bind,ro", root),
            shell(
                *("exec", "chroot", root, "setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={groups}"),
                *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
                *("env", "-i", f"--chdir={self._image.folder}", *variables, *map(self._cluster.changed, words)),
            ),
        ]
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                in_namespaces(lines), stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
            )
        if command is None:
            self._started[name] = process
        else:
            self._others.append(process)
        return process

    def run(self, name: str, *, command: Sequence[str] | None = None) -> tuple[int, str]:
        """Run a container to its end: the exit code, and what it wrote."""
        place = self.folder / f"{name}.log"
        before = len(self.log(name))
        code = self.start(name, command=command).wait(LIMIT_S)
        return code, place.read_text()[before:]

    def log(self, name: str) -> str:
        place = self.folder / f"{name}.log"
        return place.read_text() if place.exists() else ""

    def container(self, name: str) -> dict[str, Any]:
        """The part of the specification that has this name."""
        [found] = [
            each for each in [*self._spec.get("initContainers", []), *self._spec["containers"]] if each["name"] == name
        ]
        return dict(found)

    def runs(self, name: str) -> bool:
        return self._started[name].poll() is None

    def stop(self, name: str, limit: float = 75.0) -> int:
        """End a container as the kubelet does, by asking its first process to. The exit code."""
        for first in psutil.Process(self._started[name].pid).children():
            first.send_signal(signal.SIGTERM)
        return self._started[name].wait(limit)

    def kill(self) -> None:
        """With the first process of a namespace go all others."""
        for each in (*self._started.values(), *self._others):
            each.kill()
            each.wait(30)

    def volume(self, name: str) -> Path:
        """The folder that is a volume."""
        return self.folder / "volumes" / name

    def changes(self) -> list[str]:
        """Files with content that the image does not have: outside of the volumes nothing can be written."""
        return [
            str(path.relative_to(self.folder))
            for upper in self.folder.glob("changes-*")
            for path in upper.rglob("*")
            if path.is_file() and path.stat().st_size
        ]

    def _environ(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The image's variables, then those of config maps and secrets, then the container's own."""
        found = {**self._image.environ, "HOSTNAME": "pod"}
        if self._spec.get("automountServiceAccountToken"):
            found |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
        for source in container.get("envFrom", []):
            [reference] = source.values()
            known = {**self._cluster.maps, **self._cluster.secrets}
            if not (reference.get("optional") and reference["name"] not in known):
                found |= known[reference["name"]]
        for each in container.get("env", []):
            found[each["name"]] = each["value"] if "value" in each else self._from(each["valueFrom"])
        return found

    def _from(self, reference: Mapping[str, Any]) -> str:
        if "fieldRef" in reference:
            return "0"
        wanted = reference["secretKeyRef"]
        return self._cluster.secrets[wanted["name"]][wanted["key"]]

    def _mounts(self, container: Mapping[str, Any], root: Path) -> list[str]:
        lines = bound(self.folder / "hosts", root / "etc" / "hosts")
        if (self.folder / "account").exists():
            lines += bound(self.folder / "account", root / TOKEN.lstrip("/"))
        for mount in sorted(container.get("volumeMounts", []), key=lambda each: str(each["mountPath"])):
            source = self.volume(mount["name"]) / mount.get("subPath", "")
            if not source.exists():
                self._own(source)
            target = root / mount["mountPath"].lstrip("/")
            lines += bound(source, target, read_only=bool(mount.get("readOnly")))
        return lines

    def _make(self, place: Path, volume: Mapping[str, Any]) -> None:
        if "configMap" not in volume:
            self._own(place)
            return
        for name, content in self._cluster.maps[volume["configMap"]["name"]].items():
            self._put(place / name, self._cluster.changed(content))

    def _own(self, place: Path) -> None:
        """A folder of a volume, as the kubelet makes it."""
        place.mkdir()
        os.chown(place, 0, self._security.get("fsGroup", 0))
        place.chmod(0o2777)

    def _put(self, place: Path, content: str) -> None:
        place.parent.mkdir(exist_ok=True)
        place.write_text(content, encoding="utf-8")
        place.chmod(0o644)

    def _new(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        folder.chmod(0o755)
        return folder


def until(condition: Callable[[], Any], pod: Pod, container: str, limit: float = LIMIT_S) -> None:
    """Returns when the condition holds; fails after ``limit`` seconds, or when the container has ended."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, pod.log(container)
        assert pod.runs(container), pod.log(container)
        time.sleep(0.1)


def answer(port: str, path: str, content: str | None = None) -> tuple[int, str]:
    """Status and content of what is answered; nothing, as long as nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("GET" if content is None else "POST", path, content, headers)
        found = connection.getresponse()
        return found.status, found.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def free_ports(count: int) -> list[str]:
    """Ports of 127.0.0.1 that nobody listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [str(each.getsockname()[1]) for each in servers]
    finally:
        for each in servers:
            each.close()
