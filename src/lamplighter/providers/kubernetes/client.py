"""One cluster's API: calls with limits, server-side apply, the scale subresource, lists and watches that resume, logs.

Objects are JSON as the API gives it (`kinds.Manifest`), so that any version from 1.20 on will do. The library underneath reads kubeconfigs, signs
in and keeps TLS. Not responsible for what is applied, nor for what errors mean for a wake.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self

import httpx2
from lightkube import AsyncClient
from lightkube.config import client_adapter
from lightkube.config.client_adapter import ConnectionParams
from lightkube.core.exceptions import ConfigError as KubeconfigError

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.core.errors import ProviderError
from lamplighter.providers.kubernetes.access import Access, Connection, load
from lamplighter.providers.kubernetes.errors import KubernetesError, Target, late, refused, target, unreachable
from lamplighter.providers.kubernetes.kinds import KNOWN, POD, Kind, Manifest
from lamplighter.providers.kubernetes.wire import Change, Gone, Seen, Selector, body_of, event_of, retry_after, selectors

__all__ = ["ALL_NAMESPACES", "MANAGER", "Access", "Change", "Cluster", "Seen", "Selector"]

MANAGER = "lamplighter-keeper"
"""Our name among an object's field managers."""
ALL_NAMESPACES = "*"
CALL_LIMIT = 10.0
"""Seconds for one call, its repetitions included."""
PAGE = 500
_CONNECT = 3.0
_WATCH_FOR = 60
"""Seconds after which the server ends a watch, which is then resumed: a connection that died unseen is noticed soon after."""
_WATCH_SILENCE = _WATCH_FOR + 15.0
_TRIES = 3
_PAUSE = 0.5
_LONGEST_PAUSE = 15.0


