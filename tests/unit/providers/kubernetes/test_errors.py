"""What an API server refuses, as a sentence and a next step; and how a watch goes on."""

from contextlib import aclosing
from typing import Any

import pytest

from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.kubernetes.client import Cluster, Seen
from lamplighter.providers.kubernetes.errors import KubernetesError, Target, admission, refused, target
from lamplighter.providers.kubernetes.kinds import CONFIG_MAP, POD, Manifest
from lamplighter.testing.kubernetes.cluster import FakeCluster


@pytest.mark.parametrize(
    ("method", "path", "about"),
    [
        ("GET", "/api/v1/namespaces/n/pods", Target("list", "", "pods", "n")),
        ("GET", "/api/v1/namespaces/n", Target("get", "", "namespaces", None, "n")),
        ("PATCH", "/apis/apps/v1/namespaces/n/deployments/d/scale", Target("patch", "apps", "deployments/scale", "n", "d")),
        ("DELETE", "/api/v1/namespaces/n/pods/p", Target("delete", "", "pods", "n", "p")),
        (
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            Target("create", "rbac.authorization.k8s.io", "clusterroles"),
        ),
        ("GET", "/version", Target("get", "", "version")),
    ],
)
def test_what_a_call_is_in_the_words_of_rbac(method: str, path: str, about: Target) -> None:
    """The rule that is printed would grant something else."""
    assert target(method, path) == about


def answer(status: int, message: str = "", reason: str = "", causes: list[dict[str, str]] | None = None) -> KubernetesError:
    """A refusal of a patch of a Deployment."""
    body: dict[str, Any] = {"kind": "Status", "message": message, "reason": reason, "details": {"causes": causes or []}}
    return refused(status, body, Target("patch", "apps", "deployments", "n", "d"), "https://c")


DENIED = (
    'deployments.apps "d" is forbidden: User "u" cannot patch resource "deployments" in API group "apps" in the namespace "n"'
)
RULE = 'apiGroups: ["apps"], resources: ["deployments"], verbs: ["patch"]'
OWNED = [{"reason": "FieldManagerConflict", "message": 'conflict with "helm"', "field": ".spec.template"}]


@pytest.mark.parametrize(
    ("error", "words", "step"),
    [
        (answer(401), "does not accept the credentials", "sign in again"),
        (answer(403, DENIED), "u may not patch deployments.apps d in namespace n", RULE),
        (answer(403, 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'), "exceeded quota", "ResourceQuota"),
        (answer(404, 'namespaces "n" not found'), "There is no namespace n", "kubectl create namespace n"),
        (answer(404, "the server could not find the requested resource"), "does not know deployments.apps", "custom resource definitions"),
        (answer(404, 'deployments.apps "d" not found'), "There is no deployments.apps d", ""),
        (answer(409, "Apply failed with 1 conflict", "Conflict", OWNED), "helm also writes .spec.template", "manage: false"),
        (answer(409, "the object has been modified", "Conflict"), "was changed meanwhile", "tried again"),
        (answer(422, "spec.x: Invalid value"), "does not accept", "models render"),
        (answer(500, "etcdserver: leader changed"), "API failed", "etcd"),
        (answer(429), "limits how often", "Wait"),
        (refused(502, "<html>bad gateway</html>", Target("get", "", "pods", "n"), "https://c"), "bad gateway", "API server"),
    ],
)  # fmt: skip
def test_every_refusal_has_a_sentence_and_a_next_step(error: KubernetesError, words: str, step: str) -> None:
    """A status code is no answer to `why does it not work`."""
    assert words in error.message
    assert step in error.next_step
    assert error.next_step


def test_a_quota_is_a_quota() -> None:
    """A wake that the quota forbids would be tried again and again."""
    assert answer(403, 'pods "x" is forbidden: exceeded quota: q').reason is WakeFailure.QUOTA
    assert answer(409, 'conflict with "helm"').managers == {"helm"}


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "pod_security"),
        ("unable to validate against any pod security policy: []", "pod_security"),
        ('admission webhook "validate.kyverno.svc-fail" denied the request: policy', "webhook"),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 8Gi', "limit_range"),
        ("namespace n because it is being terminated", "terminating"),
        ('pods "x" is forbidden: no PriorityClass with name p was found', "priority"),
        ('pods "x" is forbidden: error looking up service account n/s: serviceaccount "s" not found', "service_account"),
        ('pod rejected: RuntimeClass "nvidia" not found', "runtime_class"),
        ('pods is forbidden: User "u" cannot list resource "pods"', None),
    ],
)  # fmt: skip
def test_who_refused(said: str, rule: str | None) -> None:
    """A policy's refusal told as a missing permission sends a person to the wrong people."""
    assert admission(said) == rule


