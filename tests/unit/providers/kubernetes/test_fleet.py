"""What workloads say beside their pods: pods that only pass, and pods that cannot be made."""

from typing import Any

from lamplighter.core.reasons import WakeFailure
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.fleet import Fleet, belongs
from lamplighter.providers.kubernetes.observing import handle
from lamplighter.providers.kubernetes.scaling import Written

LABELS = {names.MODEL: "one-abc", names.ROLE: "engine"}


def workload(replicas: int, **status: Any) -> dict[str, Any]:
    """A Deployment."""
    return {"metadata": {"name": "w", "uid": "wwwwwwww-1", "labels": LABELS}, "spec": {"replicas": replicas}, "status": status}


def pod(name: str, at: int = 0, **meta: Any) -> dict[str, Any]:
    """One of its pods."""
    return {
        "metadata": {"name": name, "uid": f"{name}-uid", "labels": LABELS, "creationTimestamp": f"2026-11-29T00:00:{at:02}Z", **meta},
        "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
    }  # fmt: skip


def fleet(replicas: int, *pods: dict[str, Any], events: tuple[dict[str, Any], ...] = (), **status: Any) -> Fleet:
    """A pool with one workload."""
    return Fleet([workload(replicas, **status)], pods, events, {"w": Written(replicas, 1000.0)})


def test_a_pod_that_only_passes_is_not_told() -> None:
    """The keeper would adopt what a ReplicaSet ends in the next moment, and call that a loss."""
    old, new = pod("old", 1), pod("new", 2)
    shown = {handle(old)}
    assert fleet(1, old, new).passing(shown, lambda _: False) == {handle(new)}
    assert fleet(2, old, new).passing(shown, lambda _: False) == set()
    assert fleet(1, old, new).passing(shown | {handle(new)}, lambda _: False) == set(), "what was told stays told"
    assert fleet(1, old, new).passing(shown, lambda one: one is old) == set(), "it takes the place of the doomed one"
    ending = pod("ending", deletionTimestamp="2026-11-29T00:01:00Z")
    assert fleet(1, old, ending).passing(shown, lambda _: False) == {handle(ending)}, "it came and goes between two looks"
    assert fleet(1, ending, new).passing({handle(ending)}, lambda _: False) == set()
    assert fleet(0, ending).passing(set(), lambda _: True) == set(), "what we end ourselves is told until it is gone"


def test_pods_that_cannot_be_made_are_told_each() -> None:
    """Two replicas that wait for ever in one row would look like one."""
    refused = [{"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: q'}]
    some = fleet(3, pod("a"), conditions=refused)
    assert not some.unmade(lambda _: "one", lambda _: 1.0, 2000.0), "it may pass"
    found = some.unmade(lambda _: "one", lambda _: 60.0, 2000.0)
    assert [one.failure for one in found] == [WakeFailure.QUOTA] * 2
    assert len({one.handle for one in found}) == 2
    ending = fleet(2, pod("a", deletionTimestamp="2026-11-29T00:01:00Z"), conditions=refused)
    assert not ending.unmade(lambda _: "one", lambda _: 60.0, 2000.0), "what is ending still holds the quota"
    assert not fleet(1, pod("a"), conditions=refused).unmade(lambda _: "one", lambda _: 60.0, 2000.0)


def event(at: str, about: str = "w-5f7d", kind: str = "ReplicaSet") -> dict[str, Any]:
    """A refusal that only an event tells, as of a StatefulSet."""
    return {
        "reason": "FailedCreate", "message": 'error looking up service account n/s: serviceaccount "s" not found', "lastTimestamp": at,
        "involvedObject": {"kind": kind, "name": about, "uid": "x"},
    }  # fmt: skip


def test_an_old_refusal_is_not_todays() -> None:
    """Events stay for an hour: last night's quota must not fail this morning's wake."""

    def unmade(*events: dict[str, Any]) -> int:
        return len(fleet(1, events=events).unmade(lambda _: "one", lambda _: 60.0, 2000.0))

    assert unmade(event("1970-01-01T00:20:00Z")) == 1
    assert unmade(event("1970-01-01T00:10:00Z")) == 0
    assert unmade(event("1970-01-01T00:20:00Z", "other-5f7d")) == 0
    assert unmade(event("1970-01-01T00:20:00Z", "w", "StatefulSet")) == 1


def test_names_that_only_begin_alike() -> None:
    """A model `a` would answer for the pods of `a-b`, were names not made with a hash at their end."""
    assert belongs("w-1-x", "w-1")
    assert not belongs("w-11", "w-1")
