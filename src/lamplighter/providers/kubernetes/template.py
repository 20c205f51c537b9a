"""A pod's template: what runs, with what, and how it is known to serve. Pure; fits PodSecurity *restricted*.

Not responsible for what pods belong to (`workload`), nor for what an engine needs (`engines.*.container`).
"""

import math
from collections.abc import Mapping, Sequence

from lamplighter import __version__
from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool, Toleration
from lamplighter.engines.base import Container
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.kinds import Manifest

PORT = "engine"
"""Name of the engine's port."""
CONTAINER = "engine"
"""Name of its container."""
PRELOAD = "preload"
"""Name of the init container that fetches weights."""
PRELOAD_IMAGE = f"ghcr.io/lamplighter/lamplighter:{__version__.partition('+')[0]}"
USER = 10001
_SLEEP = ("sleep", "5")
"""Before SIGTERM when the engine has nothing of its own: gateways need a moment to see that the pod is ending."""
_SLEEP_SECONDS = 5.0
_SCRATCH = "/tmp"  # noqa: S108 - inside the container
_STARTUP_EVERY = 2


def template(
    model: str,
    config: ModelConfig,
    pool: str,
    settings: KubernetesPool,
    container: Container,
    labels: Mapping[str, str],
    *,
    member: bool = False,
) -> Manifest:
    """For the pods of one model. `member`: of another machine than the one that answers."""
    role = names.MEMBER if member else names.ENGINE
    volumes, mounts = _volumes(settings, container)
    init = [] if member and settings.cache.kind == "claim" else _preload(model, config, settings, container)
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service named vllm would set VLLM_PORT for every pod of the namespace
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _grace(settings, container),
        "containers": [_engine(config, pool, settings, container, mounts, serves=not member)],
        "volumes": volumes,
    }
    if init:
        spec["initContainers"] = init
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [_toleration(one) for one in settings.tolerations]
    if settings.runtime_class is not None:
        spec["runtimeClassName"] = settings.runtime_class
    if settings.priority_class is not None:
        spec["priorityClassName"] = settings.priority_class
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.max_replicas > 1 and settings.nodes == 1:
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": names.selector(pool, model)},
            }
        ]
    return {
        "metadata": {
            "labels": {**settings.labels, **labels, names.ROLE: role},
            "annotations": {**autoscalers(settings), **settings.annotations, names.MODEL_NAME: model},
        },
        "spec": spec,
    }


def autoscalers(settings: KubernetesPool) -> dict[str, str]:
    """What cluster autoscalers are told of a pod.

    One that sleeps when idle frees its node by itself, so nobody may take the node while it answers. One that never sleeps would hold its node
    for ever, so it may be moved: its answers have the termination grace, and the keeper replaces it meanwhile.
    """
    for_ever = settings.min_replicas > 0 or settings.sleep_after == float("inf") or bool(settings.keep_warm)
    return {names.SAFE_TO_EVICT: "true"} if for_ever else {names.SAFE_TO_EVICT: "false", names.DO_NOT_DISRUPT: "true"}