class Cluster:
    """One API server as one account. Made by `connect`; every method raises KubernetesError, which is a ProviderError."""

    def __init__(self, connection: Connection, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._connection = connection
        self._http = http
        self._clock = clock
        self._client: AsyncClient | None = None
        self._kinds: dict[tuple[str, str], Kind] = dict(KNOWN)
        self._extensions = {"sni_hostname": connection.tls_name} if connection.tls_name else {}

    @classmethod
    def connect(cls, access: Access, clock: Clock | None = None) -> Self:
        """Read the configuration; the first call makes the connection. Raises ProviderError with the fix when there is none to use."""
        connection = load(access)
        parameters = ConnectionParams(timeout=httpx2.Timeout(CALL_LIMIT, connect=_CONNECT), proxy=connection.proxy)
        try:
            http = client_adapter.AsyncClient(connection.config, parameters)
        except (KubeconfigError, OSError, ValueError) as error:
            raise ProviderError(
                f"The credentials in {connection.origin} cannot be used: {error}.",
                next_step="Make the kubeconfig anew: certificates, keys or their files are missing or damaged.",
            ) from error
        return cls(connection, http, clock or SystemClock())

    @property
    def namespace(self) -> str:
        """The default of all calls: the access's, else the context's or the service account's own."""
        return self._connection.namespace

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._connection.config.cluster.server

    @property
    def client(self) -> AsyncClient:
        """The library's own client, for what is not offered here; made when first asked for."""
        if self._client is None:
            self._client = AsyncClient(
                self._connection.config,
                namespace=self.namespace,
                timeout=httpx2.Timeout(CALL_LIMIT, connect=_CONNECT),
                field_manager=MANAGER,
                proxy=self._connection.proxy,
            )
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        if self._client is not None:
            await self._client.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        limit: float = CALL_LIMIT,
    ) -> Manifest:
        """One request with a JSON answer. Repeats what the server put off (429) and what could not have begun."""
        answer = await self._send(method, path, params, body, content_type, limit)
        try:
            value = answer.json()
        except ValueError as error:
            raise unreachable(
                ValueError("its answer is not JSON: is this an API server?"), target(method, path), self.server
            ) from error
        return value if isinstance(value, dict) else {"items": value}

    async def text(self, path: str, *, params: Mapping[str, str] | None = None, limit: float = CALL_LIMIT) -> str:
        """What a path answers, as it is: what a pod says through the API server's proxy, for one."""
        return (await self._send("GET", path, params, None, "application/json", limit)).text

    async def version(self) -> str:
        """The server's version, such as `v1.33.1`."""
        return str((await self.call("GET", "/version")).get("gitVersion", ""))

    async def kind_of(self, manifest: Mapping[str, Any]) -> Kind:
        """The kind of an object, asked of the cluster when it is none of ours."""
        return await self.custom(str(manifest.get("apiVersion")), str(manifest.get("kind")))

    async def custom(self, api_version: str, kind: str) -> Kind:
        """A kind by its apiVersion (`offloading.liqo.io/v1beta1`) and name (or plural). Raises KubernetesError (404) when nobody installed it."""
        if (known := self._kinds.get((api_version, kind))) is not None:
            return known
        group, _, version = api_version.rpartition("/")
        found = await self.call("GET", f"/apis/{group}/{version}" if group else f"/api/{version}")
        for one in found.get("resources") or ():
            if "/" not in one["name"] and kind in (one["kind"], one["name"]):
                made = Kind(group, version, one["name"], one["kind"], bool(one.get("namespaced")))
                self._kinds[api_version, kind] = made
                return made
        raise refused(
            404, {"message": "the server could not find the requested resource"}, Target("get", group, kind), self.server
        )

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        """One object."""
        return await self.call("GET", self._path(kind, namespace, name))

    async def get_or_none(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """One object; None when there is none (or nobody installed its kind)."""
        try:
            return await self.get(kind, name, namespace)
        except KubernetesError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, manifest: Manifest, namespace: str | None = None) -> Manifest:
        """Make it; a 409 with the word `AlreadyExists` when it is there."""
        kind = await self.kind_of(manifest)
        space = namespace or manifest.get("metadata", {}).get("namespace")
        return await self.call("POST", self._path(kind, space), params={"fieldManager": MANAGER}, body=manifest)

    async def apply(
        self, manifest: Manifest, namespace: str | None = None, *, force: bool = False, manager: str = MANAGER
    ) -> Manifest:
        """Server-side apply: what the manifest says is ours, the rest stays others'. `force`: take fields that others own."""
        kind, meta = await self.kind_of(manifest), manifest.get("metadata", {})
        params = {"fieldManager": manager, "force": "true" if force else "false"}
        path = self._path(kind, namespace or meta.get("namespace"), meta["name"])
        return await self.call("PATCH", path, params=params, body=manifest, content_type="application/apply-patch+yaml")

    async def patch(
        self,
        kind: Kind,
        name: str,
        body: Any,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        type: str = "merge",
        manager: str = MANAGER,
    ) -> Manifest:
        """Change parts of one object. `type`: `merge`, `strategic-merge` or `json`."""
        path = self._path(kind, namespace, name, subresource)
        return await self.call(
            "PATCH", path, params={"fieldManager": manager}, body=body, content_type=f"application/{type}-patch+json"
        )

    async def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        grace: float | None = None,
        propagation: str = "Background",
        uid: str | None = None,
    ) -> bool:
        """Begin to delete it; False when it is not there. `grace`: seconds. `uid`: only this very object (409 when it is another one)."""
        body: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace is not None:
            body["gracePeriodSeconds"] = round(grace)
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self.call("DELETE", self._path(kind, namespace, name), body=body)
        except KubernetesError as error:
            if error.status == 404:
                return False
            raise
        return True

    async def scale(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest:
        """The scale subresource: `spec.replicas` wanted, `status.replicas` there."""
        return await self.call("GET", self._path(kind, namespace, name, "scale"))

    async def patch_scale(
        self, kind: Kind, name: str, namespace: str | None, replicas: int, *, version: str | None = None, manager: str = MANAGER
    ) -> Manifest:
        """Write `replicas`. `version`: only while the object has this resourceVersion (409 otherwise)."""
        body: dict[str, Any] = {"spec": {"replicas": replicas}}
        if version is not None:
            body["metadata"] = {"resourceVersion": version}
        return await self.patch(kind, name, body, namespace, subresource="scale", manager=manager)

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: Selector | None = None, fields: Selector | None = None
    ) -> Sequence[Manifest]:
        """All objects; `ALL_NAMESPACES` for those of the whole cluster."""
        return (await self.list_with_version(kind, namespace, labels=labels, fields=fields))[0]

    async def list_with_version(
        self, kind: Kind, namespace: str | None = None, *, labels: Selector | None = None, fields: Selector | None = None
    ) -> tuple[Sequence[Manifest], str]:
        """All objects, read in pages, and the version from which a watch goes on."""
        items: list[Manifest] = []
        params = {"limit": str(PAGE), **selectors(labels, fields)}
        while True:
            answer = await self.call("GET", self._path(kind, namespace), params=params)
            for item in answer.get("items") or ():
                item.setdefault("apiVersion", kind.api_version)
                item.setdefault("kind", kind.kind)
                items.append(item)
            meta = answer.get("metadata") or {}
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion") or "0")
            params["continue"] = str(meta["continue"])

    async def watch(
        self, kind: Kind, namespace: str | None = None, *, labels: Selector | None = None, fields: Selector | None = None
    ) -> AsyncGenerator[Change]:
        """List, then follow, for ever: cut connections are resumed, forgotten versions listed anew, and what goes wrong is told as BROKEN."""
        version: str | None = None
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                if version is None:
                    items, version = await self.list_with_version(kind, namespace, labels=labels, fields=fields)
                    yield Change(Seen.LISTED, items=items)
                async with aclosing(self._follow(kind, namespace, version, labels, fields)) as events:
                    async for change in events:
                        version = str(change.object["metadata"]["resourceVersion"])
                        failures = 0
                        yield change
                failures = 0 if self._clock.monotonic() - began > 1.0 else failures + 1
                yield Change(Seen.ALIVE)
            except Gone:
                version, failures = None, failures + 1
            except KubernetesError as error:
                failures += 1
                yield Change(Seen.BROKEN, error=error)
            if failures > 1 or (failures and version is not None):
                pause = min(_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
                await self._clock.sleep(pause * random.uniform(0.5, 1.0))  # spread: several keepers

    async def logs(
        self, pod: str, namespace: str | None = None, *, container: str | None = None, tail: int = 20, previous: bool = False
    ) -> str:
        """The last lines that a container wrote. `previous`: of its run before the last restart."""
        params = {"tailLines": str(tail), "limitBytes": "65536"}
        if container is not None:
            params["container"] = container
        if previous:
            params["previous"] = "true"
        answer = await self._send("GET", self._path(POD, namespace, pod, "log"), params, None, "application/json", CALL_LIMIT)
        return answer.text

    def _path(self, kind: Kind, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        space = None if namespace == ALL_NAMESPACES else namespace or self.namespace
        return kind.path(space, name, subresource)

    async def _send(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, content_type: str, limit: float
    ) -> httpx2.Response:
        about = target(method, path)
        try:
            with self._clock.busy():
                async with asyncio.timeout(limit):
                    return await self._attempts(method, path, params, body, content_type, about)
        except TimeoutError as error:
            raise late(limit, about, self.server) from error

    async def _attempts(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, content_type: str, about: Target
    ) -> httpx2.Response:
        for attempt in range(1, _TRIES + 1):
            request = self._http.build_request(
                method,
                path,
                params=dict(params or {}),
                content=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
                headers={"Accept": "application/json", **({} if body is None else {"Content-Type": content_type})},
                extensions=self._extensions,
            )
            try:
                answer = await self._http.send(request)
            except (httpx2.ConnectError, httpx2.RemoteProtocolError) as error:
                # a kept connection that the server closed meanwhile: nothing was done there if it was a read, or if it never connected
                if attempt == _TRIES or (method != "GET" and not isinstance(error, httpx2.ConnectError)):
                    raise unreachable(error, about, self.server) from error
            except httpx2.HTTPError as error:
                raise unreachable(error, about, self.server) from error
            except (KubeconfigError, OSError, KeyError, ValueError) as error:
                raise self._no_sign_in(error) from error
            else:
                if answer.status_code < 400:
                    return answer
                if answer.status_code != httpx2.codes.TOO_MANY_REQUESTS or attempt == _TRIES:
                    raise refused(answer.status_code, body_of(answer), about, self.server)
                await asyncio.sleep(retry_after(answer))
                continue
            await asyncio.sleep(_PAUSE * attempt / 5)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _no_sign_in(self, error: Exception) -> KubernetesError:
        """lightkube's sign-in by a program failed: it is not installed, or said no."""
        return KubernetesError(
            f"Signing in to {self.server} failed: {error}.",
            status=401,
            next_step="Run the program that the kubeconfig names under `exec`, as the user that Lamplighter runs as; for EKS sign in to AWS first.",
        )

    async def _follow(
        self, kind: Kind, namespace: str | None, version: str, labels: Selector | None, fields: Selector | None
    ) -> AsyncGenerator[Change]:
        """The events of one connection, until the server ends it. Raises Gone, KubernetesError."""
        path = self._path(kind, namespace)
        about = target("GET", path, watch=True)
        params = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(_WATCH_FOR)}
        limits = httpx2.Timeout(CALL_LIMIT, connect=_CONNECT, read=_WATCH_SILENCE)
        try:
            async with self._http.stream(
                "GET", path, params={**params, **selectors(labels, fields)}, timeout=limits, extensions=self._extensions
            ) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    if answer.status_code == httpx2.codes.GONE:
                        raise Gone
                    raise refused(answer.status_code, body_of(answer), about, self.server)
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield event_of(json.loads(line), kind, about, self.server)
        except httpx2.HTTPError as error:
            raise unreachable(error, about, self.server) from error
        except (KubeconfigError, OSError, KeyError, ValueError) as error:
            raise unreachable(error, about, self.server) from error
