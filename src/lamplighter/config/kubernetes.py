"""Settings of pools of kind `kubernetes`: where in which cluster, and what a model's pods look like.

Not responsible for what the pods become (`providers.kubernetes.workload`), nor for what a model needs of a GPU (`lamplighter fit`).
"""

import os
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from lamplighter.config.pools import PoolBase
from lamplighter.config.section import Section
from lamplighter.config.types import Bytes, Span
from lamplighter.core.units import Duration, Size

Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
"""An RFC 1123 label: a namespace, a Service."""
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""An RFC 1123 subdomain: a claim, a Secret, a class."""
MetaKey = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
]
"""A key of a label, an annotation or a taint."""
LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Cpu = Annotated[str, StringConstraints(pattern=r"^([1-9]\d*m|[1-9]\d*(\.\d{1,3})?|0\.\d{1,3})$")]
"""Cores as Kubernetes writes them: `500m`, `4`, `1.5`."""
SecretKey = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(/[-._a-zA-Z0-9]{1,253})?$")]
"""`NAME/KEY` of a Secret; the key may be left out where one is usual."""


class Toleration(Section):
    """Lets pods run on nodes with a taint, as Kubernetes means it."""

    key: MetaKey | None = Field(None, description="The taint's key; default: any, which needs `operator: Exists`.")
    operator: Literal["Equal", "Exists"] = Field(
        "Equal", description="`Equal`: key and value must match; `Exists`: the key is enough."
    )
    value: LabelValue | None = Field(None, description="The taint's value, with `Equal`.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; default: all."
    )
    toleration_seconds: int | None = Field(
        None, ge=0, description="With `NoExecute`: how long it is tolerated; default: for ever."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("value: not possible with operator Exists")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("key: needed, unless operator is Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds: only with effect NoExecute")
        return self


class ModelCache(Section):
    """Where pods keep weights and what the engine compiled, so that the next wake finds them."""

    kind: Literal["none", "claim", "s3"] = Field(
        "none",
        description="`none`: downloaded at every wake into the pod's own space. `claim`: a PersistentVolumeClaim that exists. "
        "`s3`: copied from a bucket at every wake.",
    )
    claim: ObjectName | None = Field(
        None, description="With `claim`: name of the PersistentVolumeClaim, in the pool's namespace."
    )
    read_only: bool = Field(
        False,
        description="With `claim`: pods only read it (ReadOnlyMany), so that many share it; something else fills it (`lamplighter models pull`). "
        "What the engine compiles then stays in the pod.",
    )
    url: Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?$")] | None = Field(
        None, description="With `s3`: `s3://BUCKET/PREFIX` under which each model has a folder of its own."
    )
    size: Bytes = Field(
        Size(100 * 2**30), description="With `none` and `s3`: the most that a pod may keep; more and Kubernetes evicts it."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "claim") != (self.claim is not None):
            raise ValueError("claim: needed with kind claim, and only there")
        if (self.kind == "s3") != (self.url is not None):
            raise ValueError("url: needed with kind s3, and only there")
        if self.read_only and self.kind != "claim":
            raise ValueError("read_only: only with kind claim")
        return self


class KubernetesPool(PoolBase):
    """Engines as pods of a Kubernetes cluster: the keeper makes one workload for each model and scales it."""

    kind: Literal["kubernetes"] = Field(description="Engines as pods of a Kubernetes cluster.")
    context: str | None = Field(
        None,
        min_length=1,
        description="Context of the kubeconfig; default: the pod's own service account where there is one, else the current context.",
    )
    kubeconfig: str | None = Field(
        None, min_length=1, description="Path of the kubeconfig; default: `KUBECONFIG`, or `~/.kube/config`."
    )
    namespace: Label | None = Field(
        None, description="Namespace of the models' pods; default: the context's, or the one in which the keeper runs."
    )
    workload: Literal["deployment", "statefulset"] = Field(
        "deployment", description="What a model's pods belong to. `statefulset` gives them names that stay."
    )
    manage: bool = Field(
        True,
        description="Make the workloads. `false`: they exist already (GitOps, see `lamplighter models render`), and the keeper only scales them.",
    )
    gpus: int = Field(
        1, ge=0, le=64, description="GPUs of one pod; 0: none. A model may need another number, see `models.NAME.gpus`."
    )
    gpu_resource: MetaKey = Field("nvidia.com/gpu", description="How the cluster calls a GPU.")
    accelerator: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")] | None = Field(
        None,
        description="The GPU, by its name (`T4`, `A10G`, `L4`, ...) or by the type of AWS machine (`g5.xlarge`), so that the engine gets the flags "
        "that suit it; see `lamplighter fit`.",
    )
    cpu: Cpu | None = Field(None, description="CPU that one pod requests, such as `4` or `500m`.")
    memory: Bytes | None = Field(None, description="Memory that one pod requests, and its limit.")
    shared_memory: Bytes | None = Field(
        None, description="Size of `/dev/shm`, which counts as the pod's memory; default: what the engine needs."
    )
    node_selector: dict[MetaKey, LabelValue] = Field(
        default_factory=dict, description="Labels that a node must have, such as `node-type: gpu`."
    )
    tolerations: tuple[Toleration, ...] = Field(
        (), strict=False, max_length=32, description="Taints of nodes on which pods may run nevertheless."
    )
    runtime_class: ObjectName | None = Field(None, description="RuntimeClass of the pods, such as `nvidia`.")
    priority_class: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    service_account: ObjectName | None = Field(
        None,
        description="ServiceAccount of the pods, for a cloud's own permissions; no token of Kubernetes is mounted either way.",
    )
    image_pull_secrets: tuple[ObjectName, ...] = Field(
        (), strict=False, max_length=16, description="Secrets with which images are pulled."
    )
    labels: dict[MetaKey, LabelValue] = Field(default_factory=dict, description="Further labels of the pods.")
    annotations: dict[MetaKey, str] = Field(default_factory=dict, description="Further annotations of the pods.")
    cache: ModelCache = Field(
        default_factory=lambda: ModelCache.model_validate({}), description="Where weights are kept between wakes."
    )
    preload: bool = Field(
        False,
        description="Fetch the weights by an init container with Lamplighter's own image, with progress and checksums, before the engine starts.",
    )
    preload_image: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="Image of that init container; default: Lamplighter's own, of this version.",
    )
    hub_token_secret: SecretKey | None = Field(
        None, description="Secret with the hub's token for gated models, as `NAME/KEY`; the key is `token` unless named."
    )
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="Machines over which one replica is spread, for models larger than one of them; more than 1 needs LeaderWorkerSet in the cluster.",
    )
    termination_grace: Span = Field(
        Duration(120), description="How long a pod may go on with running answers after it was asked to end."
    )

    at_exit: Literal["auto", "keep", "end"] = Field(
        "auto",
        description="When Lamplighter ends: `keep` leaves its pods to the next keeper, `end` ends them. `auto`: keep when Lamplighter itself runs in a "
        "cluster, which starts it again; else end, since nobody would.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.nodes > 1 and self.gpus == 0:
            raise ValueError("nodes: a model without GPUs runs on one machine")
        if self.nodes > 1 and self.workload == "statefulset":
            raise ValueError("workload: with nodes above 1, the workload is a LeaderWorkerSet; leave it out")
        if self.preload and self.cache.read_only:
            raise ValueError("preload: not possible with cache.read_only; fill the claim by a Job (`lamplighter models pull`)")
        for setting in ("labels", "annotations"):
            for key in getattr(self, setting):
                if key.startswith(("lamplighter.dev/", "app.kubernetes.io/managed-by", "app.kubernetes.io/name")):
                    raise ValueError(f"{setting}: {key} is set by Lamplighter")
        return self

    @property
    def kept_at_exit(self) -> bool:
        """What `at_exit` means where this runs."""
        if self.at_exit == "auto":
            return "KUBERNETES_SERVICE_HOST" in os.environ  # noqa: TID251 - how every pod knows that it is one
        return self.at_exit == "keep"

    @property
    def hub_token(self) -> tuple[str, str] | None:
        """Name and key of the Secret with the hub's token."""
        if self.hub_token_secret is None:
            return None
        name, _, key = self.hub_token_secret.partition("/")
        return name, key or "token"
