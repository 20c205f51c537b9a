"""A cluster that somebody lends to the tests by $LAMPLIGHTER_TEST_KUBECONFIG: kind, k3d, anything. Its control plane is never broken."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Access, Cluster


class LentCluster:
    """The same to tests as `ControlPlane`, but for stopping and compacting it."""

    def __init__(self, file: Path) -> None:
        self._content: dict[str, Any] = yaml.safe_load(file.read_text())

    def _context(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        content = self._content
        context = next(one["context"] for one in content["contexts"] if one["name"] == content["current-context"])
        cluster = next(one["cluster"] for one in content["clusters"] if one["name"] == context["cluster"])
        return cluster, next(one["user"] for one in content["users"] if one["name"] == context["user"])

    @property
    def url(self) -> str:
        """The API server's URL."""
        return str(self._context()[0]["server"])

    def kubeconfig(self, token: str | None = None, namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig as data: of whoever lent it, or of whoever has `token`."""
        cluster, user = self._context()
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "lent", "preferences": {},
            "clusters": [{"name": "lent", "cluster": dict(cluster)}],
            "users": [{"name": "lent", "user": dict(user) if token is None else {"token": token}}],
            "contexts": [{"name": "lent", "context": {"cluster": "lent", "user": "lent", "namespace": namespace}}],
        }  # fmt: skip

    def write_kubeconfig(self, path: Path, token: str | None = None, namespace: str = "default") -> Path:
        """The same as a file for its owner only."""
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(self.kubeconfig(token, namespace)))
        return path

    def access(self, token: str | None = None, namespace: str | None = None) -> Access:
        """The same for our own client."""
        return Access(content=self.kubeconfig(token, namespace or "default"), namespace=namespace)

    def account(self, namespace: str, name: str) -> str:
        """A token of a ServiceAccount, which is made when it is not there."""

        async def ask() -> str:
            cluster = Cluster.connect(self.access())
            try:
                if await cluster.get_or_none(known.SERVICE_ACCOUNT, name, namespace) is None:
                    await cluster.create(
                        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
                    )
                path = known.SERVICE_ACCOUNT.path(namespace, name, "token")
                body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
                return str((await cluster.call("POST", path, body=body))["status"]["token"])
            finally:
                await cluster.close()

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:  # callers may be inside a running loop
            return pool.submit(asyncio.run, ask()).result()


__all__ = ["LentCluster"]
