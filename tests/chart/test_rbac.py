"""What the keeper may do, against what it does: the chart's own ServiceAccounts and Roles on a pretended API server that enforces them."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from lamplighter.federation import names
from lamplighter.providers.base import Desired, Presence
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.examine import permissions
from lamplighter.providers.kubernetes.janitor import release
from lamplighter.testing.kubernetes import Controllers, FakeCluster, Fault, Kubelet, Outcome
from lamplighter.testing.kubernetes.access import Ask
from tests.chart.matrix import SCENARIOS, Values, combined
from tests.chart.rendering import NAMESPACE, Document, of, render
from tests.contract.kubernetes_world import NAMESPACE as MODELS
from tests.contract.kubernetes_world import KubernetesWorld, pool

KEEPER: dict[str, set[str]] = {
    "apps/deployments": {"get", "list", "watch", "create", "patch"},
    "apps/deployments/scale": {"patch"},
    "/services": {"create", "patch"},
    "/pods": {"list", "watch", "patch", "delete"},
    "/pods/log": {"get"},
    "/events": {"list", "watch"},
    "/secrets": {"create"},
    "/secrets[lamplighter-engine-gpu]": {"get"},
}
"""Every call of `providers.kubernetes`, for a pool of Deployments. Server-side apply of what is not there yet wants `create` beside `patch`."""
JANITOR: dict[str, set[str]] = {
    "apps/deployments": {"list"},
    "apps/statefulsets": {"list"},
    "apps/deployments/scale": {"patch"},
    "apps/statefulsets/scale": {"patch"},
}
ECR: dict[str, set[str]] = {"/secrets": {"create"}, "/secrets[ecr-pull]": {"patch"}}
FEDERATION_KINDS: dict[str, set[str]] = {
    "/namespaces": {"get", "list", "create", "patch", "delete"},
    "/nodes": {"get", "list", "watch", "patch", "delete"},
    "/secrets": {"get", "list", "create", "patch", "delete"},
}
VALUES: Values = {"pools": {"gpu": {"kind": "kubernetes", "namespace": MODELS}}, "cronjobs": {"janitor": {"enabled": True}}}


class Recorded:
    """Everything that one account asked for, and what of it was refused."""

    def __init__(self, cluster: FakeCluster, user: str) -> None:
        self.asked: set[tuple[str, str]] = set()
        self.refused: set[tuple[str, str]] = set()
        gate = cluster.gate
        before = gate.allowed

        def allowed(who: object, ask: Ask) -> bool:
            granted = before(who, ask)  # type: ignore[arg-type] # handed through
            if getattr(who, "name", "") == user and not ask.path and ask.group != "authorization.k8s.io":
                call = (_resource(ask), ask.verb)
                (self.asked if granted else self.refused).add(call)
            return granted

        gate.allowed = allowed  # type: ignore[method-assign,assignment] # listens


def _resource(ask: Ask) -> str:
    named = f"[{ask.name}]" if ask.plural == "secrets" and ask.verb != "create" else ""
    return f"{ask.group}/{ask.plural}{f'/{ask.subresource}' if ask.subresource else ''}{named}"


def granted(documents: list[Document], kind: str, name: str, namespace: str | None) -> dict[str, set[str]]:
    """What a Role of the render gives, by resource."""
    found: dict[str, set[str]] = {}
    for role in of(documents, kind, name):
        if role["metadata"].get("namespace") != namespace:
            continue
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for named in rule.get("resourceNames", [None]):
                        key = f"{group}/{resource}{f'[{named}]' if named else ''}"
                        found.setdefault(key, set()).update(rule["verbs"])
    return found


@asynccontextmanager
async def world(
    values: Values, account: str, *, workload: str = "deployment"
) -> AsyncIterator[tuple[KubernetesWorld, Recorded, Kubelet]]:
    """A cluster with the chart's rights on it, and a provider that has the account's token."""
    with FakeCluster(rbac=True) as cluster:
        for space in {NAMESPACE, MODELS}:
            cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
        documents = render(values)
        for kind in ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
            for one in of(documents, kind):
                cluster.create(dict(one))
        token = cluster.account(NAMESPACE, account)
        recorded = Recorded(cluster, f"system:serviceaccount:{NAMESPACE}:{account}")
        kubelet = Kubelet(cluster.access(), gpus=8)
        with Controllers(cluster.access()), kubelet:
            made = KubernetesWorld(cluster.access(token, namespace=MODELS), pool(workload=workload))
            _CLUSTERS[id(made)] = cluster
            try:
                yield made, recorded, kubelet
            finally:
                del _CLUSTERS[id(made)]
                await made.close()


_CLUSTERS: dict[int, FakeCluster] = {}


@pytest.mark.parametrize("workload", ["deployment", "statefulset"])
async def test_the_keeper_can_do_what_it_does_with_the_charts_role(workload: str) -> None:
    """A verb too few shows only when a model is to wake, at three in the morning."""
    plural = f"apps/{workload}s"
    values = combined(VALUES, {"pools": {"gpu": {"workload": workload}}})
    async with world(values, "lamplighter-keeper", workload=workload) as (made, recorded, kubelet):
        first, second = await made.wake(2)
        await made.provider.scale(Desired({made.model: 1}), frozenset({second.handle}))
        await made.until(lambda seen: [one.handle for one in seen if one.presence is Presence.RUNNING] == [first.handle])
        kubelet.outcomes["two"] = Outcome(Fault.CRASH, logs=("CUDA out of memory",))
        await made.provider.scale(Desired({made.model: 1, "two": 1}), frozenset())
        await made.until(lambda seen: any("CUDA" in (one.detail or "") for one in seen))
        another = made.another()
        seen = await made.until(lambda seen: len(seen) >= 2, another)
        await another.scale(Desired({}), frozenset(one.handle for one in seen))
        await made.until(lambda seen: all(one.presence is not Presence.RUNNING for one in seen), another)
    assert recorded.refused <= {("/nodes", "list")}
    known = {key.replace("apps/deployments", plural): verbs for key, verbs in KEEPER.items()}
    assert {call for call in recorded.asked if call[1] not in known.get(call[0], ())} == set()
    assert {
        (plural, "patch"),
        (f"{plural}/scale", "patch"),
        ("/secrets", "create"),
        ("/pods/log", "get"),
        ("/pods", "watch"),
    } <= recorded.asked


async def test_the_keeper_may_read_nodes_when_told_so() -> None:
    """Then it can say that a model was lost with its node."""
    async with world(combined(VALUES, {"rbac": {"nodes": True}}), "lamplighter-keeper") as (made, recorded, _):
        await made.wake(1)
    assert recorded.refused == set()
    assert ("/nodes", "watch") in recorded.asked


async def test_the_janitor_can_put_to_sleep_and_nothing_else() -> None:
    """It runs when the keeper is gone for good: nobody would see that it may not."""
    async with world(VALUES, "lamplighter-keeper") as (made, _, _), AsyncExitStack() as stack:
        await made.wake(1)
        cluster = made_cluster(made)
        token = cluster.account(MODELS, "lamplighter-janitor")
        recorded = Recorded(cluster, f"system:serviceaccount:{MODELS}:lamplighter-janitor")
        client = Cluster.connect(cluster.access(token, namespace=MODELS))
        stack.push_async_callback(client.close)
        assert await release(client, MODELS, now=time.time() + 3600)
    assert {call for call in recorded.asked if call[1] not in JANITOR.get(call[0], ())} == set()
    assert recorded.refused <= {("leaderworkerset.x-k8s.io/leaderworkersets", "list")}


def made_cluster(made: KubernetesWorld) -> FakeCluster:
    """The pretended cluster of a world."""
    return _CLUSTERS[id(made)]


@pytest.mark.parametrize(
    "settings", [{}, {"workload": "statefulset"}, {"nodes": 2, "gpus": 8}, {"preload": True}, {"manage": False}]
)
def test_the_role_is_what_doctor_asks_for(settings: Values) -> None:
    """`lamplighter doctor` would call a fresh installation broken, and name a rule that the chart forgot; more than that nobody needs."""
    rights = granted(render(combined(VALUES, {"pools": {"gpu": settings}})), "Role", "lamplighter-keeper", MODELS)
    wanted: dict[str, set[str]] = {"/secrets[lamplighter-engine-gpu]": {"get"}}
    for verb, group, resource, _ in permissions(pool(**settings)):
        wanted.setdefault(f"{group}/{resource}", set()).add(verb)
    assert rights == wanted


def test_roles_give_exactly_the_calls() -> None:
    """A verb too many is what somebody who breaks into the keeper uses."""
    documents = render(
        combined(VALUES, {"cronjobs": {"ecr": {"enabled": True, "registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"}}})
    )
    assert granted(documents, "Role", "lamplighter-keeper", MODELS) == KEEPER
    assert granted(documents, "Role", "lamplighter-janitor", MODELS) == JANITOR
    assert granted(documents, "Role", "lamplighter-ecr", NAMESPACE) == ECR
    assert of(documents, "ClusterRole") == []


def test_each_namespace_of_a_pool_gets_its_own_role() -> None:
    """Models in two namespaces need two Roles, pools of other clusters none here, and several machines LeaderWorkerSets."""
    values = next(one for one in SCENARIOS.values() if "models-a" in str(one) and one.get("mode") == "distributed")
    documents = render(values)
    assert {role["metadata"]["namespace"] for role in of(documents, "Role") if role["metadata"]["name"].endswith("-keeper")} == {
        "models-a",
        "models-b",
    }
    wide = granted(documents, "Role", "lamplighter-keeper", "models-a")
    assert "leaderworkerset.x-k8s.io/leaderworkersets/scale" in wide
    assert "apps/deployments" not in wide
    assert "/secrets[lamplighter-engine-a]" in wide
    assert "/secrets[lamplighter-engine-b]" in granted(documents, "Role", "lamplighter-keeper", "models-b")


def test_nobody_else_gets_any_right() -> None:
    """Gateways face the internet: they ask nothing of Kubernetes and may nothing."""
    for name, values in SCENARIOS.items():
        documents = render(values)
        bound = {
            subject["name"]
            for kind in ("RoleBinding", "ClusterRoleBinding")
            for one in of(documents, kind)
            for subject in one["subjects"]
        }
        assert bound <= {"lamplighter-keeper", "lamplighter-janitor", "lamplighter-ecr"}, name
        wide = {one["metadata"]["name"] for one in of(documents, "ClusterRole")}
        allowed = set()
        if values.get("rbac", {}).get("nodes"):
            allowed.add("lamplighter-llm-nodes")
        if values.get("federation", {}).get("enabled"):
            allowed.add("lamplighter-llm-federation")
        assert wide <= allowed, name
        if not values.get("pools") and not allowed:
            assert of(documents, "Role") == [], name


def test_who_brings_their_own_roles_gets_none() -> None:
    """Where Roles are made by somebody else, the chart must not need the right to make any."""
    documents = render(
        combined(
            VALUES, {"rbac": {"create": False}, "cronjobs": {"janitor": {"enabled": False}}, "federation": {"enabled": True}}
        )
    )
    assert not [one for one in documents if one["apiVersion"].startswith("rbac.")]


def test_the_federation_may_touch_every_kind_that_it_uses() -> None:
    """One of Liqo's kinds that is missing here stops a peering half way."""
    (role,) = of(render({"federation": {"enabled": True}}), "ClusterRole")
    rights = granted([role], "ClusterRole", "lamplighter-llm-federation", None)
    for kind in names.ALL:
        assert {"get", "list"} <= rights[f"{kind.group}/{kind.plural}"], kind
    for key, verbs in FEDERATION_KINDS.items():
        assert rights[key] == verbs
    assert not of(render(VALUES), "ClusterRole")
