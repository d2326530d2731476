"""What Dagster's official chart (1.13) makes of deploy/dagster/values.yaml as the release `dagster`, in our own words.

The chart itself is not here. This is what was read in its templates, of what the values use, and compared with what
Helm renders of them: what it adds beside that (annotations, empty lists, defaults of retention) is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

RELEASE = "dagster"
INSTANCE, WORKSPACE = f"{RELEASE}-instance", f"{RELEASE}-workspace-yaml"
"""Config maps that the chart makes."""
WEBSERVER = f"{RELEASE}-dagster-webserver"
"""Its service."""
SERVERS = f"{RELEASE}-dagster-user-deployments"
"""What everything of the code servers begins with, but for their services."""
ANY = "0.0.0.0"  # noqa: S104 - of a pod
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


class Chart:
    """A values file, and what comes of it."""

    def __init__(self, file: Path) -> None:
        self.values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        self.servers: dict[str, dict[str, Any]] = {
            each["name"]: each for each in self.values["dagster-user-deployments"]["deployments"]
        }

    @property
    def services(self) -> dict[str, int]:
        """Ports of the services, by their names."""
        own = {name: each["port"] for name, each in self.servers.items()}
        return {**own, WEBSERVER: self.values["dagsterWebserver"]["service"]["port"]}

    def workspace(self) -> dict[str, Any]:
        """The workspace file: location and host of a code server have its name."""
        servers = [{"host": name, "port": each["port"], "location_name": name} for name, each in self.servers.items()]
        return {"load_from": [{"grpc_server": each} for each in servers]}

    def templates(self) -> dict[str, dict[str, Any]]:
        """The pods' templates: of every code server, `webserver` and `daemon`."""
        port, file = self.values["dagsterWebserver"]["service"]["port"], "/dagster-workspace/workspace.yaml"
        return {
            **{name: self._code_server(each) for name, each in self.servers.items()},
            "webserver": self._of_dagster("dagsterWebserver", f"dagster-webserver -h {ANY} -p {port} -w {file}"),
            "daemon": self._of_dagster("dagsterDaemon", f"dagster-daemon run -w {file}"),
        }

    def instance(self) -> dict[str, Any]:
        """The file dagster.yaml, but for the database."""
        daemon, more = self.values["dagsterDaemon"], self.values["additionalInstanceConfig"]
        launcher, queue = self.values["runLauncher"], daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
        assert (launcher["type"], self.values["computeLogManager"]) == (
            "CustomRunLauncher",
            {"type": "NoOpComputeLogManager"},
        )
        # The chart writes them only where they are true.
        threads = {name: daemon[name] for name in ("sensors", "schedules") if daemon[name]["useThreads"]}
        return {
            "telemetry": self.values["telemetry"],
            "run_launcher": launcher["config"]["customRunLauncher"],
            "compute_logs": {
                "module": "dagster._core.storage.noop_compute_log_manager",
                "class": "NoOpComputeLogManager",
            },
            "run_coordinator": {
                "module": "dagster.core.run_coordinator",
                "class": "QueuedRunCoordinator",
                "config": {name: each for name, each in _snake(queue).items() if each is not False},
            },
            "run_monitoring": _snake(daemon["runMonitoring"]),
            **({"run_retries": {"enabled": True}} if daemon["runRetries"]["enabled"] else {}),
            **_snake(threads),
            "retention": _snake({name: self.values["retention"][name] for name in ("schedule", "sensor")}),
            **more,
        }

    def database(self) -> dict[str, Any]:
        """Arguments of the address that Dagster makes of the chart's `postgresql`."""
        own = self.values["postgresql"]
        return {
            "username": own["postgresqlUsername"],
            "hostname": own["postgresqlHost"],
            "db_name": own["postgresqlDatabase"],
            "port": str(own["service"]["port"]),
            "scheme": own["postgresqlScheme"],
        }

    def _code_server(self, each: dict[str, Any]) -> dict[str, Any]:
        sub = self.values["dagster-user-deployments"]
        assert sub["includeInstance"] is False, "a second mount of the same file is an error"
        port = str(each["port"])
        asked = {"exec": {"command": ["dagster", "api", "grpc-health-check", "-p", port]}}
        container = {
            "name": "dagster-user-deployments",
            "args": ["dagster", "code-server", "start", "-h", ANY, "-p", port, *each["codeServerArgs"]],
            "startupProbe": {**asked, **_enabled(each["startupProbe"])},
            "livenessProbe": each["livenessProbe"],
            **self._container(each, f"{SERVERS}-user-deployments-shared-env", f"{SERVERS}-{each['name']}-user-env"),
        }
        container["env"].insert(0, {"name": "DAGSTER_CURRENT_IMAGE", "value": image(each["image"])})
        container["envFrom"].append({"secretRef": {"name": f"{RELEASE}-celery-config-secret", "optional": True}})
        assert each["readinessProbe"] == {"enabled": False}, "another one takes more than this"
        labels = {NAME: sub["nameOverride"], "component": "user-deployments", "deployment": each["name"]}
        return _template(labels, each, sub["serviceAccount"], each["initContainers"], container)

    def _of_dagster(self, key: str, command: str) -> dict[str, Any]:
        each = self.values[key]
        waiting = [
            {
                "name": f"init-user-deployment-{name}",
                "image": "docker.io/busybox:1.28",
                "command": ["sh", "-c", f"until nslookup {name}; do echo waiting for user service; sleep 2; done"],
                "securityContext": each["securityContext"],
                "resources": each["initContainerResources"],
            }
            for name in self.servers
        ]
        assert each["checkDbReadyInitContainer"] is False, "it would be one more image"
        home = self.values["global"]["dagsterHome"]
        own = self._container(each, f"{RELEASE}-{key.removeprefix('dagster').lower()}-env")
        mounts = [
            {"name": "dagster-instance", "mountPath": f"{home}/dagster.yaml", "subPath": "dagster.yaml"},
            {"name": "dagster-workspace-yaml", "mountPath": "/dagster-workspace/"},
        ]
        container = {
            "name": "dagster",
            "command": ["/bin/bash", "-c", command],
            **{
                name: _enabled(each[name])
                for name in ("startupProbe", "readinessProbe", "livenessProbe")
                if name in each
            },
            **own,
            "volumeMounts": [*mounts, *own["volumeMounts"]],
        }
        volumes = [{"name": name, "configMap": {"name": name}} for name in ("dagster-instance", WORKSPACE)]
        assert [each["configMap"]["name"] for each in volumes] == [INSTANCE, WORKSPACE]
        labels = {NAME: self.values["nameOverride"], "component": f"dagster-{key.removeprefix('dagster').lower()}"}
        initial = [*each["extraPrependedInitContainers"], *waiting]
        template = _template(labels, each, self.values["serviceAccount"], initial, container)
        template["spec"]["volumes"] = [*volumes, *each["volumes"]]
        return template

    def _container(self, each: dict[str, Any], *own_maps: str) -> dict[str, Any]:
        password = {"name": self.values["global"]["postgresqlSecretName"], "key": "postgresql-password"}
        return {
            "image": image(each["image"]),
            "imagePullPolicy": each["image"]["pullPolicy"],
            "securityContext": each["securityContext"],
            "resources": each["resources"],
            "env": [{"name": "DAGSTER_PG_PASSWORD", "valueFrom": {"secretKeyRef": password}}, *each["env"]],
            "envFrom": [
                *({"configMapRef": {"name": name}} for name in own_maps),
                *({"configMapRef": each} for each in each["envConfigMaps"]),
                *({"secretRef": each} for each in each.get("envSecrets", [])),
            ],
            "volumeMounts": each["volumeMounts"],
        }


def image(value: dict[str, str]) -> str:
    """The digest goes before a tag."""
    return f"{value['repository']}@{value['digest']}"


def _template(
    labels: dict[str, str],
    each: dict[str, Any],
    account: dict[str, Any],
    initial: list[dict[str, Any]],
    container: dict[str, Any],
) -> dict[str, Any]:
    assert account["create"] is False, "it would be one that nobody gave a role"
    assert not labels.keys() & each["labels"].keys(), "a key that is there twice is an error"
    spec = {
        "serviceAccountName": account["name"],
        "automountServiceAccountToken": True,
        "securityContext": each["podSecurityContext"],
        "initContainers": initial,
        "containers": [container],
        "volumes": each["volumes"],
    }
    return {"metadata": {"labels": {**labels, "app.kubernetes.io/instance": RELEASE, **each["labels"]}}, "spec": spec}


def _enabled(probe: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in probe.items() if name != "enabled"}


def _snake(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name): _snake(each) for name, each in value.items()
    }
