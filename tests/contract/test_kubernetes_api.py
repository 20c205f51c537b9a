"""What our code relies on of Kubernetes' API, asked of the pretended API server and, where there is one, of a real one (`long`).

When the two differ, tests on the pretended one prove nothing: a failure here is a bug of `lamplighter.testing.kubernetes` or a wrong belief of ours.
"""

import asyncio
import base64
import copy
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Cluster, Seen
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.testing.kubernetes import Controllers, FakeCluster, Fault, Kubelet, Outcome
from lamplighter.testing.kubernetes.crds import definition
from tests.cluster_lab.control_plane import ControlPlane
from tests.cluster_lab.lent import LentCluster

_PATIENCE = 30.0
_DEFINITION = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)


@dataclass
class Bench:
    """One API server, a namespace of this test's own, and the administrator's client."""

    server: Any
    client: Cluster
    space: str

    @property
    def fake(self) -> bool:
        return isinstance(self.server, FakeCluster)

    @property
    def short(self) -> str:
        """Seconds of a watch in which a server tells all that happened before."""
        return "1" if self.fake else "3"

    def deployment(self, name: str = "engine", image: str = "example.org/engine:1", replicas: int | None = None) -> Manifest:
        spec: Manifest = {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "engine", "image": image, "ports": [{"name": "engine", "containerPort": 8000}]}]
                },
            },
        }
        if replicas is not None:
            spec["replicas"] = replicas
        meta = {"name": name, "namespace": self.space, "labels": {"app": name}}
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}

    def config_map(self, name: str, **labels: str) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.space, "labels": labels},
            "data": {"a": "1"},
        }

    async def get(self, kind: Kind, name: str) -> Manifest:
        return await self.client.get(kind, name, self.space)

    async def refused(self, work: Any) -> KubernetesError:
        """The refusal of a call that must be refused."""
        with pytest.raises(KubernetesError) as caught:
            await work
        return caught.value

    async def as_account(self, name: str) -> Cluster:
        """The client of a ServiceAccount of this namespace."""
        token = await asyncio.to_thread(self.server.account, self.space, name)
        return Cluster.connect(self.server.access(token, self.space))

    async def until(self, look: Callable[[], Any], what: str) -> Any:
        """The first truthy result of a coroutine function."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _PATIENCE
        while True:
            if found := await look():
                return found
            assert loop.time() < end, f"waited {_PATIENCE:g} s in vain: {what}"
            await asyncio.sleep(0.05)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest) -> Iterator[FakeCluster | ControlPlane | LentCluster]:
    """The pretended API server and the real one."""
    if request.param == "real":
        yield request.getfixturevalue("real_cluster")
    else:
        with FakeCluster(rbac=True) as cluster:
            yield cluster


@pytest.fixture
async def bench(server: FakeCluster | ControlPlane | LentCluster) -> AsyncIterator[Bench]:
    """A namespace of its own on it."""
    client = Cluster.connect(server.access())
    space = f"t-{uuid.uuid4().hex[:10]}"
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    yield Bench(server, client, space)
    await client.delete(known.NAMESPACE, space)
    await client.close()


# ---- versions and conflicts


async def test_scale_with_an_old_version_is_refused(bench: Bench) -> None:
    """Two keepers, or a keeper and a person, would overwrite each other's replicas."""
    await bench.client.create(bench.deployment(replicas=0))
    before = await bench.client.scale(known.DEPLOYMENT, "engine", bench.space)
    assert before["spec"].get("replicas", 0) == 0
    version = before["metadata"]["resourceVersion"]
    after = await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 2, version=version)
    assert after["spec"]["replicas"] == 2
    assert after["metadata"]["resourceVersion"] != version
    assert after["status"]["selector"] == "app=engine"
    error = await bench.refused(bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 3, version=version))
    assert (error.status, error.word) == (409, "Conflict")
    assert "the object has been modified" in error.said
    assert (await bench.get(known.DEPLOYMENT, "engine"))["spec"]["replicas"] == 2


