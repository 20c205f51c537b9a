"""Carries a plan out, one part after the other, and stops at the first that fails: what is done stays, and the same command goes on from there.

Not responsible for deciding (`plan`) nor for asking a person.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lamplighter.core.clock import Clock, SystemClock
from lamplighter.operations.cluster import plan
from lamplighter.operations.cluster.errors import ClusterError, PartFailed
from lamplighter.operations.cluster.helm import PART, HelmFailed, Release, Releases
from lamplighter.operations.cluster.parts import PARTS, Part
from lamplighter.operations.cluster.plan import Action, Step
from lamplighter.operations.cluster.sight import Seen, look
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.kinds import CLAIM, DEPLOYMENT, NAMESPACE, SECRET, SERVICE, STATEFUL_SET

Tell = Callable[[Step, str], None]
"""Told of each step: `begins`, `done`."""
_MANAGER = "lamplighter-cluster"
_SECURITY = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}
_GOES = 120.0
"""Seconds that a namespace may take to go."""
_WORKLOADS = {"app.kubernetes.io/managed-by": "lamplighter", "app.kubernetes.io/name": "lamplighter-model"}


@dataclass(frozen=True, slots=True)
class Left:
    """What an uninstallation leaves on purpose. `claims`, `namespaces`: by name."""

    claims: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """One part as it is. `state`: `ready`, `starting`, `failed`, `own` or `absent`."""

    part: Part
    state: str
    text: str
    version: str | None = None


async def install(cluster: Cluster, releases: Releases, steps: Sequence[Step], tell: Tell, *, clock: Clock | None = None) -> None:
    """Every step that changes something, in order. Raises PartFailed, KubernetesError."""
    for step in steps:
        if not step.action.changes:
            continue
        tell(step, "begins")
        await _namespace(cluster, step.part, clock or SystemClock())
        try:
            await asyncio.to_thread(_bring, releases, step)
        except asyncio.CancelledError:
            releases.stop()  # else the program would wait for Helm, which waits for pods
            raise
        except HelmFailed as error:
            raise _failed(step, error) from error
        tell(step, "done")


async def uninstall(
    cluster: Cluster,
    releases: Releases,
    steps: Sequence[Step],
    tell: Tell,
    *,
    delete_data: bool = False,
    clock: Clock | None = None,
) -> Left:
    """Every step that removes something, in order. Raises PartFailed, KubernetesError, ClusterError."""
    removed = [step for step in steps if step.action is Action.REMOVE]
    for step in removed:
        tell(step, "begins")
        try:
            await asyncio.to_thread(releases.uninstall, step.part)
        except HelmFailed as error:
            raise _failed(step, error) from error
        if step.part.name == "lamplighter":
            await _models(cluster, step.part.namespace)
        tell(step, "done")
    kept, deleted = await _claims(cluster, [step.part for step in removed], delete_data)
    spaces = await _namespaces(cluster, releases, [step.part for step in removed], clock or SystemClock())
    return Left(tuple(kept), tuple(spaces), tuple(deleted))


def guard(steps: Sequence[Step], seen: Seen) -> None:
    """Refuse what would leave joined clusters hanging: Liqo without or with another Liqo at home. Raises ClusterError."""
    for step in steps:
        if step.part.name != "liqo" or not seen.virtual_nodes:
            continue
        changed = step.action in (Action.CHANGE, Action.MEND) and step.version != step.part.chart.version
        if step.action is Action.REMOVE or changed:
            raise ClusterError(
                f"other clusters are still joined: {', '.join(seen.virtual_nodes)}",
                next_step="Part them first: `lamplighter federation unpeer`; or leave Liqo as it is: --skip liqo.",
            )


async def status(cluster: Cluster, releases: Releases) -> tuple[Seen, Sequence[Standing]]:
    """How each part stands. Raises KubernetesError, HelmFailed."""
    seen, known = await asyncio.gather(look(cluster), asyncio.to_thread(releases.list))
    return seen, [_standing(part, seen, known) for part in PARTS]


def _bring(releases: Releases, step: Step) -> None:
    """One part to its state. What an earlier attempt left is put right first."""
    part, release = step.part, step.release
    match step.action:
        case Action.INSTALL:
            releases.install(part, step.values, step.digest)
        case Action.CHANGE:
            releases.upgrade(part, step.values, step.digest)
        case Action.MEND if release is not None and (release.revision <= 1 or release.status in ("uninstalling", "uninstalled")):
            releases.uninstall(part)  # it never worked: nothing of it is worth keeping, and Helm upgrades no such release
            releases.install(part, step.values, step.digest)
        case Action.MEND:
            if release is not None and release.status.startswith("pending"):
                releases.roll_back(part)  # Helm refuses to touch what is pending
            releases.upgrade(part, step.values, step.digest)


def _failed(step: Step, error: HelmFailed) -> PartFailed:
    if error.next_step:
        return PartFailed(step.part.name, f"{step.part.name}: {error.message}", next_step=error.next_step)
    place = f"kubectl --namespace {step.part.namespace} get pods,events"
    return PartFailed(
        step.part.name,
        f"{step.part.name}: Helm says: {error.message}",
        next_step=f"Look with `{place}`; then run the same command again: it goes on from here.",
    )


async def _namespace(cluster: Cluster, part: Part, clock: Clock) -> None:
    """The part's namespace, with what PodSecurity must allow there. One that was there before keeps its other labels, and stays the user's."""
    found = await cluster.get_or_none(NAMESPACE, part.namespace)
    if found is not None and found["metadata"].get("deletionTimestamp"):
        if not await _gone(cluster, part.namespace, clock):
            raise PartFailed(
                part.name,
                f"{part.name}: the namespace {part.namespace} is being deleted, and does not go",
                next_step=f"`kubectl get namespace {part.namespace} -o yaml` tells what holds it; then run the same command again.",
            )
        found = None
    labels = dict(_SECURITY) if part.privileged else {}
    if found is None:
        labels[PART] = part.name
    elif not labels:
        return
    elif PART in (mine := found["metadata"].get("labels") or {}):
        labels[PART] = mine[PART]
    await cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": part.namespace, "labels": labels}},
        force=True,
        manager=_MANAGER,
    )


async def _models(cluster: Cluster, namespace: str) -> None:
    """The models' workloads, which are the keeper's and not Helm's: without a keeper nobody would ever end them."""
    for kind in (DEPLOYMENT, STATEFUL_SET, SERVICE, SECRET):
        for found in await cluster.list(kind, namespace, labels=_WORKLOADS):
            await cluster.delete(kind, found["metadata"]["name"], namespace)


