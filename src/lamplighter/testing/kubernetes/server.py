"""The fake API server's HTTP side: addresses of resources, verbs, permissions, faults. Objects are `rest`'s, streams `watching`'s, logs the kubelet's."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from lamplighter.testing.http import Exchange
from lamplighter.testing.kubernetes import pods
from lamplighter.testing.kubernetes.access import Ask, Gate, User
from lamplighter.testing.kubernetes.errors import ApiRefusal, bad_request
from lamplighter.testing.kubernetes.faults import Faults
from lamplighter.testing.kubernetes.kinds import REVIEWS, VERSION, Kind, Kinds
from lamplighter.testing.kubernetes.rest import APPLY, UNKNOWN_FORMAT, Rest, Write
from lamplighter.testing.kubernetes.store import Object
from lamplighter.testing.kubernetes.watching import Watches

_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", APPLY)
_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class _Address:
    """What a path means. `namespace` None: of the cluster, or of all namespaces."""

    kind: Kind
    namespace: str | None
    name: str
    subresource: str


class ApiServer:
    """Answers one request at a time; whatever changes objects happens under the store's lock."""

    def __init__(self, rest: Rest, gate: Gate, watches: Watches, faults: Faults) -> None:
        self._rest = rest
        self._kinds: Kinds = rest.kinds
        self._gate = gate
        self._watches = watches
        self._faults = faults

    async def serve(self, exchange: Exchange) -> None:
        """One request. Refusals become Status objects; what has no address a plain 404, as the real server answers it."""
        path, _, text = exchange.request.target.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        try:
            if self._faults.latency:
                await asyncio.sleep(self._faults.latency)
            user = self._gate.who(exchange.request.headers.get("authorization", ""))
            if not await self._answer(exchange, [unquote(part) for part in path.split("/") if part], query, user, path):
                exchange.answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
        except ApiRefusal as refusal:
            headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after else None
            exchange.answer(refusal.code, json.dumps(refusal.body()).encode(), headers=headers)

    async def _answer(self, exchange: Exchange, parts: list[str], query: Mapping[str, str], user: User, path: str) -> bool:
        plain = self._plain(parts)
        if plain is not None:
            if not self._gate.allowed(user, Ask("get", "", "", path=path)):
                raise ApiRefusal(403, "Forbidden", f'forbidden: User "{user.name}" cannot get path "{path}"')
            _json(exchange, 200, plain) if isinstance(plain, dict) else exchange.answer(200, plain.encode(), "text/plain")
            return True
        group, version, rest = ("", parts[1], parts[2:]) if parts[:1] == ["api"] and len(parts) > 1 else (
            (parts[1], parts[2], parts[3:]) if parts[:1] == ["apis"] and len(parts) > 2 else ("", "", []))  # fmt: skip
        if rest and rest[0] in REVIEWS.get((group, version), ()):
            return self._review(exchange, group, rest[0], user)
        address = self._address(group, version, rest)
        if address is None:
            return False
        await self._resource(exchange, address, query, user)
        return True

    def _plain(self, parts: list[str]) -> dict[str, Any] | str | None:
        if parts in (["healthz"], ["livez"], ["readyz"]):
            return "ok"
        if parts == ["version"]:
            return VERSION
        if parts == ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if parts == ["apis"]:
            return self._kinds.groups()
        if parts == ["api", "v1"]:
            return self._kinds.resources("", "v1")
        if len(parts) == 2 and parts[0] == "apis":
            return self._kinds.group(parts[1])
        if len(parts) == 3 and parts[0] == "apis":
            return self._kinds.resources(parts[1], parts[2])
        return None

    def _address(self, group: str, version: str, rest: list[str]) -> _Address | None:
        namespace: str | None = None
        if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        if not rest or len(rest) > 3:
            return None
        kind = self._kinds.find(group, version, rest[0])
        if kind is None or (namespace is not None) > kind.namespaced:
            return None
        name, subresource = (rest[1] if len(rest) > 1 else ""), (rest[2] if len(rest) > 2 else "")
        if name and kind.namespaced and namespace is None:
            return None
        return _Address(kind, namespace if kind.namespaced else "" if name else None, name, subresource)

    # ---- resources

    async def _resource(self, exchange: Exchange, to: _Address, query: Mapping[str, str], user: User) -> None:
        method = exchange.request.method
        verb = _VERBS.get(method, "")
        if method == "GET" and not to.name:
            verb = "watch" if query.get("watch") in ("true", "1") else "list"
        if method == "DELETE" and not to.name:
            verb = "deletecollection"
        if not verb:
            raise ApiRefusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        body = self._body(exchange)
        named = to.name or (
            str((body or {}).get("metadata", {}).get("name", "")) if isinstance(body, dict) and verb == "create" else ""
        )
        self._gate.check(user, to.kind, Ask(verb, to.kind.group, to.kind.plural, to.subresource, to.namespace or "", named))
        self._faults.check(verb, to.kind, to.subresource, named)
        if verb == "watch":
            await self._watches.serve(exchange, to.kind, to.namespace, query)
        elif verb == "list":
            self._list(exchange, to, query)
        elif verb == "deletecollection":
            found = self._rest.delete_all(
                to.kind, to.namespace, query.get("labelSelector"), query.get("fieldSelector"), body or {}
            )
            _json(exchange, 200, _list_of(to.kind, found, self._rest.store.version))
        elif to.subresource not in ("", "status", "scale"):
            await self._sub(exchange, to, verb, body, query)
        else:
            self._write_or_get(exchange, to, verb, body, query)

    def _write_or_get(self, exchange: Exchange, to: _Address, verb: str, body: Any, query: Mapping[str, str]) -> None:
        rest, kind, space, name = self._rest, to.kind, to.namespace or "", to.name
        if (to.subresource == "status" and not kind.status) or (to.subresource == "scale" and kind.scale is None) or (
            to.subresource and verb in ("create", "delete")
        ):  # fmt: skip
            exchange.answer(404, b"404 page not found\n", "text/plain; charset=utf-8")
            return
        write = self._write(exchange, to, query)
        if verb == "get":
            _json(exchange, 200, rest.scale(kind, space, name) if to.subresource == "scale" else rest.get(kind, space, name))
        elif verb == "create":
            _json(exchange, 201, rest.create(kind, space, _object(body), write))
        elif verb == "delete":
            options = dict(body or {})
            for key in ("propagationPolicy", "gracePeriodSeconds"):
                if key in query:
                    options.setdefault(key, query[key])
            left = rest.delete(kind, space, name, options, dry=write.dry)
            details = {"name": name, "kind": kind.plural, **({"group": kind.group} if kind.group else {})}
            _json(
                exchange,
                200,
                left or {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details},
            )
        else:
            content = exchange.request.headers.get("content-type", "").partition(";")[0].strip()
            if verb == "patch" and content not in _PATCHES:
                raise ApiRefusal(415, "UnsupportedMediaType", UNKNOWN_FORMAT + ", ".join(_PATCHES))
            if verb == "patch" and content == APPLY and "fieldManager" not in query:
                raise ApiRefusal(
                    422,
                    "Invalid",
                    'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
                )
            if verb == "patch" and content != APPLY and query.get("force"):
                raise ApiRefusal(
                    422,
                    "Invalid",
                    'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch',
                )
            if to.subresource == "scale":
                _json(exchange, 200, self._set_scale(to, verb, content, body, write))
                return
            existed = content != APPLY or rest.store.get(kind, space, name) is not None
            changed = rest.update(kind, space, name, _object(body), write) if verb == "update" else rest.patch(
                kind, space, name, content, body, write)  # fmt: skip
            _json(exchange, 200 if existed else 201, changed)

    def _set_scale(self, to: _Address, verb: str, content: str, body: Any, write: Write) -> Object:
        def change(scale: Object) -> Object:
            from lamplighter.testing.kubernetes import patches

            if verb == "update":
                return _object(body)
            if content.startswith("application/json-patch"):
                return dict(patches.json_patch({"spec": {}, **scale}, body))
            return dict(patches.merge(scale, body))

        return self._rest.set_scale(to.kind, to.namespace or "", to.name, change, write)

    def _list(self, exchange: Exchange, to: _Address, query: Mapping[str, str]) -> None:
        found, version, following, remaining = self._rest.select(
            to.kind, to.namespace, labels=query.get("labelSelector"), fields=query.get("fieldSelector"),
            limit=int(query.get("limit") or 0), token=query.get("continue"),
        )  # fmt: skip
        answer = _list_of(to.kind, found, version)
        if following:
            answer["metadata"] |= {"continue": following, "remainingItemCount": remaining}
        _json(exchange, 200, answer)

    async def _sub(self, exchange: Exchange, to: _Address, verb: str, body: Any, query: Mapping[str, str]) -> None:
        space, where = to.namespace or "", (to.kind.key, to.subresource, verb)
        if where == (("", "pods"), "log", "get"):
            await pods.log(exchange, self._rest, space, to.name, query)
        elif where == (("", "pods"), "binding", "create"):
            pods.bind(self._rest, space, to.name, _object(body))
            _json(exchange, 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
        elif where == (("", "pods"), "eviction", "create"):
            pods.evict(self._rest, space, to.name, _object(body))
            _json(exchange, 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
        elif where == (("", "serviceaccounts"), "token", "create"):
            self._rest.get(to.kind, space, to.name)
            token = self._gate.token_of(space, to.name)
            _json(exchange, 201, {**_object(body), "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
                                  "status": {"token": token, "expirationTimestamp": "2099-01-01T00:00:00Z"}})  # fmt: skip
        else:
            exchange.answer(404, b"404 page not found\n", "text/plain; charset=utf-8")

    def _review(self, exchange: Exchange, group: str, plural: str, user: User) -> bool:
        body = _object(self._body(exchange))
        spec = body.get("spec") or {}
        if plural == "selfsubjectaccessreviews":
            status: dict[str, Any] = self._gate.review(user, spec)
        elif plural == "subjectaccessreviews":
            status = self._gate.review(User(spec.get("user", ""), tuple(spec.get("groups") or ())), spec)
        elif plural == "selfsubjectreviews":
            status = {"userInfo": {"username": user.name, "groups": list(user.groups)}}
        else:
            try:
                found = self._gate.who(f"Bearer {spec.get('token', '')}")
                status = {"authenticated": True, "user": {"username": found.name, "groups": list(found.groups)}}
            except ApiRefusal:
                status = {"authenticated": False}
        _json(exchange, 201, {**body, "status": status})
        return True

    # ---- requests

    @staticmethod
    def _body(exchange: Exchange) -> Any:
        if not exchange.request.body:
            return None
        try:
            return json.loads(exchange.request.body)
        except ValueError as error:
            raise bad_request(f"the body is not JSON, which is all that the fake reads: {error}") from None

    @staticmethod
    def _write(exchange: Exchange, to: _Address, query: Mapping[str, str]) -> Write:
        agent = exchange.request.headers.get("user-agent", "unknown").partition("/")[0]
        return Write(
            query.get("fieldManager") or agent, to.subresource, query.get("force") in ("true", "1"), query.get("dryRun") == "All"
        )


def _object(body: Any) -> Object:
    if not isinstance(body, dict):
        raise bad_request("the body must be an object")
    return body


def _list_of(kind: Kind, found: list[Object], version: int) -> dict[str, Any]:
    """A list; the items of built-in kinds do not say what they are, as with the real server."""
    bare = (
        found
        if kind.custom
        else [{key: value for key, value in one.items() if key not in ("apiVersion", "kind")} for one in found]
    )
    return {
        "kind": f"{kind.kind}List",
        "apiVersion": kind.api_version,
        "metadata": {"resourceVersion": str(version)},
        "items": bare,
    }


def _json(exchange: Exchange, status: int, value: Any) -> None:
    exchange.answer(status, json.dumps(value, separators=(",", ":")).encode())


__all__ = ["ApiServer"]
