"""What the API server does to an object before it keeps it: defaults, generation, what may not change, and the plainest of its validation.

Far from all of Kubernetes' validation and defaults: published schemas (kubernetes-validate) and a real API server know more.
"""

import base64
import binascii
import re
from typing import Any

from lamplighter.testing.kubernetes import selectors
from lamplighter.testing.kubernetes.errors import invalid
from lamplighter.testing.kubernetes.kinds import Kind
from lamplighter.testing.kubernetes.store import Object

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_RBAC_NAME = re.compile(r"[^/%]+")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
_LABEL_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)
_POD_RULE = (
    "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, "
    "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds`"
)
_STS_RULE = (
    "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)
_STS_MAY_CHANGE = {
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "revisionHistoryLimit",
}
_POD_MAY_CHANGE = {
    "activeDeadlineSeconds",
    "tolerations",
    "terminationGracePeriodSeconds",
    "containers",
    "initContainers",
    "schedulingGates",
    "nodeName",
}


class Addresses:
    """Cluster IPs for Services, from 10.96.0.0/16."""

    def __init__(self) -> None:
        self._next = 10

    def take(self) -> str:
        """One that nobody has."""
        self._next += 1
        return f"10.96.{self._next // 256}.{self._next % 256}"


def default(kind: Kind, found: Object, addresses: Addresses) -> None:
    """Fill in what the server fills in. In place."""
    spec = found.get("spec")
    if kind.key == ("", "secrets"):
        found.setdefault("type", "Opaque")
        plain = found.pop("stringData", None) or {}
        if plain:
            found["data"] = {
                **(found.get("data") or {}),
                **{key: base64.b64encode(value.encode()).decode() for key, value in plain.items()},
            }
        return
    if not isinstance(spec, dict):
        if kind.key == ("", "namespaces"):
            found["spec"] = {"finalizers": ["kubernetes"]}
        return
    if kind.group == "apps" and kind.kind in ("Deployment", "StatefulSet", "ReplicaSet"):
        spec.setdefault("replicas", 1)
    if kind.key == ("apps", "deployments"):
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("progressDeadlineSeconds", 600)
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxSurge", "25%")
            rolling.setdefault("maxUnavailable", "25%")
    elif kind.key == ("apps", "statefulsets"):
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("podManagementPolicy", "OrderedReady")
        if spec.setdefault("updateStrategy", {}).setdefault("type", "RollingUpdate") == "RollingUpdate":
            spec["updateStrategy"].setdefault("rollingUpdate", {}).setdefault("partition", 0)
    elif kind.key == ("", "services"):
        _default_service(spec, addresses)
    elif kind.key == ("", "pods"):
        _default_pod(spec)
        spec.setdefault("serviceAccountName", "default")
        found.setdefault("status", {}).setdefault("phase", "Pending")
    if isinstance(template := spec.get("template"), dict) and not kind.custom:
        template.setdefault("metadata", {})
        _default_pod(template.setdefault("spec", {}))


def _default_service(spec: dict[str, Any], addresses: Addresses) -> None:
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] != "ExternalName":
        if not spec.get("clusterIP"):
            spec["clusterIP"] = addresses.take()
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")


def _default_pod(spec: dict[str, Any]) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        image = container.get("image", "")
        latest = ":" not in image.rpartition("/")[2] or image.endswith(":latest")
        container.setdefault("imagePullPolicy", "Always" if latest and "@" not in image else "IfNotPresent")
        container.setdefault("resources", {})
        for name, amount in (container["resources"].get("limits") or {}).items():
            container["resources"].setdefault("requests", {}).setdefault(name, amount)
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")
        for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
            if probe in container:
                for name, value in (
                    ("timeoutSeconds", 1),
                    ("periodSeconds", 10),
                    ("successThreshold", 1),
                    ("failureThreshold", 3),
                ):
                    container[probe].setdefault(name, value)
                if "httpGet" in container[probe]:
                    container[probe]["httpGet"].setdefault("scheme", "HTTP")
    for volume in spec.get("volumes") or []:
        for source in ("secret", "configMap"):
            if source in volume:
                volume[source].setdefault("defaultMode", 420)


