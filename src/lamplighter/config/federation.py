"""Settings of the federation of clusters by Liqo: the home cluster, and how nodes of cloud pools join it.

Not responsible for what the settings become: that is the package `federation`.
"""

from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lamplighter.config.kubernetes import Label, ObjectName
from lamplighter.config.mesh import Network
from lamplighter.config.section import Section

Url = Annotated[str, StringConstraints(pattern=r"^https://[^\s/?#@]+$")]
Version = Annotated[str, StringConstraints(pattern=r"^v\d+\.\d+\.\d+$")]


class FederationConfig(Section):
    """How clusters are joined. Used by pools with `federation: liqo` and by `lamplighter federation`."""

    context: str | None = Field(
        None,
        min_length=1,
        description="Context of the home cluster; default: the pod's own service account where there is one, else the current context.",
    )
    kubeconfig: str | None = Field(
        None, min_length=1, description="Path of the kubeconfig; default: `KUBECONFIG`, or `~/.kube/config`."
    )
    namespace: Label = Field(
        "llm-inference",
        description="Namespace of the home cluster whose pods run in the joined clusters; a twin of the same name is made there.",
    )
    cluster_id: Label = Field("home", description="The home cluster's id in the federation.")
    distribution: Literal["auto", "talos", "k3s", "generic"] = Field(
        "auto", description="What the home cluster is, for the settings of its installation; `auto`: found out by its nodes."
    )
    api_server: Url | None = Field(
        None,
        description="URL of the home cluster's API server as the joined clusters reach it over the mesh; only needed with `bidirectional`.",
    )
    pod_cidr: Network | None = Field(
        None, description="The home cluster's network of pods, such as `10.244.0.0/16`; default: asked of it."
    )
    service_cidr: Network | None = Field(
        None, description="The home cluster's network of services, such as `10.96.0.0/12`; default: asked of it."
    )
    node_pod_cidr: Network = Field(IPv4Network("10.42.0.0/16"), description="Network of pods of the clusters on cloud nodes.")
    node_service_cidr: Network = Field(
        IPv4Network("10.43.0.0/16"), description="Network of services of the clusters on cloud nodes."
    )
    mtu: int = Field(
        1240,
        ge=576,
        le=8900,
        description="MTU of Liqo's own tunnel. It runs inside of the mesh and needs 60 bytes less than that: with more, pings pass and answers hang.",
    )
    gateway_port: int = Field(
        30742, ge=30000, le=32767, description="UDP port of Liqo's gateway on the joined clusters, a NodePort."
    )
    api_port: int = Field(6443, ge=1, le=65535, description="Port of the API server of clusters on cloud nodes.")
    bidirectional: bool = Field(
        False,
        description="Let the joined clusters use the home cluster too. Default: only home uses them, which is what GPUs for home need.",
    )
    share: float = Field(
        0.9, gt=0, le=1, description="Share of a joined node's allocatable CPU and memory that home may use; its GPUs always."
    )
    runtime_class: ObjectName | None = Field(
        "nvidia", description="Runtime class that engines get on the joined clusters; null: the default one of the cluster."
    )
    liqo_version: Version = Field("v1.2.0", description="Version of Liqo on both sides; they must have the same minor version.")
    k3s_version: Annotated[str, StringConstraints(pattern=r"^v\d+\.\d+\.\d+\+k3s\d+$")] | None = Field(
        None, description="Version of k3s on cloud nodes; default: the one that this version was made for."
    )
