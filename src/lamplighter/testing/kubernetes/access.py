"""Who asks and whether they may: tokens of ServiceAccounts, Roles and their bindings, evaluated as RBAC does from the objects in the store.

Not responsible for certificates; the administrator has a token too.
"""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.testing.kubernetes.errors import forbidden, unauthorized
from lamplighter.testing.kubernetes.kinds import Kind, Kinds
from lamplighter.testing.kubernetes.store import Object, Store

MASTERS = "system:masters"
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants to do. `namespace` "" means all of the cluster."""

    verb: str
    group: str
    plural: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    """Of a request that is of no resource."""


ADMIN = User("kubernetes-admin", (MASTERS, "system:authenticated"))
ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
_OPEN_PATHS = ("/healthz", "/livez", "/readyz", "/version", "/api", "/apis", "/openapi")


class Gate:
    """Authentication and authorisation of one fake API server. `enforced` False: everybody may do everything."""

    def __init__(self, store: Store, kinds: Kinds, *, enforced: bool) -> None:
        self.enforced = enforced
        self.admin_token = secrets.token_urlsafe(16)
        self._store = store
        self._kinds = kinds
        self._tokens: dict[str, User] = {self.admin_token: ADMIN}

    def token_of(self, namespace: str, account: str) -> str:
        """A new token of a ServiceAccount."""
        token = secrets.token_urlsafe(24)
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        self._tokens[token] = User(f"system:serviceaccount:{namespace}:{account}", groups)
        return token

    def revoke(self, token: str) -> None:
        """It is answered 401 from now on, as an expired one."""
        self._tokens.pop(token, None)

    def who(self, authorization: str) -> User:
        """The user of a request. Raises ApiRefusal (401)."""
        if authorization.startswith("Bearer "):
            user = self._tokens.get(authorization.removeprefix("Bearer ").strip())
            if user is None:
                raise unauthorized()
            return user
        return ANONYMOUS if self.enforced else ADMIN

    def check(self, user: User, kind: Kind, ask: Ask) -> None:
        """Raises ApiRefusal (403)."""
        if not self.allowed(user, ask):
            raise forbidden(user.name, ask.verb, kind, ask.subresource or None, ask.namespace or None, ask.name or None)

    def allowed(self, user: User, ask: Ask) -> bool:
        """Whether some rule grants it."""
        if not self.enforced or MASTERS in user.groups:
            return True
        if ask.path:
            return ask.path.startswith(_OPEN_PATHS) and user is not ANONYMOUS
        if ask.group == "authorization.k8s.io" and ask.plural == "selfsubjectaccessreviews":
            return user is not ANONYMOUS
        return any(_grants(rule, ask) for rule in self._rules(user, ask.namespace))

    def _rules(self, user: User, namespace: str) -> Iterator[Mapping[str, Any]]:
        for binding in self._all("clusterrolebindings"):
            if _binds(binding, user):
                yield from self._role(binding, "")
        if namespace:
            for binding in self._all("rolebindings", namespace):
                if _binds(binding, user):
                    yield from self._role(binding, namespace)

    def _all(self, plural: str, namespace: str | None = None) -> list[Object]:
        kind = self._kinds.find(_RBAC, "v1", plural)
        assert kind is not None
        return self._store.all(kind, namespace)

    def _role(self, binding: Object, namespace: str) -> list[Mapping[str, Any]]:
        reference = binding["roleRef"]
        cluster = reference["kind"] == "ClusterRole"
        kind = self._kinds.find(_RBAC, "v1", "clusterroles" if cluster else "roles")
        assert kind is not None
        role = self._store.get(kind, "" if cluster else namespace, reference["name"])
        return list((role or {}).get("rules") or [])

    def review(self, user: User, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The status of an access review of `user`."""
        asked = spec.get("resourceAttributes")
        if asked is not None:
            ask = Ask(
                asked.get("verb", ""), asked.get("group", ""), asked.get("resource", ""), asked.get("subresource", ""),
                asked.get("namespace", ""), asked.get("name", ""),
            )  # fmt: skip
        else:
            ask = Ask(
                (spec.get("nonResourceAttributes") or {}).get("verb", ""),
                "",
                "",
                path=(spec.get("nonResourceAttributes") or {}).get("path", "/"),
            )
        allowed = self.allowed(user, ask)
        return {"allowed": allowed, **({"reason": "RBAC: allowed, as the objects say"} if allowed else {})}


def _binds(binding: Object, user: User) -> bool:
    for subject in binding.get("subjects") or []:
        if subject["kind"] == "ServiceAccount":
            space = subject.get("namespace") or binding["metadata"].get("namespace", "")
            if user.name == f"system:serviceaccount:{space}:{subject['name']}":
                return True
        elif (subject["kind"] == "User" and subject["name"] == user.name) or (
            subject["kind"] == "Group" and subject["name"] in user.groups
        ):
            return True
    return False


def _grants(rule: Mapping[str, Any], ask: Ask) -> bool:
    def holds(name: str, *wanted: str) -> bool:
        found = rule.get(name) or ()
        return "*" in found or any(one in found for one in wanted)

    resource = f"{ask.plural}/{ask.subresource}" if ask.subresource else ask.plural
    wide = (f"*/{ask.subresource}",) if ask.subresource else ()
    names = rule.get("resourceNames") or ()
    return (
        holds("verbs", ask.verb)
        and holds("apiGroups", ask.group)
        and holds("resources", resource, *wide)
        and (not names or ask.name in names)
    )


__all__ = ["ADMIN", "Ask", "Gate", "User"]