def validate(kind: Kind, new: Object, old: Object | None) -> None:
    """Raises ApiRefusal (422) naming every field that is wrong."""
    meta = new["metadata"]
    name = meta.get("name", "")
    causes: list[tuple[str, str]] = []
    pattern = _LABEL_NAME if kind.kind in ("Service", "Namespace") else _RBAC_NAME if kind.group.startswith("rbac.") else _NAME
    if not pattern.fullmatch(name) or len(name) > (63 if pattern is _LABEL_NAME else 253):
        causes.append(("metadata.name", f'Invalid value: "{name}": {_NAME_RULE}'))
    for field, found in (("metadata.labels", meta.get("labels")), ("spec.template.labels", _template_labels(new))):
        for value in (found or {}).values():
            if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
                causes.append((field, f'Invalid value: "{value}": {_LABEL_RULE}'))  # noqa: PERF401 - reads better than one expression
    spec = new.get("spec") or {}
    if kind.group == "apps" and kind.kind != "DaemonSet":
        causes += _validate_workload(kind, spec, old)
    if kind.key == ("", "pods"):
        causes += _validate_pod(spec, "spec")
        if old is not None and any(spec.get(key) != value for key, value in old["spec"].items() if key not in _POD_MAY_CHANGE):
            causes.append(("spec", _POD_RULE))
    if kind.key == ("", "services"):
        if not spec.get("ports") and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
            causes.append(("spec.ports", "Required value"))
        if old is not None and old["spec"].get("clusterIP") != spec.get("clusterIP"):
            causes.append(("spec.clusterIPs[0]", f'Invalid value: ["{spec.get("clusterIP")}"]: may not change once set'))
    if kind.key == ("", "secrets"):
        causes += _validate_secret(new, old)
    if causes:
        raise invalid(kind, name, causes)


def _template_labels(new: Object) -> Any:
    template = (new.get("spec") or {}).get("template")
    return (template.get("metadata") or {}).get("labels") if isinstance(template, dict) else None


def _validate_workload(kind: Kind, spec: dict[str, Any], old: Object | None) -> list[tuple[str, str]]:
    causes: list[tuple[str, str]] = []
    if not isinstance(spec.get("replicas"), int) or spec["replicas"] < 0:
        causes.append(("spec.replicas", f"Invalid value: {spec.get('replicas')}: must be greater than or equal to 0"))
    template = spec.get("template") or {}
    found = (template.get("metadata") or {}).get("labels") or {}
    if not spec.get("selector"):
        causes.append(("spec.selector", "Required value"))
    elif not selectors.of_object(spec["selector"])(found):
        causes.append(("spec.template.metadata.labels", f"Invalid value: {found}: `selector` does not match template `labels`"))
    causes += _validate_pod(template.get("spec") or {}, "spec.template.spec")
    before = (old or {}).get("spec")
    if before is not None and kind.kind == "StatefulSet":
        if any(spec.get(key) != before.get(key) for key in {*spec, *before} - _STS_MAY_CHANGE):
            causes.append(("spec", _STS_RULE))
    elif before is not None and before.get("selector") != spec.get("selector"):
        causes.append(("spec.selector", "Invalid value: field is immutable"))
    return causes


def _validate_pod(spec: dict[str, Any], path: str) -> list[tuple[str, str]]:
    causes: list[tuple[str, str]] = []
    if not spec.get("containers"):
        causes.append((f"{path}.containers", "Required value"))
    volumes = {volume.get("name") for volume in spec.get("volumes") or []}
    for group in ("containers", "initContainers"):
        names: set[str] = set()
        for index, container in enumerate(spec.get(group) or []):
            here = f"{path}.{group}[{index}]"
            name = container.get("name", "")
            if not _LABEL_NAME.fullmatch(name):
                causes.append((f"{here}.name", "Required value" if not name else f'Invalid value: "{name}"'))
            if name in names:
                causes.append((f"{here}.name", f'Duplicate value: "{name}"'))
            names.add(name)
            if not container.get("image"):
                causes.append((f"{here}.image", "Required value"))
            causes += [(f"{here}.volumeMounts[{at}].name", f'Not found: "{mount.get("name")}"')
                       for at, mount in enumerate(container.get("volumeMounts") or []) if mount.get("name") not in volumes]  # fmt: skip
            causes += _validate_resources(container.get("resources") or {}, f"{here}.resources")
            for port in container.get("ports") or []:
                if len(port.get("name") or "") > 15:
                    causes.append((f"{here}.ports.name", f'Invalid value: "{port["name"]}": must be no more than 15 characters'))
    return causes


def _validate_resources(resources: dict[str, Any], path: str) -> list[tuple[str, str]]:
    causes = []
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for part, found in (("requests", requests), ("limits", limits)):
        causes += [(f"{path}.{part}[{name}]", f"Invalid value: {value!r}: quantities must match the regular expression")
                   for name, value in found.items() if not _QUANTITY.fullmatch(str(value))]  # fmt: skip
    for name, value in requests.items():
        if "/" in name and str(limits.get(name)) != str(value):
            causes.append(
                (f"{path}.requests", f'Invalid value: "{value}": must be equal to {name} limit of {limits.get(name, 0)}')
            )
    return causes


def _validate_secret(new: Object, old: Object | None) -> list[tuple[str, str]]:
    causes = []
    for key, value in (new.get("data") or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            causes.append((f"data[{key}]", "Invalid value: illegal base64 data"))
    if old is not None:
        if old.get("type") != new.get("type"):
            causes.append(("type", f'Invalid value: "{new.get("type")}": field is immutable'))
        if old.get("immutable") and old.get("data") != new.get("data"):
            causes.append(("data", "Forbidden: field is immutable when `immutable` is set"))
    return causes


__all__ = ["Addresses", "default", "validate"]
