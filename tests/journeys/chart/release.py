"""A release of the chart on the real control plane, and keepers and gateways that run here with the release's own configuration and account.

The chart's pods are run by a pretended kubelet, so nothing is in them; what a keeper may do is decided by the real API server.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import helm_python
import yaml

from lamplighter.testing.kubernetes import Kubelet
from tests.cluster_lab.control_plane import ControlPlane
from tests.journeys.harness import Server, eventually
from tests.journeys.many_gateways.cluster import KeeperServer

CHART = Path(__file__).parents[3] / "deploy" / "helm" / "lamplighter"
NAME = "lamplighter"
SPACE = "llm-inference"
_WAIT = 120
VALUES: dict[str, Any] = {
    "models": {"small": {"engine": "vllm", "pool": "gpu", "source": "hf:org/small"}},
    "pools": {"gpu": {"kind": "kubernetes", "gpus": 1, "sleep_after": "1h", "boot_deadline": "5m", "at_exit": "keep"}},
}


def values(**more: Any) -> dict[str, Any]:
    """Those of an old cluster, with one model; `more` on top."""
    old: dict[str, Any] = yaml.safe_load((CHART / "examples" / "old-cluster.yaml").read_text())
    return {**old, **VALUES, **more}


@dataclass
class Release:
    """One release in its namespace. `install()` first."""

    plane: ControlPlane
    kubelet: Kubelet
    helm: helm_python.Config = field(init=False)

    def __post_init__(self) -> None:
        self.helm = helm_python.Config(kubeconfig_content=yaml.safe_dump(self.plane.kubeconfig()), namespace=SPACE)

    def install(self, **more: Any) -> Mapping[str, Any]:
        """Install and wait until its pods are ready. There is a volume for the database's claim."""
        self._volume()
        return dict(
            self.helm.install(CHART, NAME, values(**more), namespace=SPACE, create_namespace=True, wait="legacy", timeout=_WAIT)
        )

    def _volume(self) -> None:
        name = f"volume-{uuid.uuid4().hex[:8]}"
        spec = {"capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"}}
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
        self.plane.http.post("/api/v1/persistentvolumes", json=body).raise_for_status()

    def upgrade(self, **more: Any) -> Mapping[str, Any]:
        """Upgrade to the same chart with other values, and wait."""
        return dict(self.helm.upgrade(CHART, NAME, values(**more), namespace=SPACE, wait="legacy", timeout=_WAIT))

    def remove(self) -> None:
        """Uninstall it and end its namespace, whatever is in it."""
        self.helm.uninstall(NAME, ignore_not_found=True)
        self.plane.http.delete(f"/api/v1/namespaces/{SPACE}")
        eventually(self._gone, what="the namespace is gone", timeout=120)

    def _gone(self) -> bool:
        """Whether nothing is left. Pods go by force: the kubelet that would say that they ended may be gone already."""
        self.plane.http.request("DELETE", f"/api/v1/namespaces/{SPACE}/pods", json={"gracePeriodSeconds": 0})
        return self.plane.http.get(f"/api/v1/namespaces/{SPACE}").status_code == 404

    def get(self, path: str) -> dict[str, Any]:
        """What the API server answers below the namespace: `get("apps/v1", ...)`."""
        return dict(self.plane.http.get(path).raise_for_status().json())

    def objects(self, plural: str, api: str = "api/v1") -> list[dict[str, Any]]:
        """All of a kind in the namespace."""
        return list(self.get(f"/{api}/namespaces/{SPACE}/{plural}")["items"])

    def config(self) -> dict[str, Any]:
        """The lamplighter.yaml that the chart made."""
        found = self.get(f"/api/v1/namespaces/{SPACE}/configmaps/{NAME}-config")
        return dict(yaml.safe_load(found["data"]["lamplighter.yaml"]))

    # ---- the models' workload

    def workload(self) -> dict[str, Any] | None:
        """The model's Deployment."""
        found = [
            one for one in self.objects("deployments", "apis/apps/v1") if "lamplighter.dev/model" in one["metadata"]["labels"]
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def replicas(self) -> int | None:
        """How many it wants."""
        found = self.workload()
        return None if found is None else int(found["spec"]["replicas"])

    def model_pods(self) -> list[str]:
        """The names of its pods that do not end."""
        return [
            str(pod["metadata"]["name"])
            for pod in self.objects("pods")
            if "lamplighter.dev/model" in (pod["metadata"].get("labels") or {}) and not pod["metadata"].get("deletionTimestamp")
        ]

    def forget_models(self) -> None:
        """Delete what keepers made, so that the next test begins at nought."""
        found = self.workload()
        if found is not None:
            path = f"/apis/apps/v1/namespaces/{SPACE}/deployments/{found['metadata']['name']}"
            self.plane.http.request("DELETE", path, json={"propagationPolicy": "Background"}).raise_for_status()
        eventually(lambda: not self.model_pods(), what="the model's pods are gone")


@dataclass
class Office:
    """Keepers and gateways on one PostgreSQL, configured by a release and signed in as its keeper."""

    release: Release
    folder: Path
    database: str
    servers: list[Server] = field(default_factory=list)

    def _config(self, *, keeper: bool) -> str:
        """The release's own, but for the addresses of what is in pods there: database, ports, and how a pod signs in."""
        tree = self.release.config()
        tree["store"] = {"url": "env:DATABASE_URL"}
        tree["server"] = {"shutdown_delay": "0s", "shutdown_grace": "5s"}
        if keeper:
            kubeconfig = self.folder / "keeper.kubeconfig"
            if not kubeconfig.exists():
                token = self.release.plane.account(SPACE, f"{NAME}-keeper")
                self.release.plane.write_kubeconfig(kubeconfig, token, SPACE)
            for pool in tree["pools"].values():
                pool["kubeconfig"] = str(kubeconfig)
        return json.dumps(tree)

    def keeper(self, name: str = "keeper") -> KeeperServer:
        """A keeper, ready (which does not mean that it leads)."""
        one = KeeperServer(
            self._folder(name), self._config(keeper=True), ("--only", "keeper"), environment={"DATABASE_URL": self.database}
        )
        self.servers.append(one)
        one.start()
        return one

    def gateway(self, name: str = "gateway") -> Server:
        """A gateway, which knows nothing of the cluster."""
        one = Server(
            self._folder(name), self._config(keeper=True), ("--only", "gateway"), environment={"DATABASE_URL": self.database}
        )
        self.servers.append(one)
        return one.start()

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        return folder

    def end(self) -> None:
        """Kill what is left."""
        for one in self.servers:
            if one.process is not None and one.process.poll() is None:
                one.process.kill()
                one.process.wait(10)
