"""Where a peering stands, and why it does not go on: the words of `advance`. Pure."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from lamplighter.federation.slice import GPU, Slice

State = Literal["network", "authentication", "resources", "virtual-node", "ready", "failed"]
PATIENCE = 60.0
"""Seconds after which waiting becomes a symptom that is named."""


class Why(StrEnum):
    """What a peering waits for, or why it never will be."""

    LIQO_MISSING = "liqo_missing"
    LIQO_STARTING = "liqo_starting"
    WRONG_CLUSTER = "wrong_cluster"
    VERSION_MISMATCH = "version_mismatch"
    CIDR_OVERLAP = "cidr_overlap"
    WRONG_MTU = "wrong_mtu"
    CLEARING = "clearing"
    CONFIGURING = "configuring"
    GATEWAY_STARTING = "gateway_starting"
    GATEWAY_NOT_READY = "gateway_not_ready"
    CONNECTING = "connecting"
    GATEWAY_UNREACHABLE = "gateway_unreachable"
    NONCE_MISSING = "nonce_missing"
    NONCE_UNSIGNED = "nonce_unsigned"
    TENANT_PENDING = "tenant_pending"
    TENANT_REFUSED = "tenant_refused"
    TENANT_CLOSED = "tenant_closed"
    API_ADDRESS = "api_address"
    IDENTITY_PENDING = "identity_pending"
    SLICE_PENDING = "slice_pending"
    SLICE_UNANSWERED = "slice_unanswered"
    SLICE_REFUSED = "slice_refused"
    SLICE_REDUCED = "slice_reduced"
    NODE_PENDING = "node_pending"
    NODE_NOT_READY = "node_not_ready"
    NODE_WITHOUT_GPU = "node_without_gpu"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"
    CONTESTED = "contested"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """A peering as it should be. `gateway_address`: the GPU cluster's node in the mesh. CPU and memory as Kubernetes writes them.

    `labels`: of the virtual node, beside `node-type=gpu`. `bidirectional`: the other cluster may use this one too.
    """

    cluster_id: str
    home_id: str = "home"
    mtu: int = 1240
    gateway_address: str = ""
    gateway_port: int = 30742
    cpu: str = ""
    memory: str = ""
    pods: int = 0
    gpus: int = 0
    bidirectional: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    gpu_resource: str = GPU
    liqo_namespace: str = "liqo"

    def with_slice(self, amounts: Slice) -> "PeerSpec":
        """The same, asking for `amounts`."""
        return replace(self, cpu=amounts.cpu, memory=amounts.memory, pods=amounts.pods, gpus=amounts.gpus)

    def resources(self) -> dict[str, str]:
        """What the slice asks for; what is not given here is left to the provider's defaults."""
        asked = {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods or ""), self.gpu_resource: str(self.gpus or "")}
        return {name: amount for name, amount in asked.items() if amount}


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """Where it stands. `state`: the first thing that is not there yet; `failed`: waiting will not help. `detail`: for a person.

    `node`: the virtual node's name, once there is one.
    """

    state: State
    ready: bool = False
    reason: str | None = None
    detail: str | None = None
    node: str | None = None
    next_step: str = ""


class Halt(Exception):
    """A step cannot go on in this call. Caught by `advance`; nobody else sees it."""

    def __init__(
        self, state: State, reason: Why, detail: str, *, next_step: str = "", failed: bool = False, node: str | None = None
    ) -> None:
        super().__init__(detail)
        self.stage = state
        self.status = PeerStatus("failed" if failed else state, reason=reason, detail=detail, next_step=next_step, node=node)


def age(thing: dict[str, Any], now: float) -> float:
    """Seconds since an object was made, by its own timestamp; 0 when it has none."""
    return since((thing.get("metadata") or {}).get("creationTimestamp"), now)


def since(moment: str | None, now: float) -> float:
    """Seconds since `moment` (RFC 3339); 0 when there is none."""
    if not moment:
        return 0.0
    try:
        return max(0.0, now - datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return 0.0