async def test_replace_with_an_old_version_is_refused(bench: Bench) -> None:
    """A read-modify-write would silently lose what another wrote in between."""
    made = await bench.client.create(bench.config_map("c"))
    path = known.CONFIG_MAP.path(bench.space, "c")
    changed = {**made, "data": {"a": "2"}}
    await bench.client.call("PUT", path, body=changed)
    error = await bench.refused(bench.client.call("PUT", path, body={**changed, "data": {"a": "3"}}))
    assert (error.status, error.word) == (409, "Conflict")
    assert error.said == (
        'Operation cannot be fulfilled on configmaps "c": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )


async def test_a_change_of_nothing_is_no_new_version(bench: Bench) -> None:
    """A keeper that applies the same every few seconds would wake every watcher and roll nothing."""
    made = await bench.client.apply(bench.config_map("c"))
    again = await bench.client.apply(bench.config_map("c"))
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_generation_counts_the_spec_alone(bench: Bench) -> None:
    """`observedGeneration` is how we see that the controllers know the newest spec."""
    await bench.client.create(bench.deployment(replicas=0))
    await bench.client.patch(known.DEPLOYMENT, "engine", {"metadata": {"annotations": {"a": "b"}}}, bench.space)
    assert (await bench.get(known.DEPLOYMENT, "engine"))["metadata"]["generation"] == 1
    await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1)
    assert (await bench.get(known.DEPLOYMENT, "engine"))["metadata"]["generation"] == 2


async def test_names_that_are_taken_and_names_that_are_made(bench: Bench) -> None:
    """Two keepers create at once: one must learn that the other did."""
    await bench.client.create(bench.config_map("c"))
    error = await bench.refused(bench.client.create(bench.config_map("c")))
    assert (error.status, error.word, error.said) == (409, "AlreadyExists", 'configmaps "c" already exists')
    named = bench.config_map("x")
    named["metadata"] = {"generateName": "made-", "namespace": bench.space}
    first, second = await bench.client.create(named), await bench.client.create(named)
    assert first["metadata"]["name"] != second["metadata"]["name"]
    assert first["metadata"]["name"].startswith("made-")


async def test_what_is_not_there(bench: Bench) -> None:
    """`nobody installed it` and `it is gone` lead people to different fixes."""
    error = await bench.refused(bench.get(known.DEPLOYMENT, "engine"))
    assert (error.status, error.word, error.said) == (404, "NotFound", 'deployments.apps "engine" not found')
    error = await bench.refused(bench.client.call("GET", f"/apis/nobody.example/v1/namespaces/{bench.space}/things"))
    assert error.status == 404
    error = await bench.refused(bench.client.create({**bench.config_map("c"), "metadata": {"name": "c", "namespace": "nowhere"}}))
    assert (error.status, error.said) == (404, 'namespaces "nowhere" not found')


# ---- server-side apply


async def test_apply_does_not_take_what_another_owns(bench: Bench) -> None:
    """GitOps and keeper would overwrite each other for ever; the one who comes second must be told whose field it is."""
    await bench.client.apply(bench.deployment(replicas=0), manager="argocd")
    error = await bench.refused(bench.client.apply(bench.deployment(image="example.org/engine:2"), manager="lamplighter-keeper"))
    assert (error.status, error.word) == (409, "Conflict")
    assert 'conflict with "argocd"' in error.said
    assert '.spec.template.spec.containers[name="engine"].image' in error.said
    assert error.managers == {"argocd"}
    taken = await bench.client.apply(bench.deployment(image="example.org/engine:2"), manager="lamplighter-keeper", force=True)
    assert taken["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/engine:2"
    error = await bench.refused(bench.client.apply(bench.deployment(replicas=0), manager="argocd"))
    assert 'conflict with "lamplighter-keeper"' in error.said


async def test_apply_never_resets_replicas_that_are_not_in_it(bench: Bench) -> None:
    """A new image or argument would put a running model to sleep, or wake one that sleeps."""
    await bench.client.create(bench.deployment(replicas=0))
    bare = bench.deployment(image="example.org/engine:2")
    assert (await bench.client.apply(bare, force=True))["spec"]["replicas"] == 0
    await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 3)
    bare["spec"]["template"]["spec"]["containers"][0]["image"] = "example.org/engine:3"
    found = await bench.client.apply(bare, force=True)
    assert found["spec"]["replicas"] == 3
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/engine:3"


async def test_a_field_that_an_apply_drops_falls_back_to_its_default(bench: Bench) -> None:
    """The trap behind the rule above: who applies `replicas: 0` once and leaves it out later has one replica."""
    await bench.client.apply(bench.deployment(replicas=0))
    assert (await bench.client.apply(bench.deployment()))["spec"]["replicas"] == 1


