"""Lists and watches of Kubernetes' API as our code relies on them, on the pretended API server and on a real one (`long`)."""

import asyncio
from contextlib import aclosing

import pytest

from lamplighter.providers.kubernetes import kinds as known
from lamplighter.providers.kubernetes.client import Seen
from tests.cluster_lab.lent import LentCluster
from tests.contract.kubernetes_bench import PATIENCE, Bench, events


async def test_a_watch_goes_on_where_the_list_ended(bench: Bench) -> None:
    """A pod that turned ready between list and watch would never be seen."""
    await bench.client.create(bench.config_map("before", mine="yes"))
    _, version = await bench.client.list_with_version(known.CONFIG_MAP, bench.space)
    await bench.client.create(bench.config_map("after", mine="yes"))
    await bench.client.patch(known.CONFIG_MAP, "before", {"data": {"a": "2"}}, bench.space)
    await bench.client.delete(known.CONFIG_MAP, "after", bench.space)
    heard = await events(bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short, labelSelector="mine=yes")
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
    heard = await events(bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short, labelSelector="pool=b")
    assert [event["type"] for event in heard] == ["ADDED", "DELETED"]


async def test_bookmarks_move_a_quiet_watch_on(bench: Bench) -> None:
    """Without them a watch of a quiet namespace falls behind the history and lists everything anew."""
    _, version = await bench.client.list_with_version(known.CONFIG_MAP, bench.space)
    await bench.client.create({**bench.config_map("other"), "metadata": {"name": f"other-{bench.space}", "namespace": "default"}})
    limit = "1" if bench.fake else "6"  # a real one sends one two seconds before the end
    asked = {"timeoutSeconds": limit, "allowWatchBookmarks": "true", "labelSelector": "mine=yes"}
    heard = await events(bench, known.CONFIG_MAP, resourceVersion=version, **asked)
    await bench.client.delete(known.CONFIG_MAP, f"other-{bench.space}", "default")
    assert {event["type"] for event in heard} == {"BOOKMARK"}
    assert int(heard[-1]["object"]["metadata"]["resourceVersion"]) > int(version)


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
        (event,) = await events(bench, known.CONFIG_MAP, resourceVersion=version, timeoutSeconds=bench.short)
        assert event["type"] == "ERROR"
        assert (event["object"]["code"], event["object"]["reason"]) in ((410, "Expired"), (410, "Gone"))
        names: set[str] = set()
        async with asyncio.timeout(PATIENCE):
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
    assert '"data.a" is not a known field selector' in error.said
    error = await bench.refused(bench.client.list(known.POD, bench.space, fields={"spec.image": "1"}))
    assert "field label not supported: spec.image" in error.said
