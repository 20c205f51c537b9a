"""What our code relies on of Kubernetes' API, asked of the pretended API server and, where there is one, of a real one (`long`).

When the two differ, tests on the pretended one prove nothing: a failure here is a bug of `lamplighter.testing.kubernetes` or a wrong belief of ours.
"""

import base64
import copy
from collections.abc import Callable

import pytest

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import Kind, Manifest
from lamplighter.testing.kubernetes.crds import definition
from tests.contract.kubernetes_bench import DEFINITION, Bench

# ---- versions and conflicts


async def test_scale_with_an_old_version_is_refused(bench: Bench) -> None:
    """Two keepers, or a keeper and a person, would overwrite each other's replicas."""
    await bench.client.create(bench.deployment(replicas=0))

    async def scaled() -> tuple[Manifest, Manifest] | None:
        before = await bench.client.scale(known.DEPLOYMENT, "engine", bench.space)
        version = before["metadata"]["resourceVersion"]
        try:
            return before, await bench.client.patch_scale(known.DEPLOYMENT, "engine", bench.space, 2, version=version)
        except KubernetesError as error:
            if error.status != 409:
                raise
            return None  # its controller wrote a status in between: any write of the object is a new version

    before, after = await bench.until(scaled, "the replicas are written")
    assert before["spec"].get("replicas", 0) == 0
    version = before["metadata"]["resourceVersion"]
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


async def test_generation_counts_the_spec(bench: Bench) -> None:
    """`observedGeneration` is how we see that the controllers know the newest spec."""
    await bench.client.create(bench.deployment(replicas=0))
    stateful = {**bench.deployment("set", replicas=0), "kind": "StatefulSet"}
    stateful["spec"]["serviceName"] = "set"
    await bench.client.create(stateful)
    before = 0
    for kind, name in ((known.DEPLOYMENT, "engine"), (known.STATEFUL_SET, "set")):
        await bench.client.patch(kind, name, {"metadata": {"labels": {"a": "b"}}}, bench.space)
        before = (await bench.get(kind, name))["metadata"]["generation"]
        await bench.client.patch_scale(kind, name, bench.space, 1)
        assert (await bench.get(kind, name))["metadata"]["generation"] == before + 1
    assert before == 1  # of a StatefulSet; a Deployment's counts its annotations too, which its controller writes


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
        found = await bench.client.get(DEFINITION, f"things.{group}")
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
    await bench.client.delete(DEFINITION, f"things.{group}")