async def test_apply_takes_back_only_its_own(bench: Bench) -> None:
    """Labels and variables that others added would vanish at the next wake, or ours stay for ever."""
    ours = bench.deployment(replicas=0)
    container = ours["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    await bench.client.apply(ours)
    theirs = bench.deployment()
    theirs["metadata"]["labels"] = {"app": "engine", "team": "blue"}
    theirs["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "C", "value": "3"}]
    await bench.client.apply(theirs, manager="another")
    container["env"] = [{"name": "A", "value": "1"}]
    found = await bench.client.apply(ours)
    assert found["metadata"]["labels"] == {"app": "engine", "team": "blue"}
    assert {one["name"] for one in found["spec"]["template"]["spec"]["containers"][0]["env"]} == {"A", "C"}


async def test_a_misspelt_field_is_refused(bench: Bench) -> None:
    """It would be dropped without a word, and the engine run without it."""
    wrong = bench.deployment()
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"
    error = await bench.refused(bench.client.apply(wrong))
    assert error.status in (400, 500)
    assert "field not declared in schema" in error.said


async def test_defaults_are_nobodys(bench: Bench) -> None:
    """Applying a manifest again after the server filled in its defaults would conflict or change something."""
    await bench.client.apply(bench.deployment())
    found = await bench.client.apply(bench.deployment(), manager="another")
    assert found["spec"]["replicas"] == 1
    assert found["spec"]["template"]["spec"]["restartPolicy"] == "Always"
    assert found["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"] == "TCP"


# ---- lists and watches


async def test_a_watch_goes_on_where_the_list_ended(bench: Bench) -> None:
    """A pod that turned ready between list and watch would never be seen."""
    await bench.client.create(bench.config_map("before"))
    _, version = await bench.client.list_with_version(known.CONFIG_MAP, bench.space)
    await bench.client.create(bench.config_map("after"))
    await bench.client.patch(known.CONFIG_MAP, "before", {"data": {"a": "2"}}, bench.space)
    await bench.client.delete(known.CONFIG_MAP, "after", bench.space)
    heard = await _events(bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short)
    told = [(event["type"], event["object"]["metadata"]["name"]) for event in heard]
    assert told == [("ADDED", "after"), ("MODIFIED", "before"), ("DELETED", "after")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in heard]
    assert versions == sorted(set(versions))


async def test_a_watch_by_labels_sees_what_comes_and_goes(bench: Bench) -> None:
    """A pod that loses our label is gone for us; it must not stay in our picture."""
    await bench.client.create(bench.config_map("c", pool="a"))
    _, version = await bench.client.list_with_version(known.CONFIG_MAP, bench.space, labels={"pool": "b"})
    await bench.client.patch(known.CONFIG_MAP, "c", {"metadata": {"labels": {"pool": "b"}}}, bench.space)
    await bench.client.patch(known.CONFIG_MAP, "c", {"metadata": {"labels": {"pool": "a"}}}, bench.space)
    heard = await _events(bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short, labelSelector="pool=b")
    assert [event["type"] for event in heard] == ["ADDED", "DELETED"]


async def test_bookmarks_move_a_quiet_watch_on(bench: Bench) -> None:
    """Without them a watch of a quiet namespace falls behind the history and lists everything anew."""
    _, version = await bench.client.list_with_version(known.CONFIG_MAP, bench.space)
    await bench.client.create({**bench.config_map("other"), "metadata": {"name": f"other-{bench.space}", "namespace": "default"}})
    heard = await _events(
        bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short, allowWatchBookmarks="true"
    )
    await bench.client.delete(known.CONFIG_MAP, f"other-{bench.space}", "default")
    assert [event["type"] for event in heard] == ["BOOKMARK"]
    assert int(heard[0]["object"]["metadata"]["resourceVersion"]) >= int(version)


async def test_a_forgotten_version_is_told_and_our_watch_lists_anew(bench: Bench) -> None:
    """After an API server's restart a watch would hang or repeat 410 for ever."""
    if isinstance(bench.server, LentCluster):
        pytest.skip("the cluster is lent: it is not ours to compact")
    _, version = await bench.client.list_with_version(known.CONFIG_MAP, bench.space)
    async with aclosing(bench.client.watch(known.CONFIG_MAP, bench.space)) as changes:
        assert (await anext(changes)).seen is Seen.LISTED
        for number in range(3):
            await bench.client.create(bench.config_map(f"c{number}"))
        await asyncio.to_thread(bench.server.compact)
        (event,) = await _events(bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short)
        assert event["type"] == "ERROR"
        assert (event["object"]["code"], event["object"]["reason"]) in ((410, "Expired"), (410, "Gone"))
        names: set[str] = set()
        async with asyncio.timeout(_PATIENCE):
            async for change in changes:
                if change.seen is Seen.LISTED:
                    names |= {one["metadata"]["name"] for one in change.items}
                elif change.seen is Seen.ADDED:
                    names.add(change.object["metadata"]["name"])
                if {"c0", "c1", "c2"} <= names:
                    break


async def test_lists_come_in_pages(bench: Bench) -> None:
    """Beyond 500 pods we would see only the first ones."""
    for number in range(5):
        await bench.client.create(bench.config_map(f"c{number}", page="yes"))
    path, params = known.CONFIG_MAP.path(bench.space), {"limit": "2", "labelSelector": "page=yes"}
    names, pages = [], 0
    while True:
        answer = await bench.client.call("GET", path, params=params)
        names += [one["metadata"]["name"] for one in answer["items"]]
        pages += 1
        if not answer["metadata"].get("continue"):
            break
        params["continue"] = answer["metadata"]["continue"]
    assert (names, pages) == ([f"c{number}" for number in range(5)], 3)


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("app=a", {"one"}), ("app!=a", {"two", "three"}), ("app in (a,b)", {"one", "two"}), ("app notin (a)", {"two", "three"}),
        ("app", {"one", "two"}), ("!app", {"three"}), ("app=b,team==blue", {"two"}),
    ],
)  # fmt: skip
async def test_label_selectors(bench: Bench, selector: str, found: set[str]) -> None:
    """We would take other people's pods for ours, or miss our own."""
    await bench.client.create(bench.config_map("one", app="a", mine="yes"))
    await bench.client.create(bench.config_map("two", app="b", team="blue", mine="yes"))
    await bench.client.create(bench.config_map("three", mine="yes"))
    answer = await bench.client.call("GET", known.CONFIG_MAP.path(bench.space), params={"labelSelector": f"mine=yes,{selector}"})
    assert {one["metadata"]["name"] for one in answer["items"]} == found