def _engine(
    config: ModelConfig,
    pool: str,
    settings: KubernetesPool,
    container: Container,
    mounts: Sequence[Manifest],
    *,
    serves: bool,
) -> Manifest:
    found: Manifest = {
        "name": CONTAINER,
        "image": container.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [_literal(argument) for argument in container.arguments],
        "env": _environment(pool, settings, container),
        "resources": _resources(config, settings),
        "securityContext": locked(),
        "volumeMounts": list(mounts),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if not container.arguments:
        del found["args"]
    if serves:
        found["ports"] = [{"name": PORT, "containerPort": container.port, "protocol": "TCP"}]
        found |= _probes(settings, container)
        found["lifecycle"] = {"preStop": {"exec": {"command": list(container.pre_stop or _SLEEP)}}}
    return found


def _probes(settings: KubernetesPool, container: Container) -> Manifest:
    """Started: the loaded model answered. Ready: it still does. Alive: its process answers at all, however busy."""

    def asked(path: str, *, every: int, limit: int, misses: int) -> Manifest:
        get = {"path": path, "port": PORT, "scheme": "HTTP"}
        return {"httpGet": get, "periodSeconds": every, "timeoutSeconds": limit, "failureThreshold": misses}

    # The keeper gives up at the deadline; the kubelet a little later, for a keeper that is not there to do so.
    deadline = math.ceil(settings.boot_deadline * 1.25)
    ready = container.ready or container.health
    if container.prepare:
        startup: Manifest = {
            "exec": {"command": [_literal(word) for word in container.prepare]},
            "periodSeconds": _STARTUP_EVERY,
            "timeoutSeconds": deadline,
            "failureThreshold": max(3, deadline // _STARTUP_EVERY),
        }
    else:
        startup = asked(ready, every=_STARTUP_EVERY, limit=30, misses=max(3, deadline // _STARTUP_EVERY))
    return {
        "startupProbe": startup,
        "readinessProbe": asked(ready, every=5, limit=10, misses=3),
        "livenessProbe": asked(container.health, every=20, limit=15, misses=6),
    }


def _environment(pool: str, settings: KubernetesPool, container: Container) -> list[Manifest]:
    usual = {"HOME": _SCRATCH, "USER": names.OURS}  # libraries look up the user, whom the image does not know
    values = {**usual, **container.environment}
    if settings.cache.read_only:
        # What would be written beside the weights goes to the pod's own space, and nothing is asked of the hub.
        inside = container.weights.rstrip("/") + "/"
        values = {
            name: f"{_SCRATCH}/{value.removeprefix(inside)}"
            if name.endswith("CACHE_ROOT") and value.startswith(inside)
            else value
            for name, value in values.items()
        }
        values.setdefault("HF_HUB_OFFLINE", "1")
    found: list[Manifest] = [{"name": name, "value": _literal(value)} for name, value in values.items()]
    for name, what in container.secrets.items():
        if what == "key":
            found.append(_secret(name, names.key_secret(pool), names.ENGINE_KEY))
        elif what == "hub_token" and settings.hub_token is not None:
            found.append(_secret(name, *settings.hub_token))
    return found


def _secret(variable: str, name: str, key: str) -> Manifest:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}}


def _literal(text: str) -> str:
    """Kubernetes replaces `$(NAME)`; only the variables of a LeaderWorkerSet are meant so."""
    return text.replace("$(", "$$(").replace("$$(LWS_", "$(LWS_")


def _resources(config: ModelConfig, settings: KubernetesPool) -> Manifest:
    gpus = settings.gpus if config.gpus is None else config.gpus
    cpu = settings.cpu if config.cpu is None else config.cpu
    memory = settings.memory if config.memory is None else config.memory
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if cpu is not None:
        requests["cpu"] = str(cpu)
    if memory is not None:
        requests["memory"] = limits["memory"] = str(int(memory))
    if gpus:
        requests[settings.gpu_resource] = limits[settings.gpu_resource] = str(gpus)
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def locked() -> Manifest:
    """The security context of a container that PodSecurity *restricted* admits."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _volumes(settings: KubernetesPool, container: Container) -> tuple[list[Manifest], list[Manifest]]:
    """Weights, what the engine writes, and /dev/shm, which without a limit of its own is 64 MiB."""
    cache = settings.cache
    weights: Manifest = {"name": "weights"}
    if cache.kind == "claim":
        weights["persistentVolumeClaim"] = {"claimName": cache.claim, "readOnly": cache.read_only}
    else:
        weights["emptyDir"] = {"sizeLimit": str(int(cache.size))}
    volumes, mounts = [weights], [{"name": "weights", "mountPath": container.weights, "readOnly": cache.read_only}]
    for index, folder in enumerate(dict.fromkeys((_SCRATCH, *container.writable))):
        volumes.append({"name": f"writable-{index}", "emptyDir": {}})
        mounts.append({"name": f"writable-{index}", "mountPath": folder})
    shared = container.shared_memory if settings.shared_memory is None else settings.shared_memory
    if shared:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(int(shared))}})
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108 - inside the container
    return volumes, mounts


def _preload(model: str, config: ModelConfig, settings: KubernetesPool, container: Container) -> list[Manifest]:
    """The init container that fetches weights: when it was asked for, and always from a bucket, which no engine reads by itself."""
    if not settings.preload and settings.cache.kind != "s3":
        return []
    arguments = [
        "models",
        "pull",
        config.source or model,
        "--to",
        container.weights,
        "--engine",
        str(config.engine),
        "--progress",
        "lines",
    ]
    if config.revision is not None:
        arguments += ["--revision", config.revision]
    if settings.cache.kind == "s3":
        arguments += ["--mirror", str(settings.cache.url)]
    environment: list[Manifest] = [{"name": "HOME", "value": _SCRATCH}]
    if settings.hub_token is not None:
        environment.append(_secret("HF_TOKEN", *settings.hub_token))
    return [
        {
            "name": PRELOAD,
            "image": settings.preload_image or PRELOAD_IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "args": [_literal(argument) for argument in arguments],
            "env": environment,
            "resources": {"requests": {"cpu": "100m", "memory": str(256 * 2**20)}, "limits": {"memory": str(2**30)}},
            "securityContext": locked(),
            "volumeMounts": [
                {"name": "weights", "mountPath": container.weights},
                {"name": "writable-0", "mountPath": _SCRATCH},
            ],
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }
    ]


def _grace(settings: KubernetesPool, container: Container) -> int:
    """Enough for what runs before SIGTERM and for what the engine itself needs after it."""
    return math.ceil(max(float(settings.termination_grace), container.stop_grace + _SLEEP_SECONDS))


def _toleration(one: Toleration) -> Manifest:
    found = {
        "key": one.key,
        "operator": one.operator,
        "value": one.value,
        "effect": one.effect,
        "tolerationSeconds": one.toleration_seconds,
    }
    return {key: value for key, value in found.items() if value is not None}
