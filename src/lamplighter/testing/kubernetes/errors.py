"""What an API server answers when it refuses: Kubernetes' Status objects, with the words of the real one.

Not responsible for deciding that; clients read these words to people, so they are kept as they are.
"""

from collections.abc import Sequence
from typing import Any

from lamplighter.testing.kubernetes.kinds import Kind

MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class ApiRefusal(Exception):
    """A request that is answered by a Status: HTTP code, machine's reason, person's message."""

    def __init__(
        self, code: int, reason: str, message: str, details: dict[str, Any] | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The Status object."""
        details = {**self.details, **({"retryAfterSeconds": self.retry_after} if self.retry_after else {})}
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, **({"details": details} if details else {}), "code": self.code,
        }  # fmt: skip


def _details(kind: Kind, name: str | None) -> dict[str, Any]:
    return {
        **({"name": name} if name else {}),
        **({"group": kind.group} if kind.group else {}),
        "kind": kind.plural,
    }


def not_found(kind: Kind, name: str) -> ApiRefusal:
    """404."""
    return ApiRefusal(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def already_exists(kind: Kind, name: str) -> ApiRefusal:
    """409 for a name that is taken."""
    return ApiRefusal(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = MODIFIED) -> ApiRefusal:
    """409 for a resourceVersion that is not the newest, or a precondition that does not hold."""
    return ApiRefusal(409, "Conflict", f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}', _details(kind, name))


def invalid(kind: Kind, name: str, causes: Sequence[tuple[str, str]]) -> ApiRefusal:
    """422. `causes`: pairs of a field and what is wrong with it."""
    told = [f"{field}: {why}" for field, why in causes]
    message = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    group = f".{kind.group}" if kind.group else ""
    details = {
        **_details(kind, name),
        "kind": kind.kind,
        "causes": [{"reason": "FieldValueInvalid", "message": why, "field": field} for field, why in causes],
    }
    return ApiRefusal(422, "Invalid", f'{kind.kind}{group} "{name}" is invalid: {message}', details)


def bad_request(message: str) -> ApiRefusal:
    """400."""
    return ApiRefusal(400, "BadRequest", message)


def expired(message: str) -> ApiRefusal:
    """410: what was asked for is compacted away."""
    return ApiRefusal(410, "Expired", message)


def unauthorized() -> ApiRefusal:
    """401: no such token."""
    return ApiRefusal(401, "Unauthorized", "Unauthorized")


def forbidden(user: str, verb: str, kind: Kind, subresource: str | None, namespace: str | None, name: str | None) -> ApiRefusal:
    """403 of RBAC."""
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    subject = f'{kind.resource} "{name}"' if name else kind.resource
    message = f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{kind.group}" {where}'
    return ApiRefusal(403, "Forbidden", message, _details(kind, name))


def apply_conflict(conflicts: Sequence[tuple[str, str]]) -> ApiRefusal:
    """409 of a server-side apply. `conflicts`: pairs of who owns a field and the field's path."""
    if len(conflicts) == 1:
        who, path = conflicts[0]
        message = f"Apply failed with 1 conflict: conflict with {who}: {path}"
    else:
        lines = []
        for who in sorted({owner for owner, _ in conflicts}):
            lines += [f"conflicts with {who}:", *(f"- {path}" for owner, path in conflicts if owner == who)]
        message = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for who, path in conflicts]
    return ApiRefusal(409, "Conflict", message, {"causes": causes})


__all__ = [
    "ApiRefusal", "already_exists", "apply_conflict", "bad_request", "conflict", "expired", "forbidden", "invalid", "not_found", "unauthorized",
]  # fmt: skip