async def test_field_selectors(bench: Bench) -> None:
    """Events of one pod are asked for by its name; a field that cannot be asked for must be refused, not ignored."""
    await bench.client.create(bench.config_map("one"))
    await bench.client.create(bench.config_map("two"))
    found = await bench.client.list(known.CONFIG_MAP, bench.space, fields={"metadata.name": "two"})
    assert [one["metadata"]["name"] for one in found] == ["two"]
    error = await bench.refused(bench.client.list(known.CONFIG_MAP, bench.space, fields={"data.a": "1"}))
    assert error.status == 400
    assert "field label not supported: data.a" in error.said


async def _events(bench: Bench, kind: Kind, **params: str) -> list[Manifest]:
    """All events of one watch, until the server ends it."""
    import json

    heard = []
    http = bench.client._http
    async with http.stream("GET", kind.path(bench.space), params={"watch": "true", **params}, timeout=_PATIENCE) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            heard.append(json.loads(line))  # noqa: PERF401 - an await in a comprehension reads worse
    return heard


# ---- permissions


async def test_a_refusal_names_who_what_and_where(bench: Bench) -> None:
    """A person must learn which rule is missing from the role."""
    client = await bench.as_account("poor")
    user = f"system:serviceaccount:{bench.space}:poor"
    error = await bench.refused(client.get(known.DEPLOYMENT, "engine"))
    assert (error.status, error.word) == (403, "Forbidden")
    assert error.said == (
        f'deployments.apps "engine" is forbidden: User "{user}" cannot get resource "deployments" in API group "apps" '
        f'in the namespace "{bench.space}"'
    )
    error = await bench.refused(client.list(known.POD))
    assert (
        error.said
        == f'pods is forbidden: User "{user}" cannot list resource "pods" in API group "" in the namespace "{bench.space}"'
    )
    error = await bench.refused(client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1))
    assert f'User "{user}" cannot patch resource "deployments/scale" in API group "apps"' in error.said
    error = await bench.refused(client.list(known.NODE))
    assert error.said.endswith('cannot list resource "nodes" in API group "" at the cluster scope')
    await client.close()


