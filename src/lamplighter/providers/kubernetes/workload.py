"""From a model, its pool and its engine's container to Kubernetes objects. Pure: nothing is asked, nothing is applied.

Pods fit PodSecurity *restricted*. Replicas are never part of a manifest: only the scale subresource has them. Not responsible for what an engine
needs (`engines.*.container`), nor for applying (`applying`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lamplighter.config import ModelConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.engines.base import Accelerator, Container
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, LEADER_WORKER_SET, STATEFUL_SET, Kind, Manifest
from lamplighter.providers.kubernetes.template import CONTAINER, PORT, PRELOAD, autoscalers, template

__all__ = ["CONTAINER", "PORT", "PRELOAD", "Workload", "accelerator", "autoscalers", "build", "key_secret", "kind_of"]

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
    pods = template(model, config, pool, settings, container, labels)
    configured = names.digest({"model": config.model_dump(mode="json", include=_RUNS_ON), "pool": _lasting(settings)})
    member = None
    if settings.nodes > 1:
        arguments = container.member_arguments if container.member_arguments is not None else container.arguments
        member = template(model, config, pool, settings, replace(container, arguments=arguments), labels, member=True)
    hashed = names.digest({"template": pods, "member": member, "nodes": settings.nodes})
    for one in (pods, *([member] if member is not None else [])):
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
                "leaderTemplate": pods,
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
            "template": pods,
        }
    else:
        spec = {
            "selector": {"matchLabels": chosen},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": math.ceil(settings.boot_deadline) + 60,
            "revisionHistoryLimit": 2,
            "template": pods,
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


def _lasting(settings: KubernetesPool) -> Mapping[str, object]:
    """What of a pool's settings a running pod depends on; how long it sleeps and how many there are is not among it."""
    beside = {
        "sleep_after", "min_replicas", "max_replicas", "boot_deadline", "swap_after", "min_residency", "target_per_replica", "scale_up_after",
        "scale_down_after", "keep_warm", "price", "price_share", "budget", "context", "kubeconfig", "at_exit",
    }  # fmt: skip
    return settings.model_dump(mode="json", exclude=beside)
