"""From a model, its pool and its engine's container to Kubernetes objects. Pure: nothing is asked, nothing is applied.

Pods fit PodSecurity *restricted*. Replicas are never part of a manifest: only the scale subresource has them. Not responsible for what an engine
needs (`engines.*.container`), nor for applying (`applying`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lamplighter import __version__
from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool, Toleration
from lamplighter.engines.base import Accelerator, Container
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, LEADER_WORKER_SET, STATEFUL_SET, Kind, Manifest

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
_RUNS_ON = {
    "engine", "source", "revision", "context", "slots", "threads", "embeddings", "gpu_layers", "arguments", "environment", "image", "gpus", "cpu",
    "memory", "capabilities", "pull",
}  # fmt: skip
"""What of a model's settings its pods depend on."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One model's objects. `object`: the Deployment, StatefulSet or LeaderWorkerSet, without replicas. `settings`: hash of what was configured."""

    kind: Kind
    name: str
    object: Manifest
    service: Manifest
    template_hash: str
    settings: str
    container: Container

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """In the order in which they are applied."""
        return (self.service, self.object)

    def asleep(self) -> Manifest:
        """For its first creation: with no replicas, and not yet marked as whole; see `applying`."""
        metadata = {
            **self.object["metadata"],
            "annotations": {names.MODEL_NAME: self.object["metadata"]["annotations"][names.MODEL_NAME]},
        }
        return {**self.object, "metadata": metadata, "spec": {"replicas": 0, **self.object["spec"]}}


def kind_of(pool: KubernetesPool) -> Kind:
    """What a pool's workloads are."""
    if pool.nodes > 1:
        return LEADER_WORKER_SET
    return STATEFUL_SET if pool.workload == "statefulset" else DEPLOYMENT


def accelerator(pool: KubernetesPool, model: ModelConfig, known: Accelerator | None) -> Accelerator | None:
    """What an engine is told of its GPUs: their number from the settings, the rest from `known`; bf16 is taken for granted where nothing is known."""
    gpus = pool.gpus if model.gpus is None else model.gpus
    if gpus == 0:
        return None
    base = known or Accelerator(name="", count=gpus, memory=0, bf16=True)
    return replace(base, count=gpus, nodes=pool.nodes)


def build(
    model: str,
    config: ModelConfig,
    pool: str,
    settings: KubernetesPool,
    container: Container,
    *,
    namespace: str,
    installation: str | None = None,
) -> Workload:
    """The objects of one model."""
    name = names.workload_name(pool, model)
    labels = names.labels(pool, model, installation)
    template = _template(model, config, pool, settings, container, labels)
    configured = names.digest({"model": config.model_dump(mode="json", include=_RUNS_ON), "pool": _lasting(settings)})
    member = None
    if settings.nodes > 1:
        arguments = container.member_arguments if container.member_arguments is not None else container.arguments
        member = _template(model, config, pool, settings, replace(container, arguments=arguments), labels, member=True)
    hashed = names.digest({"template": template, "member": member, "nodes": settings.nodes})
    for one in (template, *([member] if member is not None else [])):
        one["metadata"]["annotations"] |= {names.SPEC_HASH: hashed, names.SETTINGS_HASH: configured}
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": labels,
        "annotations": {names.MODEL_NAME: model, names.SPEC_HASH: hashed, names.SETTINGS_HASH: configured},
    }
    kind = kind_of(settings)
    chosen = names.selector(pool, model)
    if kind is LEADER_WORKER_SET:
        spec: Manifest = {
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0}},
            "leaderWorkerTemplate": {
                "size": settings.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": template,
                "workerTemplate": member,
            },
        }
    elif kind is STATEFUL_SET:
        spec = {
            "selector": {"matchLabels": chosen},
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "revisionHistoryLimit": 2,
            "template": template,
        }
    else:
        spec = {
            "selector": {"matchLabels": chosen},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": math.ceil(settings.boot_deadline) + 60,
            "revisionHistoryLimit": 2,
            "template": template,
        }
    whole = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": spec}
    service = _service(name, namespace, labels, chosen, headless=kind is STATEFUL_SET)
    return Workload(kind, name, whole, service, hashed, configured, container)


def key_secret(pool: str, key: str, *, namespace: str, installation: str | None) -> Manifest:
    """The Secret with the key that the pool's engines demand."""
    found = {names.MANAGED_BY: names.OURS, names.NAME: names.APP, names.POOL: pool}
    labels = found if installation is None else {**found, names.INSTALLATION: installation}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": names.key_secret(pool), "namespace": namespace, "labels": labels},
        "type": "Opaque",
        "stringData": {names.ENGINE_KEY: key},
    }


def _service(name: str, namespace: str, labels: Mapping[str, str], chosen: Mapping[str, str], *, headless: bool) -> Manifest:
    spec: Manifest = {
        "type": "ClusterIP",
        "selector": {**chosen, names.ROLE: names.ENGINE},
        "ports": [{"name": PORT, "port": 80, "targetPort": PORT, "protocol": "TCP"}],
    }
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": spec,
    }


def _template(
    model: str,
    config: ModelConfig,
    pool: str,
    settings: KubernetesPool,
    container: Container,
    labels: Mapping[str, str],
    *,
    member: bool = False,
) -> Manifest:
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


def _lasting(settings: KubernetesPool) -> Mapping[str, object]:
    """What of a pool's settings a running pod depends on; how long it sleeps and how many there are is not among it."""
    beside = {
        "sleep_after", "min_replicas", "max_replicas", "boot_deadline", "swap_after", "min_residency", "target_per_replica", "scale_up_after",
        "scale_down_after", "keep_warm", "price", "price_share", "budget", "context", "kubeconfig", "at_exit",
    }  # fmt: skip
    return settings.model_dump(mode="json", exclude=beside)
