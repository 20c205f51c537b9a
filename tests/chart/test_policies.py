"""The policies themselves: each catches what it is there for. A rule that finds nothing in a bad pod would hold for every render."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.chart import consistency, policies, schemas
from tests.chart.matrix import VLLM, combined
from tests.chart.rendering import one, render

VALUES = combined(
    VLLM,
    {
        "mode": "distributed",
        "postgresql": {"mode": "embedded"},
        "ingress": {"kind": "traefik", "hosts": ["llm.example.com"]},
        "metrics": {"discovery": "serviceMonitor"},
        "gateway": {"verticalPodAutoscaler": {"enabled": True}},
    },
)
Change = Callable[[Any], None]


def _pod(name: str = "gateway") -> Callable[[list[Any]], Any]:
    return lambda documents: one(documents, "Deployment", f"lamplighter-{name}")["spec"]["template"]["spec"]


def _container(documents: list[Any]) -> Any:
    return _pod()(documents)["containers"][0]


def _of(kind: str, name: str) -> Callable[[list[Any]], Any]:
    return lambda documents: one(documents, kind, f"lamplighter-{name}")


def _put(find: Callable[[list[Any]], Any], path: str, value: Any) -> Change:
    def change(documents: list[Any]) -> None:
        inner = find(documents)
        *parts, last = path.split("/")
        for part in parts:
            inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
        if isinstance(inner, list):
            inner[int(last)] = value
        else:
            inner[last] = value

    return change


def _drop(find: Callable[[list[Any]], Any], key: str) -> Change:
    return lambda documents: find(documents).pop(key)


BAD_PODS: Mapping[str, tuple[Change, str]] = {
    "the node's network": (_put(_pod(), "hostNetwork", True), "hostNetwork"),
    "the node's processes": (_put(_pod(), "hostPID", True), "hostPID"),
    "a folder of the node": (_put(_pod(), "volumes", [{"name": "x", "hostPath": {"path": "/"}}]), "folder of the node"),
    "a volume of another kind": (_put(_pod(), "volumes", [{"name": "x", "nfs": {"server": "a", "path": "/"}}]), "of kind"),
    "a privileged container": (_put(_container, "securityContext/privileged", True), "privileged"),
    "root": (_put(_container, "securityContext/runAsUser", 0), "runs as root"),
    "root of the pod": (_put(_pod(), "securityContext/runAsUser", 0), "runs as root"),
    "perhaps root": (_put(_pod(), "securityContext/runAsNonRoot", None), "runAsNonRoot"),
    "more privileges": (_put(_container, "securityContext/allowPrivilegeEscalation", True), "may gain privileges"),
    "capabilities kept": (_put(_container, "securityContext/capabilities", {}), "keeps capabilities"),
    "a capability added": (_put(_container, "securityContext/capabilities/add", ["SYS_ADMIN"]), "adds"),
    "a port of the node": (_put(_container, "ports/0/hostPort", 80), "hostPort"),
    "no seccomp": (_put(_pod(), "securityContext/seccompProfile", {}), "no seccomp"),
    "seccomp off in a container": (_put(_container, "securityContext/seccompProfile", {"type": "Unconfined"}), "seccomp"),
    "AppArmor off": (_put(_container, "securityContext/appArmorProfile", {"type": "Unconfined"}), "AppArmor"),
    "SELinux off": (_put(_container, "securityContext/seLinuxOptions", {"type": "spc_t"}), "SELinux"),
    "procMount": (_put(_container, "securityContext/procMount", "Unmasked"), "procMount"),
    "a sysctl": (_put(_pod(), "securityContext/sysctls", [{"name": "kernel.msgmax", "value": "1"}]), "sysctl"),
    "a probe of another host": (_put(_container, "livenessProbe/httpGet/host", "169.254.169.254"), "another host"),
    "a writable root": (_put(_container, "securityContext/readOnlyRootFilesystem", False), "writable"),
    "a folder without limit": (_put(_pod(), "volumes/0/emptyDir", {}), "fill the node's disk"),
    "no request": (_put(_container, "resources", {"limits": {"memory": "1Gi"}}), "requests.cpu"),
    "no limit of memory": (_put(_container, "resources", {"requests": {"cpu": "1", "memory": "1Gi"}}), "limits.memory"),
    "no readiness": (_drop(_container, "readinessProbe"), "no readinessProbe"),
    "no liveness": (_drop(_container, "livenessProbe"), "no livenessProbe"),
    "the latest image": (_put(_container, "image", "ghcr.io/lamplighter/lamplighter:latest"), "not pinned"),
    "an image without tag": (_put(_container, "image", "localhost:5000/lamplighter"), "not pinned"),
    "half a digest": (_put(_container, "image", "a@sha256:12"), "digest"),
    "a password in the environment": (_put(_container, "env", [{"name": "DB_PASSWORD", "value": "x"}]), "plain text"),
    "a key in a ConfigMap": (_put(_of("ConfigMap", "config"), "data/x", "key: lk-0123456789abcdef0123"), "a secret at"),
    "a URL with its password": (_put(_of("ConfigMap", "config"), "data/x", "postgresql://u:p@db/x"), "a secret at"),
    "a wildcard": (_put(_of("Role", "keeper"), "rules/0/verbs", ["*"]), "wildcard"),
    "every Secret": (
        _put(_of("Role", "keeper"), "rules/0", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}),
        "every Secret",
    ),
    "a shell in pods": (
        _put(_of("Role", "keeper"), "rules/0", {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}),
        "step into",
    ),
    "rights for everybody": (
        _put(_of("RoleBinding", "keeper"), "subjects/0", {"kind": "Group", "name": "system:authenticated"}),
        "gives rights",
    ),
}

BAD_TOGETHER: Mapping[str, tuple[Change, str]] = {
    "a Service without pods": (_put(_of("Service", "gateway"), "spec/selector", {"a": "b"}), "leads to"),
    "a Deployment of other pods": (
        _put(_of("Deployment", "gateway"), "spec/selector/matchLabels", {"a": "b"}),
        "does not choose",
    ),
    "a selector that is too wide": (
        _put(_of("Deployment", "gateway"), "spec/selector/matchLabels", {"app.kubernetes.io/name": "lamplighter"}),
        "pods of others",
    ),
    "a port that nobody has": (_put(_of("Service", "gateway"), "spec/ports/0/targetPort", "web"), "no port"),
    "a probe of no port": (_put(_container, "readinessProbe/httpGet/port", "web"), "asks port"),
    "a monitor of no port": (_put(_of("ServiceMonitor", "keeper"), "spec/endpoints/0/port", "metrics"), "services have a port"),
    "a mount of nothing": (_put(_container, "volumeMounts/0/name", "nothing"), "no volume"),
    "two mounts at one place": (_put(_container, "volumeMounts/0/mountPath", "/tmp"), "two mounts"),
    "two writers of replicas": (_put(_of("Deployment", "gateway"), "spec/replicas", 3), "both write"),
    "an autoscaler of nothing": (
        _put(_of("HorizontalPodAutoscaler", "gateway"), "spec/scaleTargetRef/name", "x"),
        "does not exist",
    ),
    "a budget for one pod": (_put(_of("HorizontalPodAutoscaler", "gateway"), "spec/minReplicas", 1), "blocks a drain"),
    "two autoscalers on CPU": (
        _put(_of("VerticalPodAutoscaler", "gateway"), "spec/resourcePolicy/containerPolicies/0/controlledResources", ["cpu"]),
        "both autoscalers",
    ),
    "too short a drain": (_put(_pod(), "terminationGracePeriodSeconds", 30), "drains for"),
    "no labels": (_put(_of("ConfigMap", "config"), "metadata/labels", {}), "no label"),
}


@pytest.mark.parametrize("name", BAD_PODS)
def test_a_bad_pod_is_caught(name: str) -> None:
    """What this lets through, the namespace refuses, or an attacker uses."""
    change, words = BAD_PODS[name]
    documents = copy.deepcopy(render(VALUES))
    assert policies.broken(documents) == []
    change(documents)
    assert any(words in sentence for sentence in policies.broken(documents)), policies.broken(documents)


@pytest.mark.parametrize("name", BAD_TOGETHER)
def test_what_does_not_fit_together_is_caught(name: str) -> None:
    """Kubernetes takes it, and nothing works."""
    change, words = BAD_TOGETHER[name]
    documents = copy.deepcopy(render(VALUES))
    assert policies.broken(documents, consistency.RULES) == []
    change(documents)
    found = policies.broken(documents, consistency.RULES)
    assert any(words in sentence for sentence in found), found


def test_a_route_to_nowhere_is_caught() -> None:
    """An ingress that leads to no Service answers 404 or 503 to everybody."""
    documents: list[Any] = copy.deepcopy(render(VALUES))
    one(documents, "IngressRoute", "lamplighter")["spec"]["routes"][0]["services"][0]["name"] = "elsewhere"
    assert any("there is no Service elsewhere" in sentence for sentence in consistency.ports(documents))


def test_a_token_too_many_and_one_too_few_are_caught() -> None:
    """Gateways get none, the keeper cannot do without."""
    documents = copy.deepcopy(render(VALUES))
    assert list(policies.tokens(documents, ["Deployment/lamplighter-keeper"])) == []
    assert any("does not need" in one for one in policies.tokens(documents, []))
    assert any(
        "has no token" in one
        for one in policies.tokens(documents, ["Deployment/lamplighter-keeper", "Deployment/lamplighter-gateway"])
    )
    _put(_pod(), "automountServiceAccountToken", None)(documents)
    assert any("by itself" in one for one in policies.tokens(documents, ["Deployment/lamplighter-keeper"]))


def test_a_reference_to_nothing_is_caught() -> None:
    """The pod would wait for it for ever."""
    documents = copy.deepcopy(render(VALUES))
    _put(_pod(), "serviceAccountName", "somebody")(documents)
    assert any("ServiceAccount/somebody" in one for one in consistency.references(documents))


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "words"),
    [
        ("Deployment", "lamplighter-gateway", "spec/replica", 3, "replica"),
        ("Service", "lamplighter-gateway", "spec/ports/0/port", "eighty", "eighty"),
        ("IngressRoute", "lamplighter", "spec/routes/0/match", 7, "7"),
        ("ServersTransport", "lamplighter-streams", "spec/idleTimeout", "1s", "idleTimeout"),
    ],
)
def test_schemas_catch_typing_errors(kind: str, name: str, path: str, value: object, words: str) -> None:
    """In built-in kinds and in custom resources alike."""
    documents = copy.deepcopy(render(VALUES))
    _put(lambda found: one(found, kind, name), path, value)(documents)
    assert any(words in problem for problem in schemas.problems(one(documents, kind, name), "1.37"))


def test_a_kind_that_nobody_listed_is_a_problem() -> None:
    """Else its mistakes would pass unseen."""
    assert list(schemas.problems({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}}, "1.37")) != []


def test_a_removed_api_is_a_problem() -> None:
    """policy/v1beta1 is gone since 1.25: the whole release would fail."""
    budget = {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}, "spec": {}}
    assert list(schemas.problems(budget, "1.30")) != []
