"""A small pod that is sent to the joined cluster and asked something: proof that a model's pod would be placed, would run and would be heard.

It asks twice: a short answer and a long one. When only the short one comes, full packets are lost on the way (the MTU). The pod ends itself and
is removed whatever happens; what an earlier one left is removed first. Not responsible for GPUs: it asks for none.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.federation import names, offload
from lamplighter.federation.reach import waiting
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import POD, Manifest
from lamplighter.providers.kubernetes.reading import condition, status
from lamplighter.providers.kubernetes.reading import name as name_of

IMAGE = "docker.io/traefik/whoami:v1.11.0"
"""A web server of a few MB that says its name, and sends as many bytes as it is asked for."""
LIMIT = 180.0
"""Seconds for everything."""
PORT = 8080
LONG = 65536
"""Bytes of the long answer: some dozens of full packets."""
_LABEL = ("lamplighter.dev/canary", "true")
_LIFE = 600
"""Seconds after which Kubernetes itself ends the pod, should nobody be there to remove it."""
_ANSWER = 15.0
_PAUSE = 1.0

Ask = Callable[[Manifest, str], Awaitable[int]]
"""Asks a pod for a path; the size of the answer. Raises KubernetesError, OSError or TimeoutError when none comes."""


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """`reason`: `not_placed`, `not_started`, `unheard`, `mtu`, `closed`, `refused`; None when all is well. `seconds`: by step."""

    ok: bool
    node: str | None = None
    address: str | None = None
    reason: str | None = None
    detail: str | None = None
    next_step: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def pod(name: str, namespace: str, node: str | None, *, image: str = IMAGE, life: int = _LIFE) -> Manifest:
    """The canary. It satisfies PodSecurity `restricted`, on both sides. `node`: a virtual node; None: whichever fits."""
    spec: dict[str, object] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": life,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 2,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "canary",
                "image": image,
                "args": ["--port", str(PORT), "--name", name],
                "ports": [{"name": "http", "containerPort": PORT}],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
                "readinessProbe": {"httpGet": {"path": "/bench", "port": "http"}, "periodSeconds": 2},
            }
        ],
    }
    placement = offload.pod_placement(node) if node else {"tolerations": offload.pod_placement("")["tolerations"]}
    labels = {names.OURS: names.OURS_VALUE, "app.kubernetes.io/name": "lamplighter-canary", _LABEL[0]: _LABEL[1]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {**spec, **placement},
    }


async def run(
    home: Cluster,
    namespace: str,
    node: str | None = None,
    *,
    image: str = IMAGE,
    limit: float = LIMIT,
    ask: Ask | None = None,
    clock: Clock | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> CanaryResult:
    """Send one, ask it, remove it. `told` hears what happens. Raises KubernetesError when the home cluster does not answer."""
    clock = clock or SystemClock()
    await remove(home, namespace)
    open_ = await offload.look(home, namespace, clock=clock)
    if not open_.ready:
        return CanaryResult(False, reason="closed", detail=open_.detail, next_step=open_.next_step)
    name = f"lamplighter-canary-{int(clock.time()):x}"
    try:
        try:
            await home.create(pod(name, namespace, node, image=image), namespace)
        except KubernetesError as error:
            if error.status in (400, 403, 422):
                return CanaryResult(False, reason="refused", detail=error.message, next_step=error.next_step)
            raise
        return await _follow(home, namespace, name, limit, ask or _through_api(home), clock, told)
    finally:
        await asyncio.shield(remove(home, namespace))


async def remove(home: Cluster, namespace: str) -> int:
    """Remove every canary of the namespace; how many there were."""
    found = await home.list(POD, namespace, labels={_LABEL[0]: _LABEL[1]})
    for one in found:
        await home.delete(POD, name_of(one), namespace, grace=2)
    return len(found)


async def _follow(
    home: Cluster, namespace: str, name: str, limit: float, ask: Ask, clock: Clock, told: Callable[[str], None]
) -> CanaryResult:
    began, step = clock.monotonic(), ""
    so_far = CanaryResult(False)
    while clock.monotonic() - began < limit:
        there = await home.get_or_none(POD, name, namespace)
        if there is None:
            return replace(so_far, reason="not_started", detail="The pod was removed by somebody else.")
        passed = clock.monotonic() - began
        so_far, now = _seen(so_far, there, passed)
        if now != step:
            step = now
            told(step)
        if status(there).get("phase") in ("Failed", "Succeeded"):
            return replace(
                so_far,
                reason="not_started",
                detail=f"The pod ended: {waiting(there) or status(there).get('reason') or 'no reason told'}.",
            )
        if condition(there, "Ready").get("status") == "True" and so_far.address:
            return await _heard(so_far, there, ask, clock, began)
        await clock.sleep(_PAUSE)
    return _late(so_far, await home.get_or_none(POD, name, namespace), limit)


def _seen(so_far: CanaryResult, there: Manifest, passed: float) -> tuple[CanaryResult, str]:
    node = (there.get("spec") or {}).get("nodeName") or None
    address = status(there).get("podIP") or None
    seconds = dict(so_far.seconds)
    if node:
        seconds.setdefault("placed", round(passed, 1))
    if address:
        seconds.setdefault("address", round(passed, 1))
    if condition(there, "Ready").get("status") == "True":
        seconds.setdefault("ready", round(passed, 1))
    word = f"runs on {node} as {address}" if address else f"is placed on {node}" if node else "waits for a virtual node"
    return replace(so_far, node=node, address=address, seconds=seconds), word


async def _heard(so_far: CanaryResult, there: Manifest, ask: Ask, clock: Clock, began: float) -> CanaryResult:
    try:
        async with asyncio.timeout(_ANSWER):
            await ask(there, "bench")
    except (KubernetesError, OSError, TimeoutError) as error:
        return replace(
            so_far, reason="unheard", detail=f"The pod runs, but does not answer at {so_far.address}: {_words(error)}.",
            next_step="The tunnel between the clusters: `lamplighter federation status`. A NetworkPolicy in the namespace may forbid it too.",
        )  # fmt: skip
    seconds = {**so_far.seconds, "answered": round(clock.monotonic() - began, 1)}
    try:
        async with asyncio.timeout(_ANSWER):
            size = await ask(there, f"data?size={LONG}")
    except (KubernetesError, OSError, TimeoutError) as error:
        size = 0
        why = _words(error)
    else:
        why = f"{size} bytes came"
    if size < LONG:
        return replace(
            so_far, seconds=seconds, reason="mtu",
            detail=f"Short answers come and long ones do not ({why}): full packets are lost on the way.",
            next_step="Liqo's MTU must be 60 less than the mesh's (`federation.mtu`), the same on both sides; `lamplighter mesh check` measures the mesh.",
        )  # fmt: skip
    return replace(so_far, ok=True, seconds={**seconds, "long answer": round(clock.monotonic() - began, 1)})


def _late(so_far: CanaryResult, there: Manifest | None, limit: float) -> CanaryResult:
    said = waiting(there) if there else ""
    if so_far.node is None:
        return replace(
            so_far, reason="not_placed", detail=f"The pod was not placed within {limit:.0f} s" + (f": {said}." if said else "."),
            next_step="`lamplighter federation status` tells whether the virtual node is ready and the namespace open.",
        )  # fmt: skip
    return replace(
        so_far, reason="not_started", detail=f"The pod on {so_far.node} was not ready within {limit:.0f} s" + (f": {said}." if said else "."),
        next_step="Look at the pod in the other cluster; its image must be reachable from there.",
    )  # fmt: skip


def _through_api(home: Cluster) -> Ask:
    """Through the home cluster's API server, which every user of it reaches; it speaks to the pod as any pod of home would."""

    async def ask(there: Manifest, path: str) -> int:
        meta = there["metadata"]
        route, _, query = path.partition("?")
        params = dict(part.split("=", 1) for part in query.split("&") if part)
        where = POD.path(meta["namespace"], f"{meta['name']}:{PORT}", f"proxy/{route}")
        return len(await home.text(where, params=params, limit=_ANSWER))

    return ask


def _words(error: Exception) -> str:
    return error.message.rstrip(".") if isinstance(error, KubernetesError) else str(error) or "no answer in time"
