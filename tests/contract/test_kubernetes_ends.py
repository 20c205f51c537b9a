"""How Kubernetes ends objects, as our code relies on it, on the pretended API server and on a real one (`long`)."""

import uuid

from lamplighter.providers.kubernetes import kinds as known
from tests.contract.kubernetes_bench import Bench


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
    assert "does not match the UID in record" in error.said
    assert await bench.client.delete(known.CONFIG_MAP, "c", bench.space, uid=made["metadata"]["uid"])
    assert not await bench.client.delete(known.CONFIG_MAP, "c", bench.space)


async def test_foreground_deletion_waits_for_what_is_owned(bench: Bench) -> None:
    """Who deletes so, waits for the pods: the owner must not be gone before them."""
    owner = await bench.client.create(bench.config_map("owner"))
    owned = bench.config_map("owned")
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    owned["metadata"] |= {"ownerReferences": [reference], "finalizers": ["lamplighter.dev/test"]}
    await bench.client.create(owned)
    await bench.client.delete(known.CONFIG_MAP, "owner", bench.space, propagation="Foreground")

    async def ends() -> bool:
        return bool((await bench.get(known.CONFIG_MAP, "owned"))["metadata"].get("deletionTimestamp"))

    await bench.until(ends, "the owned object ends")
    assert "foregroundDeletion" in (await bench.get(known.CONFIG_MAP, "owner"))["metadata"]["finalizers"]
    await bench.client.patch(known.CONFIG_MAP, "owned", {"metadata": {"finalizers": None}}, bench.space)

    async def gone() -> bool:
        return await bench.client.get_or_none(known.CONFIG_MAP, "owner", bench.space) is None

    await bench.until(gone, "the owner is gone")


async def test_deleting_by_label(bench: Bench) -> None:
    """One call ends what has a label, and nothing else."""
    for name, mine in (("a", "yes"), ("b", "yes"), ("c", "no")):
        await bench.client.create(bench.config_map(name, mine=mine, here="yes"))
    await bench.client.call("DELETE", known.CONFIG_MAP.path(bench.space), params={"labelSelector": "mine=yes"})
    left = await bench.client.list(known.CONFIG_MAP, bench.space, labels={"here": "yes"})
    assert [one["metadata"]["name"] for one in left] == ["c"]


async def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    """Checks of permissions and manifests would leave objects behind."""
    path = known.CONFIG_MAP.path(bench.space)
    made = await bench.client.call("POST", path, params={"dryRun": "All"}, body=bench.config_map("c"))
    assert made["metadata"]["name"] == "c"
    assert await bench.client.get_or_none(known.CONFIG_MAP, "c", bench.space) is None
    await bench.client.create(bench.config_map("c"))
    patch = {"params": {"dryRun": "All"}, "body": {"data": {"a": "2"}}, "content_type": "application/merge-patch+json"}
    changed = await bench.client.call("PATCH", f"{path}/c", **patch)  # type: ignore[arg-type]
    assert changed["data"] == {"a": "2"}
    assert (await bench.get(known.CONFIG_MAP, "c"))["data"] == {"a": "1"}
    await bench.client.call("DELETE", f"{path}/c", params={"dryRun": "All"})
    await bench.get(known.CONFIG_MAP, "c")


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