async def _claims(cluster: Cluster, parts: Sequence[Part], delete: bool) -> tuple[list[str], list[str]]:
    """The volume claims of parts that are gone: (kept, deleted)."""
    kept, deleted = list[str](), list[str]()
    for part in parts:
        if part.data is None:
            continue
        for claim in await cluster.list(CLAIM, part.namespace, labels={part.data[0]: part.data[1]}):
            name = f"{part.namespace}/{claim['metadata']['name']}"
            if delete:
                await cluster.delete(CLAIM, claim["metadata"]["name"], part.namespace)
            (deleted if delete else kept).append(name)
    return kept, deleted


async def _namespaces(cluster: Cluster, releases: Releases, parts: Sequence[Part], clock: Clock) -> list[str]:
    """Delete the namespaces that we made and that hold nothing any more; return those that stay."""
    used = {release.namespace for release in await asyncio.to_thread(releases.list)}
    stays, going = list[str](), list[str]()
    for name in dict.fromkeys(part.namespace for part in parts):
        space = await cluster.get_or_none(NAMESPACE, name)
        if space is None:
            continue
        mine = PART in (space["metadata"].get("labels") or {})
        if mine and name not in used and not await _holds(cluster, name):
            await cluster.delete(NAMESPACE, name)
            going.append(name)
        else:
            stays.append(name)
    return stays + [name for name in going if not await _gone(cluster, name, clock)]


async def _gone(cluster: Cluster, namespace: str, clock: Clock) -> bool:
    """Whether a namespace that is being deleted has gone within the time that this takes usually."""
    end = clock.monotonic() + _GOES
    while await cluster.get_or_none(NAMESPACE, namespace) is not None:
        if clock.monotonic() > end:
            return False
        await clock.sleep(0.5)
    return True


async def _holds(cluster: Cluster, namespace: str) -> bool:
    """Whether something is there that a person would miss."""
    for kind in (CLAIM, DEPLOYMENT, STATEFUL_SET):
        found = await cluster.list(kind, namespace)
        if any(not one["metadata"].get("deletionTimestamp") for one in found):
            return True
    return False


def _standing(part: Part, seen: Seen, releases: Sequence[Release]) -> Standing:
    ours = next((release for release in releases if release.part == part.name), None)
    if ours is None:
        found = plan.foreign(part, seen, releases)
        return Standing(part, "own", found) if found else Standing(part, "absent", "not there")
    if ours.status != "deployed":
        return Standing(part, "failed", f"Helm says {ours.status}; `lamplighter cluster install` mends it", ours.version)
    late = [one.title for one in seen.workloads if one.release == (ours.namespace, ours.name) and not one.ready]
    if late:
        return Standing(part, "starting", f"not ready: {', '.join(late)}", ours.version)
    old = plan.newer(part.chart.version, ours.version)
    return Standing(part, "ready", f"{part.chart.version} is there; `lamplighter cluster upgrade`" if old else "", ours.version)


def as_json(steps: Sequence[Step]) -> Sequence[Mapping[str, object]]:
    """A plan for programs."""
    return [
        {
            "part": step.part.name,
            "action": step.action.value,
            "why": step.why,
            "version": step.version,
            "namespace": step.part.namespace,
        }
        for step in steps
    ]
