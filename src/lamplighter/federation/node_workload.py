"""The workload of one machine in the home cluster: a Deployment of one pod that only runs on the virtual node of that machine. Pure.

It is also the record of the peering: made, with no pod, before anything of Liqo's is asked for, and deleted only when nothing of the peering is
left. So whoever comes after a crash finds every peering that was begun. Not responsible for its being written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.config import ModelConfig
from lamplighter.config.federation import FederationConfig
from lamplighter.config.kubernetes import KubernetesPool
from lamplighter.config.pools import AwsPool
from lamplighter.engines.base import Container
from lamplighter.federation import names as liqo
from lamplighter.federation.node_duty import cluster_id
from lamplighter.federation.slice import Slice, amount
from lamplighter.providers.kubernetes import names, workload
from lamplighter.providers.kubernetes.kinds import Manifest
from lamplighter.providers.kubernetes.reading import meta

REPLICA = "lamplighter.dev/replica"
"""Label: the handle of the replica that the machine was launched for."""
INSTANCE = "lamplighter.dev/instance"
"""Annotation: the machine."""
HUB_TOKEN = "token"  # noqa: S105 - the name of a key
GONE_AFTER = 30
"""Seconds after which a pod is given up on a node that does not answer; Kubernetes itself waits five minutes."""
_OF_CPU, _OF_MEMORY = 0.5, 0.95
"""Of the slice: CPU is asked for, not limited; memory is both."""
GRACE = "30s"
"""Of a pod: when it is asked to end, the keeper has let its answers finish already."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a workload says of its machine. `wanted`: whether it shall have its pod."""

    name: str
    handle: str
    instance: str
    model: str
    wanted: bool

    @property
    def cluster(self) -> str:
        """The id of the machine's cluster."""
        return cluster_id(self.instance)


def settings(
    pool: AwsPool, federation: FederationConfig, kind: str, share: Slice, cluster: str, hub_secret: str | None
) -> KubernetesPool:
    """As if it were a pool of kind `kubernetes`, of that one node. The machine is the pod's: all GPUs of the slice, most of its memory."""
    gone = {"operator": "Exists", "effect": "NoExecute", "toleration_seconds": GONE_AFTER}
    return KubernetesPool.model_validate(
        {
            "kind": "kubernetes",
            "namespace": federation.namespace,
            "gpus": share.gpus,
            "cpu": f"{int(amount(share.cpu) * _OF_CPU * 1000)}m",
            "memory": f"{int(amount(share.memory) * _OF_MEMORY) // 2**20}MiB",
            "accelerator": kind,
            "max_replicas": 1,
            "boot_deadline": pool.boot_deadline,
            "sleep_after": pool.sleep_after,
            "termination_grace": GRACE,
            "node_selector": {liqo.REMOTE_ID: cluster, liqo.NODE_TYPE: liqo.VIRTUAL},
            "tolerations": [
                {"key": liqo.NOT_ALLOWED, "operator": "Exists", "effect": "NoExecute"},
                {"key": "node.kubernetes.io/unreachable", **gone},
                {"key": "node.kubernetes.io/not-ready", **gone},
            ],
            "annotations": {} if federation.runtime_class is None else {liqo.RUNTIME_CLASS: federation.runtime_class},
            "cache": {"kind": "none", "size": f"{pool.disk_gb}GB"},
            **({} if hub_secret is None else {"hub_token_secret": f"{hub_secret}/{HUB_TOKEN}"}),
        }
    )


def build(
    handle: str,
    instance: str,
    model: str,
    config: ModelConfig,
    pool: str,
    given: KubernetesPool,
    container: Container,
    *,
    namespace: str,
    installation: str,
) -> Manifest:
    """The Deployment, still without its pod."""
    made = workload.build(model, config, pool, given, container, namespace=namespace, installation=installation)
    whole = made.asleep()
    own = {REPLICA: handle}
    template = whole["spec"]["template"]
    labels = {**whole["metadata"]["labels"], **own}
    annotations = {names.MODEL_NAME: model, names.SPEC_HASH: made.template_hash, INSTANCE: instance}
    spec = {
        **whole["spec"],
        "selector": {"matchLabels": {names.NAME: names.APP, names.POOL: pool, **own}},
        "strategy": {"type": "Recreate"},
        "template": {
            **template,
            "metadata": {**template["metadata"], "labels": {**template["metadata"]["labels"], **own}},
        },
    }
    metadata = {"name": names.workload_name(pool, handle), "namespace": namespace, "labels": labels, "annotations": annotations}
    return {**whole, "metadata": metadata, "spec": spec}


def read(deployment: Mapping[str, Any]) -> Record | None:
    """None: it is none of ours."""
    found = meta(deployment)
    handle = (found.get("labels") or {}).get(REPLICA)
    notes = found.get("annotations") or {}
    if not handle or INSTANCE not in notes:
        return None
    wanted = int((deployment.get("spec") or {}).get("replicas") or 0) > 0
    return Record(str(found["name"]), str(handle), str(notes[INSTANCE]), str(notes.get(names.MODEL_NAME, "")), wanted)


def selected(pool: str, installation: str) -> dict[str, str | None]:
    """The labels by which all workloads and pods of a pool are found."""
    return {names.POOL: pool, names.INSTALLATION: installation, REPLICA: None}


def hub_secret(pool: str, token: str, *, namespace: str, installation: str) -> Manifest:
    """The Secret with the hub's token, as the pods of a pool read it."""
    labels = {names.MANAGED_BY: names.OURS, names.NAME: names.APP, names.POOL: pool, names.INSTALLATION: installation}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": hub_secret_name(pool), "namespace": namespace, "labels": labels},
        "type": "Opaque",
        "stringData": {HUB_TOKEN: token},
    }


def hub_secret_name(pool: str) -> str:
    """Of that Secret."""
    return names.key_secret(pool).replace("-engine-", "-hub-", 1)