async def test_a_role_grants_exactly_what_it_says(bench: Bench) -> None:
    """The chart's least privilege would be more, or too little."""
    await bench.client.create(bench.deployment(replicas=0))
    await bench.client.create(_role(bench.space, "scaler", [
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]},
        {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
    ]))  # fmt: skip
    client = await bench.as_account("scaler")
    await bench.client.create(_binding(bench.space, "scaler"))

    async def may() -> bool:
        return await _allowed(client, bench.space, "apps", "deployments", "patch", "scale")

    await bench.until(may, "the role counts")
    await client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1)
    await client.get(known.DEPLOYMENT, "engine")
    assert (await bench.refused(client.delete(known.DEPLOYMENT, "engine"))).status == 403
    assert (await bench.refused(client.get(known.SECRET, "one"))).status == 404
    assert (await bench.refused(client.get(known.SECRET, "two"))).status == 403
    assert (await bench.refused(client.list(known.SECRET))).status == 403
    assert (await bench.refused(client.get(known.DEPLOYMENT, "engine", "default"))).status == 403
    assert not await _allowed(client, bench.space, "apps", "deployments", "delete")
    await client.close()


async def test_an_unknown_token_is_refused(bench: Bench) -> None:
    """An expired kubeconfig must be named, not taken for an outage."""
    client = Cluster.connect(bench.server.access("nobody-knows-this-token"))
    assert (await bench.refused(client.list(known.POD, "default"))).status == 401
    await client.close()


async def _allowed(client: Cluster, space: str, group: str, resource: str, verb: str, subresource: str = "") -> bool:
    asked = {"namespace": space, "group": group, "resource": resource, "verb": verb, "subresource": subresource}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": asked}}
    answer = await client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    return bool(answer["status"]["allowed"])


def _role(space: str, name: str, rules: list[Manifest]) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "namespace": space},
        "rules": rules,
    }


def _binding(space: str, name: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name, "namespace": space},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
    }  # fmt: skip


# ---- the end of objects


async def test_what_an_object_owns_goes_with_it(bench: Bench) -> None:
    """Secrets and Services of a model that is no more would stay for ever."""
    owner = await bench.client.create(bench.config_map("owner"))
    owned = bench.config_map("owned")
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    ]
    await bench.client.create(owned)
    await bench.client.create(bench.config_map("other"))
    assert await bench.client.delete(known.CONFIG_MAP, "owner", bench.space)

    async def gone() -> bool:
        return await bench.client.get_or_none(known.CONFIG_MAP, "owned", bench.space) is None

    await bench.until(gone, "the owned object is gone")
    assert await bench.client.get_or_none(known.CONFIG_MAP, "other", bench.space) is not None


async def test_a_finalizer_holds_what_is_deleted(bench: Bench) -> None:
    """Liqo tears peerings down behind finalizers: `deleted` must not be taken for `gone`."""
    held = bench.config_map("held")
    held["metadata"]["finalizers"] = ["lamplighter.dev/test"]
    await bench.client.create(held)
    await bench.client.delete(known.CONFIG_MAP, "held", bench.space)
    found = await bench.get(known.CONFIG_MAP, "held")
    assert found["metadata"]["deletionTimestamp"]
    await bench.client.delete(known.CONFIG_MAP, "held", bench.space)
    await bench.client.patch(known.CONFIG_MAP, "held", {"metadata": {"finalizers": None}}, bench.space)
    assert await bench.client.get_or_none(known.CONFIG_MAP, "held", bench.space) is None


async def test_deletion_of_this_very_object(bench: Bench) -> None:
    """A name that was taken anew meanwhile is another object: deleting it would end a model that was just woken."""
    made = await bench.client.create(bench.config_map("c"))
    error = await bench.refused(bench.client.delete(known.CONFIG_MAP, "c", bench.space, uid=str(uuid.uuid4())))
    assert (error.status, error.word) == (409, "Conflict")
    assert "UID in precondition" in error.said
    assert await bench.client.delete(known.CONFIG_MAP, "c", bench.space, uid=made["metadata"]["uid"])
    assert not await bench.client.delete(known.CONFIG_MAP, "c", bench.space)