def config_map(name: str, **data: str) -> Manifest:
    """Something small to watch."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


async def test_a_watch_misses_nothing_and_repeats_nothing() -> None:
    """An event that is lost is a pod that nobody knows of; the version from which it goes on must be the last that was seen."""
    with FakeCluster() as fake:
        cluster = Cluster.connect(fake.access())
        seen: list[tuple[str, str]] = []
        async with aclosing(cluster.watch(CONFIG_MAP, "default")) as changes:
            async for change in changes:
                match change.seen:
                    case Seen.LISTED:
                        seen.append(("listed", ",".join(sorted(one["metadata"]["name"] for one in change.items))))
                        if len(seen) == 1:
                            fake.create(config_map("a"))
                    case Seen.ADDED if change.object["metadata"]["name"] == "a":
                        seen.append(("added", "a"))
                        fake.cut_watches()
                        fake.create(config_map("b"))
                    case Seen.ADDED:
                        seen.append(("added", change.object["metadata"]["name"]))
                        fake.fail("watch", "configmaps", 410, 1)
                        fake.cut_watches()
                        fake.create(config_map("c"))
                    case _:
                        pass
                if seen[-1] == ("listed", "a,b,c"):
                    break
        assert seen == [("listed", ""), ("added", "a"), ("added", "b"), ("listed", "a,b,c")]
        await cluster.close()


async def test_lists_are_read_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seven hundred pods the keeper would end those that it does not know."""
    monkeypatch.setattr("lamplighter.providers.kubernetes.client.PAGE", 2)
    with FakeCluster() as fake:
        for name in "abcde":
            fake.create(config_map(name))
        cluster = Cluster.connect(fake.access())
        assert [one["metadata"]["name"] for one in await cluster.list(CONFIG_MAP)] == list("abcde")
        await cluster.close()


async def test_custom_kinds_are_asked_of_the_cluster() -> None:
    """Liqo's kinds and everybody's own: their plurals are nowhere in a manifest."""
    with FakeCluster() as fake:
        fake.define("offloading.example", "v1beta1", "Mouse", "mice")
        cluster = Cluster.connect(fake.access())
        kind = await cluster.custom("offloading.example/v1beta1", "Mouse")
        assert (kind.plural, kind.namespaced) == ("mice", True)
        assert await cluster.custom("offloading.example/v1beta1", "mice") == kind
        manifest = {"apiVersion": "offloading.example/v1beta1", "kind": "Mouse", "metadata": {"name": "m"}, "spec": {"a": 1}}
        assert (await cluster.apply(manifest))["spec"] == {"a": 1}
        with pytest.raises(KubernetesError) as raised:
            await cluster.custom("nobody.example/v1", "Thing")
        assert raised.value.status == 404
        assert "custom resource definitions" in raised.value.next_step
        await cluster.close()


async def test_only_the_very_object_is_deleted() -> None:
    """Between the look and the deed a StatefulSet makes another pod of the same name."""
    with FakeCluster() as fake:
        made = fake.create(config_map("a"))
        cluster = Cluster.connect(fake.access())
        with pytest.raises(KubernetesError) as raised:
            await cluster.delete(CONFIG_MAP, "a", uid="another")
        assert raised.value.status == 409
        assert await cluster.delete(CONFIG_MAP, "a", uid=made["metadata"]["uid"])
        assert not await cluster.delete(CONFIG_MAP, "a")
        assert await cluster.get_or_none(POD, "none") is None
        await cluster.close()


async def test_a_call_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that drops packets would hold the keeper for ever."""
    with FakeCluster() as fake:
        cluster = Cluster.connect(fake.access())
        fake.latency = 5.0
        with pytest.raises(KubernetesError, match="no answer within") as raised:
            await cluster.call("GET", "/version", limit=0.1)
        assert raised.value.reason is WakeFailure.UNREACHABLE
        fake.heal()
        await cluster.close()
