"""The profile `restricted` of Kubernetes' Pod Security Standards."""

from __future__ import annotations

from typing import Any


def violations(spec: dict[str, Any]) -> list[str]:
    """What of the profile a pod does not keep, by its specification; nothing when it keeps all of it."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers") if spec.get(name)]
    kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    found += [f"volume {each['name']}" for each in spec.get("volumes", []) if not set(each) - {"name"} <= kinds]
    own = spec.get("securityContext") or {}
    found += [name for name in ("sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile") if own.get(name)]
    for container in [*spec["containers"], *spec.get("initContainers", []), *spec.get("ephemeralContainers", [])]:
        mine = container.get("securityContext") or {}
        both = {**own, **mine}
        kept = {
            "privileged": not mine.get("privileged"),
            "allowPrivilegeEscalation": mine.get("allowPrivilegeEscalation") is False,
            "capabilities.drop": "ALL" in mine.get("capabilities", {}).get("drop", []),
            "capabilities.add": set(mine.get("capabilities", {}).get("add", [])) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": all(
                each.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost") for each in (own, both)
            ),
            "procMount": mine.get("procMount", "Default") == "Default",
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {name}" for name, holds in kept.items() if not holds]
    return found