async def test_a_namespace_takes_its_content_along(bench: Bench) -> None:
    """And refuses new content meanwhile."""
    space = f"{bench.space}-2"
    await bench.client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    held = {**bench.config_map("held"), "metadata": {"name": "held", "namespace": space, "finalizers": ["lamplighter.dev/test"]}}
    await bench.client.create(held)
    await bench.client.delete(known.NAMESPACE, space)
    error = await bench.refused(bench.client.create({**bench.config_map("new"), "metadata": {"name": "new", "namespace": space}}))
    assert error.status == 403
    assert "because it is being terminated" in error.said
    await bench.client.patch(known.CONFIG_MAP, "held", {"metadata": {"finalizers": None}}, space)

    async def gone() -> bool:
        return await bench.client.get_or_none(known.NAMESPACE, space) is None

    await bench.until(gone, "the namespace is gone")


# ---- objects


async def test_status_and_spec_are_written_apart(bench: Bench) -> None:
    """A status that we patch for Liqo's objects would be dropped, or a spec be changed by it."""
    await bench.client.create(bench.deployment(replicas=0))
    patch = {"status": {"observedGeneration": 1, "replicas": 7}, "spec": {"paused": True}}
    await bench.client.patch(known.DEPLOYMENT, "engine", patch, bench.space, subresource="status")
    found = await bench.get(known.DEPLOYMENT, "engine")
    assert found["spec"].get("paused") is None
    await bench.client.patch(known.DEPLOYMENT, "engine", {"status": {"replicas": 9}, "spec": {"paused": True}}, bench.space)
    found = await bench.get(known.DEPLOYMENT, "engine")
    assert found["spec"]["paused"] is True
    assert found["status"].get("replicas") != 9


async def test_secrets_in_plain_become_encoded(bench: Bench) -> None:
    """The engine's key would be read wrong."""
    made = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "key", "namespace": bench.space},
        "stringData": {"key": "s3cret"},
    }
    await bench.client.create(made)
    found = await bench.get(known.SECRET, "key")
    assert base64.b64decode(found["data"]["key"]) == b"s3cret"
    assert "stringData" not in found
    assert found["type"] == "Opaque"


