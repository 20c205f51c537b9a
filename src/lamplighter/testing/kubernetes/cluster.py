"""A pretended Kubernetes API server on loopback, with a hand on what goes wrong: `with FakeCluster() as cluster: cluster.access()`.

It is the API's semantics as our code relies on them (tests/contract/test_kubernetes_api.py asks the same of a real one), in memory and plain HTTP.
It is not Kubernetes: no admission but what is told here, little validation and defaulting, no controllers, scheduler or kubelet (`Controllers` and
`Kubelet` stand in for those, as clients of it), no certificates, no protobuf, no tables, no OpenAPI document, no exec, no proxy.
"""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from lamplighter.providers.kubernetes.access import Access
from lamplighter.testing.http import HttpServer
from lamplighter.testing.kubernetes import crds
from lamplighter.testing.kubernetes.access import Gate
from lamplighter.testing.kubernetes.background import Background
from lamplighter.testing.kubernetes.errors import ApiRefusal
from lamplighter.testing.kubernetes.faults import Faults
from lamplighter.testing.kubernetes.kinds import Kind, Kinds
from lamplighter.testing.kubernetes.rest import APPLY, MERGE, Rest, Write
from lamplighter.testing.kubernetes.server import ApiServer
from lamplighter.testing.kubernetes.store import Object, Store
from lamplighter.testing.kubernetes.watching import Watches

