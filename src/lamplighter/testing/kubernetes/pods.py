"""What only pods have: being bound to a node, being evicted, and their logs, which the API server fetches from the node's kubelet."""

import asyncio
import contextlib
import copy
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from lamplighter.testing.http import Exchange
from lamplighter.testing.kubernetes import selectors
from lamplighter.testing.kubernetes.errors import ApiRefusal, bad_request, conflict
from lamplighter.testing.kubernetes.kinds import Kind
from lamplighter.testing.kubernetes.rest import Rest, Write
from lamplighter.testing.kubernetes.store import Object
from lamplighter.testing.kubernetes.times import now_text

_PATIENCE = 5.0


def _kind(rest: Rest, group: str, plural: str) -> Kind:
    kind = rest.kinds.find(group, "v1", plural)
    assert kind is not None
    return kind


def bind(rest: Rest, namespace: str, name: str, binding: Object) -> None:
    """Give the pod its node. Raises ApiRefusal (409) when it has one."""
    kind = _kind(rest, "", "pods")
    with rest.store.lock:
        live = rest.get(kind, namespace, name)
        if live["spec"].get("nodeName"):
            raise conflict(kind, name, f'pod {name} is already assigned to node "{live["spec"]["nodeName"]}"')
        if live["metadata"].get("deletionTimestamp"):
            raise conflict(kind, name, f"pod {name} is being deleted, cannot be assigned to a host")
        status = copy.deepcopy(live)
        others = [one for one in (status.get("status") or {}).get("conditions") or [] if one["type"] != "PodScheduled"]
        told = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now_text()}
        status.setdefault("status", {})["conditions"] = [*others, told]
        marked = rest.update(kind, namespace, name, status, Write("kube-scheduler", "status"))  # first: its kubelet must see both
        new = copy.deepcopy(marked)
        new["spec"]["nodeName"] = binding["target"]["name"]
        rest.update(kind, namespace, name, new, Write("kube-scheduler", "binding"))


def evict(rest: Rest, namespace: str, name: str, eviction: Object) -> None:
    """Delete the pod unless a PodDisruptionBudget keeps it. Raises ApiRefusal (429) then."""
    kind, budgets = _kind(rest, "", "pods"), _kind(rest, "policy", "poddisruptionbudgets")
    with rest.store.lock:
        live = rest.get(kind, namespace, name)
        for budget in rest.store.all(budgets, namespace):
            matches = selectors.of_object(budget["spec"].get("selector"))
            if not matches(live["metadata"].get("labels") or {}):
                continue
            covered = [one for one in rest.store.all(kind, namespace) if matches(one["metadata"].get("labels") or {})]
            ready = sum(_ready(one) for one in covered)
            allowed = ready - _amount(budget["spec"].get("minAvailable", 0), len(covered))
            if "maxUnavailable" in budget["spec"]:
                allowed = ready - (len(covered) - _amount(budget["spec"]["maxUnavailable"], len(covered)))
            if allowed < 1 and _ready(live):
                need = f"The disruption budget {budget['metadata']['name']} needs more healthy pods than {ready - 1}"
                cause = {
                    "reason": "DisruptionBudget",
                    "message": need,
                }
                raise ApiRefusal(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    {"causes": [cause]},
                    10,
                )
        rest.delete(kind, namespace, name, eviction.get("deleteOptions"))


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _amount(told: Any, total: int) -> int:
    return -(-total * int(told.removesuffix("%")) // 100) if isinstance(told, str) else int(told)


async def log(exchange: Exchange, rest: Rest, namespace: str, name: str, query: Mapping[str, str]) -> None:
    """Pass on what the node's kubelet tells of a container."""
    pod = rest.get(_kind(rest, "", "pods"), namespace, name)
    names = [one["name"] for one in [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]]
    container = query.get("container") or names[-1]
    if not query.get("container") and len(pod["spec"]["containers"]) > 1:
        raise bad_request(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
    if container not in names:
        raise bad_request(f"container {container} is not valid for pod {name}")
    node = rest.store.get(_kind(rest, "", "nodes"), "", pod["spec"].get("nodeName") or "")
    if node is None:
        raise bad_request(f'container "{container}" in pod "{name}" is not available: the pod has no node yet')
    address = next((one["address"] for one in node["status"].get("addresses") or [] if one["type"] == "InternalIP"), "")
    port = int(((node["status"].get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port", 10250))
    asked = urlencode({key: value for key, value in query.items() if key != "container"})
    path = f"/containerLogs/{namespace}/{name}/{container}" + (f"?{asked}" if asked else "")
    try:
        status, body = await asyncio.wait_for(_fetch(address, port, path), _PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        message = f'Get "https://{address}:{port}{path}": {error}'
        raise ApiRefusal(500, "InternalError", message) from error
    if status != 200:
        raise ApiRefusal(status, "BadRequest" if status == 400 else "InternalError", body.decode(errors="replace").strip())
    exchange.answer(200, body, "text/plain")


async def _fetch(host: str, port: int, path: str) -> tuple[int, bytes]:
    """The kubelet's answer; without checking its certificate, as an API server without `--kubelet-certificate-authority`."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
        return int(head.split(" ", 2)[1]), await reader.readexactly(length)
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


__all__ = ["bind", "evict", "log"]
