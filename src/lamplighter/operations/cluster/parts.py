"""The parts of a cluster that serves models: their pinned charts, the order, and by what each is known when somebody else put it there.

Versions were the newest stable ones in the charts' own repositories when this was written (2026-11). Pure.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lamplighter import __version__
from lamplighter.federation import install as liqo
from lamplighter.operations.cluster.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Chart:
    """Where a chart comes from. `repository`: an https or oci address; empty: it is shipped with Lamplighter."""

    name: str
    version: str
    repository: str = ""

    @property
    def reference(self) -> str:
        """What Helm is told where the repository is an OCI registry."""
        return f"{self.repository}/{self.name}"


@dataclass(frozen=True, slots=True)
class Part:
    """One part. `release` and `namespace` are Helm's.

    `after`: parts that must be there first, when they are wanted at all. `programs`: texts in the image of a workload by which a part that
    somebody else put there is known. `privileged`: its pods need more than PodSecurity allows by default, and the namespace says so. `data`:
    the label by which the volume claims are known that outlive it.
    """

    name: str
    title: str
    chart: Chart
    namespace: str
    release: str
    programs: tuple[str, ...]
    after: tuple[str, ...] = ()
    privileged: bool = False
    data: tuple[str, str | None] | None = None


PARTS: Sequence[Part] = (
    Part(
        name="cert-manager",
        title="cert-manager: TLS certificates",
        chart=Chart("cert-manager", "v1.21.1", "oci://quay.io/jetstack/charts"),
        namespace="cert-manager",
        release="cert-manager",
        programs=("cert-manager-controller",),
    ),
    Part(
        name="monitoring",
        title="kube-prometheus-stack: Prometheus, Alertmanager, Grafana",
        chart=Chart("kube-prometheus-stack", "88.5.3", "oci://ghcr.io/prometheus-community/charts"),
        namespace="monitoring",
        release="monitoring",
        programs=("prometheus-operator",),
        privileged=True,
        data=("operator.prometheus.io/name", None),
    ),
    Part(
        name="ingress",
        title="Traefik: the way in from outside",
        chart=Chart("traefik", "41.3.0", "https://traefik.github.io/charts"),
        namespace="traefik",
        release="traefik",
        programs=("/traefik:", "rancher/mirrored-library-traefik", "ingress-nginx", "aws-load-balancer-controller"),
        after=("cert-manager",),
    ),
    Part(
        name="device-plugin",
        title="NVIDIA's device plugin: GPUs as resources",
        chart=Chart("nvidia-device-plugin", "0.20.0", "https://nvidia.github.io/k8s-device-plugin"),
        namespace="nvidia",
        release="nvidia-device-plugin",
        programs=("k8s-device-plugin", "gpu-operator", "nvidia-gpu-device-plugin"),
        privileged=True,
    ),
    Part(
        name="dcgm-exporter",
        title="DCGM exporter: metrics of GPUs",
        chart=Chart("dcgm-exporter", "4.8.2", "https://nvidia.github.io/dcgm-exporter/helm-charts"),
        namespace="nvidia",
        release="dcgm-exporter",
        programs=("dcgm-exporter", "gpu-operator"),
        after=("device-plugin", "monitoring"),
        privileged=True,
    ),
    Part(
        name="liqo",
        title="Liqo: GPUs of other clusters",
        chart=Chart(liqo.CHART, liqo.VERSION, liqo.REPOSITORY.rstrip("/")),
        namespace="liqo",
        release="liqo",
        programs=("liqo/liqo-controller-manager", "liqotech/liqo-controller-manager"),
        privileged=True,
    ),
    Part(
        name="lamplighter",
        title="Lamplighter",
        chart=Chart("lamplighter", __version__),
        namespace="lamplighter",
        release="lamplighter",
        programs=("lamplighter/lamplighter:", "lamplighter/lamplighter@"),
        after=("cert-manager", "monitoring", "ingress", "device-plugin", "dcgm-exporter", "liqo"),
        data=("app.kubernetes.io/instance", "lamplighter"),
    ),
)
"""In the order in which they are put on a cluster; taken off in the other direction."""
NAMES = tuple(part.name for part in PARTS)
BY_NAME = {part.name: part for part in PARTS}


def chosen(only: Collection[str], skip: Collection[str]) -> Sequence[Part]:
    """The parts that a person wants. Raises ClusterError for a name that is none."""
    if unknown := sorted({*only, *skip} - set(NAMES)):
        raise ClusterError(f"there is no part {unknown[0]!r}", next_step=f"The parts are: {', '.join(NAMES)}.")
    return [part for part in PARTS if (not only or part.name in only) and part.name not in skip]


def shipped_values(part: Part) -> dict[str, Any]:
    """Our values for its chart, before anything of this cluster is known. Raises ClusterError."""
    file = _shipped("cluster") / f"{part.name}.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise ClusterError(f"{file} holds no values")
    return content


def shipped_chart() -> Path:
    """Lamplighter's own chart. Raises ClusterError."""
    return _shipped("helm") / "lamplighter"


def _shipped(name: str) -> Path:
    """A folder of `deploy/`, as it was installed or as the checkout has it."""
    shipped = Path(str(resources.files("lamplighter"))) / "deploy" / name
    checkout = Path(__file__).resolve().parents[4] / "deploy" / name
    for folder in (shipped, checkout):
        if folder.is_dir():
            return folder
    raise ClusterError(f"this installation lacks deploy/{name}", next_step="Install Lamplighter again; that is part of it.")