_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class FakeCluster:
    """One pretended cluster. Both a context manager and an async one; its server has a thread of its own.

    `rbac`: whether Roles count; without, everybody may do everything. `bookmark_seconds`: how often watches that want bookmarks get one.
    """

    def __init__(
        self, *, name: str = "fake", rbac: bool = False, bookmark_seconds: float = 60.0, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.name = name
        self.store = Store()
        self.kinds = Kinds()
        self.rest = Rest(self.store, self.kinds)
        self.gate = Gate(self.store, self.kinds, enforced=rbac)
        self.faults = Faults()
        self._watches = Watches(self.store, bookmark_seconds=bookmark_seconds)
        self._server = HttpServer(ApiServer(self.rest, self.gate, self._watches, self.faults).serve, host=host, port=port)
        self._background = Background(f"fake-cluster-{name}")
        for namespace in _NAMESPACES:
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})

    # ---- its life

    def start(self) -> Self:
        """Listen. A cluster that was stopped comes back on the same port, with its objects."""
        self._background.start()
        self._background.call(self._server.start())
        return self

    def stop(self) -> None:
        """Gone: nothing listens, every connection is cut; the objects stay."""
        if self._background.running:
            self._background.call(self._server.stop())
            self._background.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # ---- how to reach it

    @property
    def url(self) -> str:
        """The API server's URL."""
        return self._server.url

    def kubeconfig(self, token: str | None = None, namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig as data, with one context named as the cluster. Without `token` the administrator's."""
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": self.name, "preferences": {},
            "clusters": [{"name": self.name, "cluster": {"server": self.url}}],
            "users": [{"name": self.name, "user": {"token": token or self.gate.admin_token}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": self.name, "namespace": namespace}}],
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
        if self.find("ServiceAccount", name, namespace) is None:
            self.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
        return self.gate.token_of(namespace, name)

    # ---- its objects, past HTTP and permissions; every object handed out is a copy

    def kind(self, kind: str, api_version: str | None = None) -> Kind:
        """The kind by its name or plural. Raises KeyError."""
        for one in self.kinds.all():
            if kind in (one.kind, one.plural) and api_version in (None, one.api_version):
                return one
        raise KeyError(kind)

    def create(self, found: Object) -> Object:
        """Make an object, as the administrator."""
        kind = self.kind(found["kind"], found["apiVersion"])
        space = found.get("metadata", {}).get("namespace") or ("default" if kind.namespaced else "")
        return copy.deepcopy(self.rest.create(kind, space, found, Write("test")))

    def apply(self, found: Object, manager: str = "test", *, force: bool = True) -> Object:
        """Server-side apply."""
        kind = self.kind(found["kind"], found["apiVersion"])
        space = found["metadata"].get("namespace") or ("default" if kind.namespaced else "")
        write = Write(manager, force=force)
        return copy.deepcopy(self.rest.patch(kind, space, found["metadata"]["name"], APPLY, found, write))

    def find(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        """An object, or None."""
        one = self.kind(kind)
        return copy.deepcopy(self.store.get(one, namespace if one.namespaced else "", name))

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """An object. Raises ApiRefusal (404)."""
        one = self.kind(kind)
        return copy.deepcopy(self.rest.get(one, namespace if one.namespaced else "", name))

    def all(self, kind: str, namespace: str | None = None, labels: str = "") -> list[Object]:
        """Every object of a kind (in a namespace) with these labels."""
        return copy.deepcopy(self.rest.select(self.kind(kind), namespace, labels=labels)[0])

    def edit(
        self, kind: str, name: str, change: Callable[[Object], None], namespace: str = "default", *, status: bool = False
    ) -> Object:
        """Change an object (or its status) in place, as somebody with kubectl: `edit("Node", "n1", lambda node: ...)`."""
        one = self.kind(kind)
        space = namespace if one.namespaced else ""
        with self.store.lock:
            found = copy.deepcopy(self.rest.get(one, space, name))
            change(found)
            return copy.deepcopy(self.rest.update(one, space, name, found, Write("kubectl-edit", "status" if status else "")))

    def merge(
        self, kind: str, name: str, patch: Mapping[str, Any], namespace: str = "default", *, status: bool = False
    ) -> Object:
        """A merge patch of an object (or its status)."""
        one = self.kind(kind)
        write = Write("kubectl-patch", "status" if status else "")
        return copy.deepcopy(self.rest.patch(one, namespace if one.namespaced else "", name, MERGE, dict(patch), write))

    def scale(self, kind: str, name: str, replicas: int, namespace: str = "default", manager: str = "kubectl") -> None:
        """`kubectl scale`."""
        self.rest.set_scale(
            self.kind(kind), namespace, name, lambda one: {**one, "spec": {"replicas": replicas}}, Write(manager, "scale")
        )

    def delete(self, kind: str, name: str, namespace: str = "default", **options: Any) -> None:
        """Delete an object; one that is not there is no error."""
        one = self.kind(kind)
        try:
            self.rest.delete(one, namespace if one.namespaced else "", name, options)
        except ApiRefusal as refusal:
            if refusal.code != 404:
                raise

    def define(
        self, group: str, version: str, kind: str, plural: str, *, namespaced: bool = True, status: bool = True, scale: bool = False,
        schema: Mapping[str, Any] | None = None,
    ) -> Kind:  # fmt: skip
        """Install a CustomResourceDefinition; without `schema` one that takes every field."""
        self.create(
            crds.definition(group, version, kind, plural, namespaced=namespaced, status=status, scale=scale, schema=schema)
        )
        return self.kind(kind, f"{group}/{version}")

    # ---- what goes wrong

    def fail(
        self, verb: str, resource: str, status: int, times: int | None = 1, *, message: str = "", retry_after: int | None = None
    ) -> None:
        """Refuse a verb ("get", "patch", "watch", "*") on a resource ("pods", "deployments/scale", "*"); `times` None: until `heal()`."""
        self.faults.add(verb, resource, status, times, message=message, retry_after=retry_after)

    def heal(self) -> None:
        """Refuse nothing any more, and answer at once."""
        self.faults.clear()
        self.faults.latency = 0.0

    @property
    def latency(self) -> float:
        """Seconds before every answer."""
        return self.faults.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self.faults.latency = seconds

    def cut_watches(self) -> None:
        """Reset the connection of every watch."""
        self._background.loop.call_soon_threadsafe(self._watches.cut)

    def bookmark(self) -> None:
        """Send a bookmark now to every watch that wants them."""
        self._background.loop.call_soon_threadsafe(self._watches.bookmark)

    def compact(self) -> None:
        """Forget the history: who resumes a watch or a list from before is answered 410."""
        self.store.compact()

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return self._watches.count

    def dump(self) -> str:
        """Every object as JSON, for a test that failed."""
        return json.dumps([found for _, found in self.store.everything()], indent=1)


__all__ = ["FakeCluster"]