async def test_merges_by_the_key_of_a_list(bench: Bench) -> None:
    """A strategic merge patch of one container would drop the others."""
    made = bench.deployment(replicas=0)
    made["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "example.org/side:1"})
    await bench.client.create(made)
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "engine", "image": "example.org/engine:9"}]}}}}
    found = await bench.client.patch(known.DEPLOYMENT, "engine", patch, bench.space, type="strategic-merge")
    images = {one["name"]: one["image"] for one in found["spec"]["template"]["spec"]["containers"]}
    assert images == {"engine": "example.org/engine:9", "side": "example.org/side:1"}
    found = await bench.client.patch(known.DEPLOYMENT, "engine", patch, bench.space)
    assert [one["name"] for one in found["spec"]["template"]["spec"]["containers"]] == ["engine"]
    operations = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "example.org/engine:10"}]
    found = await bench.client.patch(known.DEPLOYMENT, "engine", operations, bench.space, type="json")
    assert found["spec"]["template"]["spec"]["containers"][0]["image"] == "example.org/engine:10"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda one: one["spec"]["selector"].update(matchLabels={"app": "other"}), "`selector` does not match template `labels`"),
        (lambda one: one["spec"]["template"]["spec"].update(containers=[]), "spec.template.spec.containers: Required value"),
        (lambda one: one["metadata"].update(name="Bad_Name"), "metadata.name: Invalid value"),
        (lambda one: one["spec"].update(replicas=-1), "must be greater than or equal to 0"),
        (lambda one: one["metadata"].update(labels={"a": "x" * 64}), "metadata.labels: Invalid value"),
        (
            lambda one: one["spec"]["template"]["spec"]["containers"][0].update(volumeMounts=[{"name": "no", "mountPath": "/x"}]),
            'volumeMounts[0].name: Not found: "no"',
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be(bench: Bench, change: Callable[[Manifest], None], told: str) -> None:
    """A manifest that a real cluster refuses would pass our tests."""
    wrong = bench.deployment(replicas=0)
    change(wrong)
    error = await bench.refused(bench.client.create(wrong))
    assert (error.status, error.word) == (422, "Invalid")
    assert told in error.said


async def test_what_may_not_change(bench: Bench) -> None:
    """A keeper of a new version would try in vain for ever instead of making the workload anew."""
    await bench.client.create(bench.deployment(replicas=0))
    patch = {"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}}
    error = await bench.refused(bench.client.patch(known.DEPLOYMENT, "engine", patch, bench.space))
    assert error.status == 422
    assert "field is immutable" in error.said
    stateful = bench.deployment("set", replicas=0)
    stateful["kind"] = "StatefulSet"
    stateful["spec"]["serviceName"] = "set"
    await bench.client.create(stateful)
    error = await bench.refused(
        bench.client.patch(known.STATEFUL_SET, "set", {"spec": {"podManagementPolicy": "Parallel"}}, bench.space)
    )
    assert error.status == 422
    assert "updates to statefulset spec for fields other than" in error.said


async def test_custom_kinds(bench: Bench) -> None:
    """Liqo and LeaderWorkerSets are custom kinds: schema, status, scale and discovery must be as with the real server."""
    group = f"{bench.space}.example.org"
    schema = {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer"}, "mode": {"type": "string", "enum": ["a", "b"]}, "replicas": {"type": "integer"}}},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }}  # fmt: skip
    crd = definition(group, "v1", "Thing", "things", scale=True, schema=schema)
    await bench.client.create(crd)

    async def established() -> bool:
        found = await bench.client.get(_DEFINITION, f"things.{group}")
        return any(
            one["type"] == "Established" and one["status"] == "True"
            for one in (found.get("status") or {}).get("conditions") or []
        )

    await bench.until(established, "the kind is established")

    async def discovered() -> Kind | None:
        try:
            return await bench.client.custom(f"{group}/v1", "Thing")
        except KubernetesError:
            return None

    kind = await bench.until(discovered, "the kind is discovered")
    assert (kind.plural, kind.namespaced) == ("things", True)
    thing = {
        "apiVersion": f"{group}/v1",
        "kind": "Thing",
        "metadata": {"name": "t", "namespace": bench.space},
        "spec": {"size": 1, "unknown": 1},
    }
    made = await bench.client.create(copy.deepcopy(thing))
    assert made["spec"] == {"size": 1}
    assert made["metadata"]["generation"] == 1
    found = await bench.client.patch(kind, "t", {"status": {"phase": "Ready"}}, bench.space, subresource="status")
    assert (found["status"], found["metadata"]["generation"]) == ({"phase": "Ready"}, 1)
    found = await bench.client.patch(kind, "t", {"spec": {"size": 2}, "status": {"phase": "No"}}, bench.space)
    assert (found["spec"]["size"], found["status"]["phase"], found["metadata"]["generation"]) == (2, "Ready", 2)
    for wrong, told in (({"size": "x"}, "spec.size"), ({"size": 1, "mode": "c"}, "spec.mode"), ({}, "spec.size: Required value")):
        bad = {**thing, "metadata": {"name": "bad", "namespace": bench.space}, "spec": wrong}
        error = await bench.refused(bench.client.create(bad))
        assert error.status == 422
        assert told in error.said
    await bench.client.patch(kind, "t", {"spec": {"replicas": 1}}, bench.space)
    assert (await bench.client.patch_scale(kind, "t", bench.space, 3))["spec"]["replicas"] == 3
    applied = await bench.client.apply({**thing, "spec": {"size": 5}}, force=True)
    assert applied["spec"] == {"size": 5, "replicas": 3}
    error = await bench.refused(bench.client.patch(kind, "t", {"spec": {}}, bench.space, type="strategic-merge"))
    assert error.status == 415
    await bench.client.delete(_DEFINITION, f"things.{group}")


# ---- pods, with the pretended kubelet as their node


@pytest.fixture
def node(server: FakeCluster | ControlPlane | LentCluster) -> Iterator[Kubelet]:
    """A pretended node with one GPU; on the pretended server controllers and scheduler are pretended too."""
    if isinstance(server, LentCluster):
        pytest.skip("a lent cluster has nodes of its own: no pretended one joins it")
    name = f"node-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        if isinstance(server, FakeCluster):
            stack.enter_context(Controllers(server.access()))
        yield stack.enter_context(Kubelet(server.access(), name, gpus=1, labels={"test": name}))
        if isinstance(server, ControlPlane):
            server.http.delete(f"/api/v1/nodes/{name}")


def _on(node: Kubelet, made: Manifest, **resources: str) -> Manifest:
    """The Deployment with pods that go to the test's own node."""
    spec = made["spec"]["template"]["spec"]
    spec["nodeSelector"] = {"test": node.node}
    spec["terminationGracePeriodSeconds"] = 1
    spec["containers"][0]["resources"] = {"limits": resources}
    return made


async def _pods(bench: Bench, name: str = "engine") -> list[Manifest]:
    return list(await bench.client.list(known.POD, bench.space, labels={"app": name}))


async def test_replicas_become_ready_pods_and_vanish(bench: Bench, node: Kubelet) -> None:
    """The whole way of a wake and of a sleep, by the controllers' own status."""
    await bench.client.create(_on(node, bench.deployment(replicas=0)))
    await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 1)

    async def ready() -> bool:
        found = await bench.get(known.DEPLOYMENT, "engine")
        return bool(
            found["status"].get("readyReplicas") == 1 and found["status"]["observedGeneration"] == found["metadata"]["generation"]
        )

    await bench.until(ready, "one replica is ready")
    (pod,) = await _pods(bench)
    assert pod["spec"]["nodeName"] == node.node
    assert pod["status"]["podIP"].startswith("127.88.")
    assert {one["type"]: one["status"] for one in pod["status"]["conditions"]} | {"Ready": "True", "PodScheduled": "True"} == {
        one["type"]: one["status"] for one in pod["status"]["conditions"]
    }
    reasons = {
        one["reason"]
        for one in await bench.client.list(known.EVENT, bench.space, fields={"involvedObject.name": pod["metadata"]["name"]})
    }
    assert {"Pulling", "Pulled", "Created", "Started"} <= reasons
    await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 0)

    async def gone() -> bool:
        return not await _pods(bench)

    await bench.until(gone, "the pod is gone")


async def test_why_no_node_takes_a_pod(bench: Bench, node: Kubelet) -> None:
    """`no GPU is free` is what the person who waits must read."""
    await bench.client.create(_on(node, bench.deployment(replicas=1), **{"nvidia.com/gpu": "2"}))

    async def told() -> str | None:
        for pod in await _pods(bench):
            for one in pod["status"].get("conditions") or []:
                if one["type"] == "PodScheduled" and one["status"] == "False":
                    assert one["reason"] == "Unschedulable"
                    return str(one["message"])
        return None

    assert "Insufficient nvidia.com/gpu" in await bench.until(told, "the pod is unschedulable")


async def test_why_an_image_is_not_pulled(bench: Bench, node: Kubelet) -> None:
    """The registry's words, not just ImagePullBackOff."""
    node.outcomes["gated"] = Outcome(Fault.IMAGE_PULL, message="unexpected status from HEAD request: 403 Forbidden")
    await bench.client.create(_on(node, bench.deployment(image="example.org/gated:1", replicas=1)))

    async def told() -> str | None:
        for pod in await _pods(bench):
            for one in pod["status"].get("containerStatuses") or []:
                waiting = one["state"].get("waiting") or {}
                if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff"):
                    return str(waiting["message"])
        return None

    assert "403 Forbidden" in await bench.until(told, "the image is not pulled")


async def test_the_last_words_of_a_container(bench: Bench, node: Kubelet) -> None:
    """A crash is explained by the lines before it; the API server fetches them from the node."""
    lines = [f"line {number}" for number in range(30)]
    node.outcomes["crashing"] = Outcome(Fault.CRASH, logs=lines, exit=3)
    await bench.client.create(_on(node, bench.deployment(image="example.org/crashing:1", replicas=1)))

    async def crashed() -> Manifest | None:
        for pod in await _pods(bench):
            for one in pod["status"].get("containerStatuses") or []:
                if (one.get("lastState") or {}).get("terminated"):
                    return pod
        return None

    pod = await bench.until(crashed, "the container crashed")
    status = pod["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert status["restartCount"] >= 1
    name = pod["metadata"]["name"]
    assert (await bench.client.logs(name, bench.space, container="engine", tail=2, previous=True)).split("\n")[:2] == lines[-2:]
    error = await bench.refused(bench.client.logs(name, bench.space, container="nobody"))
    assert error.status == 400
    assert "container nobody is not valid for pod" in error.said


async def test_a_pod_that_cannot_be_made(bench: Bench, node: Kubelet) -> None:
    """A missing account is told by the Deployment alone: there is no pod that could."""
    made = _on(node, bench.deployment(replicas=1))
    made["spec"]["template"]["spec"]["serviceAccountName"] = "nobody"
    await bench.client.create(made)

    async def told() -> str | None:
        found = await bench.get(known.DEPLOYMENT, "engine")
        failures = [one for one in found["status"].get("conditions") or [] if one["type"] == "ReplicaFailure"]
        return str(failures[0]["message"]) if failures else None

    assert 'serviceaccount "nobody" not found' in await bench.until(told, "the deployment tells why")
