"""What an API server refuses, in our words: one sentence and one next step for each way. Pure.

Not responsible for why a pod does not run (`reasons`): this is about calls.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamplighter.core.errors import ProviderError
from lamplighter.core.reasons import WakeFailure

_SAID = 400
"""Characters of the server's own words that are passed on."""
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}
_ADMISSION: Sequence[tuple[str, re.Pattern[str]]] = (
    ("quota", re.compile(r"exceeded quota:|failed quota:")),
    ("pod_security", re.compile(r"violates PodSecurity|unable to validate against any (?:pod security policy|security context constraint)")),
    ("webhook", re.compile(r'admission webhook ".*?" (?:denied|does not support)|ValidatingAdmissionPolicy')),
    ("limit_range", re.compile(r"(?:maximum|minimum) \S+ usage per|max limit to request ratio per")),
    ("terminating", re.compile(r"because it is being terminated")),
    ("priority", re.compile(r"no PriorityClass with name")),
    ("service_account", re.compile(r"error looking up service account")),
    ("runtime_class", re.compile(r"RuntimeClass .*not found|RuntimeClass not found")),
)  # fmt: skip
_USER = re.compile(r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"')


class KubernetesError(ProviderError):
    """A call failed. `status`: the HTTP status, 0 when no answer came. `word`: Kubernetes's own name of the reason, such as `NotFound`.

    `verb`, `resource` and `namespace` as RBAC names them. `said`: the server's own words. `managers`: who owns the fields of a conflict.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        word: str = "",
        verb: str = "",
        resource: str = "",
        namespace: str | None = None,
        said: str = "",
        managers: frozenset[str] = frozenset(),
        reason: WakeFailure = WakeFailure.PROVIDER_ERROR,
        next_step: str = "",
    ) -> None:
        super().__init__(message, reason=reason, next_step=next_step)
        self.status = status
        self.word = word
        self.verb = verb
        self.resource = resource
        self.namespace = namespace
        self.said = said
        self.managers = managers


@dataclass(frozen=True, slots=True)
class Target:
    """What a call is about, read from its method and path. `resource` with its subresource: `deployments/scale`."""

    verb: str
    group: str = ""
    resource: str = ""
    namespace: str | None = None
    name: str | None = None

    @property
    def full(self) -> str:
        """As people write it: `deployments.apps/scale`."""
        plural, slash, subresource = self.resource.partition("/")
        return f"{plural}.{self.group}{slash}{subresource}" if self.group else self.resource

    @property
    def place(self) -> str:
        """` in namespace x`, or nothing."""
        return f" in namespace {self.namespace}" if self.namespace else ""


def target(method: str, path: str, *, watch: bool = False) -> Target:
    """What `method` on `path` is, in RBAC's words."""
    parts = [part for part in path.partition("?")[0].split("/") if part]
    group = ""
    if parts[:1] == ["apis"] and len(parts) > 3:
        group, parts = parts[1], parts[3:]
    elif parts[:1] == ["api"] and len(parts) > 2:
        parts = parts[2:]
    else:
        return Target(_VERBS.get(method, method.lower()), resource="/".join(parts))
    namespace = None
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    resource, name = parts[0], parts[1] if len(parts) > 1 else None
    if len(parts) > 2:
        resource = f"{resource}/{'/'.join(parts[2:])}"
    verb = _VERBS.get(method, method.lower())
    if verb == "get" and name is None:
        verb = "watch" if watch else "list"
    elif verb == "delete" and name is None:
        verb = "deletecollection"
    return Target(verb, group, resource, namespace, name)


def admission(message: str) -> str | None:
    """Which admission rule refused an object, from the server's words; None when it was none (RBAC, for one)."""
    return next((name for name, pattern in _ADMISSION if pattern.search(message)), None)


def refused(status: int, body: Any, about: Target, server: str) -> KubernetesError:
    """An answer with an error status, as ours. `body`: the `Status` object, or text when a proxy answered."""
    details: Mapping[str, Any] = body if isinstance(body, dict) else {}
    said = " ".join(str(details.get("message") or ("" if details else body) or "").split())[:_SAID]
    word = str(details.get("reason") or "")
    what = f"{about.verb} {about.full}" + (f" {about.name}" if about.name else "") + about.place
    reason = WakeFailure.PROVIDER_ERROR
    match status:
        case 401:
            text = f"The cluster at {server} does not accept the credentials."
            step = "They have expired or were revoked: sign in again (for EKS `aws sso login`) or make a new token; check the context, too."
        case 403:
            text, step, reason = _forbidden(said, about, what)
        case 404:
            text, step = _missing(said, about)
        case 409:
            text, step = _conflict(said, word, details, about)
        case 422 | 400:
            text = f"The cluster does not accept what it was given ({what}): {said or 'no reason told'}"
            step = "Correct the setting that the message names; `lamplighter models render` prints what is applied."
        case 415:
            text = f"The cluster does not know server-side apply ({what})."
            step = "Kubernetes 1.20 or newer is needed, with server-side apply switched on."
        case 429:
            text, step = f"The cluster limits how often it may be asked ({what}).", "Wait; it is tried again."
        case _ if status >= 500:
            text = f"The cluster's API failed (status {status}, {what}): {said or 'no reason told'}"
            step = "It is tried again; if it lasts, look at the API server and its etcd."
        case _:
            text = f"The cluster answered {what} with status {status}: {said or 'no reason told'}"
            step = "Run `lamplighter doctor`."
    return KubernetesError(
        text,
        status=status,
        word=word,
        verb=about.verb,
        resource=about.full,
        namespace=about.namespace,
        said=said,
        managers=_managers(said, details),
        reason=reason,
        next_step=step,
    )


def unreachable(error: Exception, about: Target, server: str) -> KubernetesError:
    """No answer came."""
    text = str(error).strip().rstrip(".") or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text:
        sentence = f"The certificate of {server} is not from the authority in the kubeconfig: {text}."
        step = "Renew the kubeconfig: the cluster was probably made anew, or a proxy is in between."
    else:
        sentence = f"The cluster at {server} cannot be reached: {text}."
        step = "Check that it runs, that its address in the kubeconfig is right, and that this machine's network reaches it."
    return KubernetesError(
        sentence,
        verb=about.verb,
        resource=about.full,
        namespace=about.namespace,
        said=text,
        reason=WakeFailure.UNREACHABLE,
        next_step=step,
    )


def late(seconds: float, about: Target, server: str) -> KubernetesError:
    """No answer came in time."""
    return unreachable(TimeoutError(f"no answer within {seconds:g} s"), about, server)


def grant(about: Target, user: str = "") -> str:
    """How to allow what `about` says: the rule, for whoever looks after the cluster's RBAC."""
    who = f" to {user}" if user else ""
    kind = "Role" if about.namespace else "ClusterRole"
    return (
        f'Grant it{who}: a {kind}{about.place} with the rule apiGroups: ["{about.group}"], resources: ["{about.resource}"], '
        f'verbs: ["{about.verb}"]; the chart makes such a {kind} for the keeper.'
    )


def _forbidden(said: str, about: Target, what: str) -> tuple[str, str, WakeFailure]:
    sentence = f"The cluster does not admit it ({what}): {said}"
    match admission(said):
        case "quota":
            return sentence, "Raise the namespace's ResourceQuota, or lower what the pool asks for.", WakeFailure.QUOTA
        case "pod_security":
            return (
                sentence,
                "Correct what the message names, or relax the namespace's PodSecurity level.",
                WakeFailure.PROVIDER_ERROR,
            )
        case "limit_range":
            return (
                sentence,
                "Fit the pool's `cpu` and `memory` into the namespace's LimitRange, or change that.",
                WakeFailure.QUOTA,
            )
        case "terminating":
            return (
                sentence,
                "The namespace is being deleted: wait until it is gone, or configure another one.",
                WakeFailure.PROVIDER_ERROR,
            )
        case str():
            return (
                sentence,
                "Change what the message names, or ask whoever looks after the cluster's rules.",
                WakeFailure.PROVIDER_ERROR,
            )
        case None:
            user = found["user"] if (found := _USER.search(said)) else ""
            who = user or "The account in use"
            return f"{who} may not {what}.", grant(about, user), WakeFailure.PROVIDER_ERROR


def _missing(said: str, about: Target) -> tuple[str, str]:
    if said.startswith("namespaces ") or (about.resource == "namespaces"):
        space = about.name if about.resource == "namespaces" else about.namespace
        return f"There is no namespace {space}.", f"Make it: `kubectl create namespace {space}`, or configure another one."
    if about.name is None or "the server could not find the requested resource" in said or "404 page not found" in said:
        return (
            f"The cluster does not know {about.full}.",
            "Install what brings this kind of object (its custom resource definitions), or switch off what needs it.",
        )
    return (
        f"There is no {about.full} {about.name}{about.place}.",
        "It is made again if it is ours; else create it, or correct its name.",
    )


def _managers(said: str, details: Mapping[str, Any]) -> frozenset[str]:
    """Who owns the fields over which an apply conflicts."""
    causes = [cause for cause in (details.get("details") or {}).get("causes") or () if isinstance(cause, dict)]
    words = " ".join((said, *(str(cause.get("message")) for cause in causes if cause.get("reason") == "FieldManagerConflict")))
    return frozenset(re.findall(r'conflicts? with "([^"]+)"', words))


def _conflict(said: str, word: str, details: Mapping[str, Any], about: Target) -> tuple[str, str]:
    causes = (details.get("details") or {}).get("causes") or ()
    owned = [cause for cause in causes if isinstance(cause, dict) and cause.get("reason") == "FieldManagerConflict"]
    managers = _managers(said, details)
    if owned or managers:
        fields = ", ".join(str(cause.get("field")) for cause in owned) or "some fields"
        return (
            f"{', '.join(sorted(managers)) or 'Another program'} also writes {fields} of {about.full} {about.name}{about.place}.",
            "Let one of the two write them: set `manage: false` on the pool if something else makes its workloads, or take them out of there.",
        )
    if word == "AlreadyExists":
        return f"There is already a {about.full} {about.name or ''}{about.place}.".replace("  ", " "), "It is read again."
    return f"{about.full} {about.name}{about.place} was changed meanwhile: {said}", "It is tried again with what is there now."
