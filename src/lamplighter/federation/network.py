"""The tunnel between two clusters: networks exchanged, a gateway on each side, each other's keys, a connection.

The GPU cluster serves and home dials, over the mesh. One tunnel carries both directions. Each call does what can be done; Halt says the rest.
Not responsible for the mesh underneath.
"""

import asyncio
from ipaddress import ip_address, ip_network

from lamplighter.federation import names, objects
from lamplighter.federation.side import Facts, Side
from lamplighter.federation.standing import PATIENCE, Halt, PeerSpec, State, Why, age
from lamplighter.providers.kubernetes.kinds import SECRET, Manifest
from lamplighter.providers.kubernetes.reading import condition, deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of

_STATE: State = "network"


async def examine(home: Side, remote: Side, spec: PeerSpec) -> tuple[Facts, Facts]:
    """What both say of themselves, if they can be joined at all. Raises Halt."""
    both = await asyncio.gather(home.facts(), remote.facts())
    for side, facts in zip((home, remote), both, strict=True):
        if facts is None:
            raise Halt(
                _STATE,
                Why.LIQO_MISSING,
                f"Liqo is not installed in {side.name} (no {names.NAMESPACE}-clusterid-configmap in namespace {side.liqo}).",
                next_step="`lamplighter federation install` puts it there; on a cloud node it is still starting.",
            )
        if facts.cluster_id != side.id:
            raise Halt(
                _STATE,
                Why.WRONG_CLUSTER,
                f"{side.name} says that its id is {facts.cluster_id!r}, not {side.id!r}.",
                next_step="The wrong kubeconfig, or another id than Liqo was installed with (it cannot be changed afterwards).",
                failed=True,
            )
    ours, theirs = (facts for facts in both if facts is not None)
    _same_version(home, ours, remote, theirs)
    for side, facts in ((home, ours), (remote, theirs)):
        if not facts.pods or not facts.external:
            raise Halt(
                _STATE,
                Why.LIQO_STARTING,
                f"Liqo in {side.name} has not told its networks yet.",
                next_step="It does once its IPAM pod runs: `kubectl -n liqo get pods`.",
            )
    _no_overlap(spec, (*ours.pods, ours.external, *theirs.pods, theirs.external))
    return ours, theirs


async def connect(home: Side, remote: Side, spec: PeerSpec, ours: Facts, theirs: Facts) -> None:
    """Until both connections stand. Raises Halt."""
    now = home.now()
    for side in (home, remote):
        _whole(await side.ensure_tenant(), side, now)
    await _configure(home, remote, spec, ours, theirs)
    server = await _gateway(
        remote,
        objects.gateway_server(home.id, remote.tenant, port=spec.gateway_port, mtu=spec.mtu, liqo=spec.liqo_namespace),
        spec,
    )
    client = await _gateway(
        home,
        objects.gateway_client(
            remote.id, home.tenant, address=spec.gateway_address, port=spec.gateway_port, mtu=spec.mtu, liqo=spec.liqo_namespace
        ),
        spec,
    )
    keys = [await _key(side, gateway) for side, gateway in ((remote, server), (home, client))]
    for side, gateway, key in ((home, client, keys[0]), (remote, server, keys[1])):
        if key is not None:
            _whole(await side.ensure(objects.public_key(side.peer, side.tenant, key, gateway)), side, now)
    for side, gateway, key in ((remote, server, keys[0]), (home, client, keys[1])):
        if key is None:
            await _gateway_waits(side, gateway)
    await _connected(home, remote, client, spec)


def _same_version(home: Side, ours: Facts, remote: Side, theirs: Facts) -> None:
    def minor(version: str) -> tuple[str, ...]:
        return tuple(version.lstrip("v").split(".")[:2])

    if ours.version and theirs.version and minor(ours.version) != minor(theirs.version):
        raise Halt(
            _STATE,
            Why.VERSION_MISMATCH,
            f"Liqo is {ours.version} in {home.name} and {theirs.version} in {remote.name}: both must have the same minor version.",
            next_step="Install the same on both (`federation.liqo_version`). Liqo cannot be upgraded with peerings: part first.",
            failed=True,
        )


def _no_overlap(spec: PeerSpec, networks: tuple[str, ...]) -> None:
    """Liqo maps pods' networks that are the same on both sides. What it cannot mend is one that covers the way to the gateway."""
    if not spec.gateway_address:
        return
    address = ip_address(spec.gateway_address)
    for network in networks:
        if address in ip_network(network, strict=False):
            raise Halt(
                _STATE,
                Why.CIDR_OVERLAP,
                f"The gateway's address {address} lies in {network}, a network of pods: the tunnel would be routed into itself.",
                next_step="Give the pods or the mesh another network, and name the mesh to Liqo as a reserved subnet (`federation install` does).",
                failed=True,
            )


async def _configure(home: Side, remote: Side, spec: PeerSpec, ours: Facts, theirs: Facts) -> None:
    made = []
    for side, facts in ((home, theirs), (remote, ours)):
        made.append(await side.ensure(objects.configuration(side.peer, side.tenant, facts.pods, facts.external)))
    for side, one in zip((home, remote), made, strict=True):
        _whole(one, side, home.now())
        cidrs = (status(one).get("remote") or {}).get("cidr") or {}
        if not cidrs.get("pod") or not cidrs.get("external"):
            raise Halt(
                _STATE,
                Why.CONFIGURING,
                f"Liqo in {side.name} maps the networks of {side.peer}.",
                next_step="Its controller manager and IPAM do: `kubectl -n liqo logs deploy/liqo-controller-manager`.",
            )
        _no_overlap(spec, (*cidrs["pod"], *cidrs["external"]))


async def _gateway(side: Side, manifest: Manifest, spec: PeerSpec) -> Manifest:
    """The gateway as wanted. One that others made with another MTU is not touched: both ends must agree, so it is told."""
    kind = names.GATEWAY_SERVER if manifest["kind"] == names.GATEWAY_SERVER.kind else names.GATEWAY_CLIENT
    there = await side.of_peer(kind, side.tenant)
    foreign = next((one for one in there if labels(one).get(names.OURS) != names.OURS_VALUE), None)
    if foreign is not None:
        found = (foreign.get("spec") or {}).get("mtu")
        if found != spec.mtu:
            raise Halt(
                _STATE,
                Why.WRONG_MTU,
                f"{kind.kind} {name_of(foreign)} in {side.name} has MTU {found}, not {spec.mtu}; somebody else made it."
                + (" Inside of the mesh full packets are lost: pings pass and answers hang." if (found or 0) > spec.mtu else ""),
                next_step=f"Delete it (`kubectl -n {side.tenant} delete {kind.resource} {name_of(foreign)}`), or set `federation.mtu` to the same.",
                failed=True,
            )
        return {"apiVersion": kind.api_version, "kind": kind.kind, **foreign}
    made = await side.ensure(manifest)
    _whole(made, side, side.now())
    return made


async def _key(side: Side, gateway: Manifest) -> str | None:
    """The public key of a gateway, base64, once Liqo has made it."""
    reference = status(gateway).get("secretRef") or {}
    if not reference.get("name"):
        return None
    secret = await side.get(SECRET, str(reference["name"]), str(reference.get("namespace") or side.tenant))
    return ((secret or {}).get("data") or {}).get("publicKey")


async def _gateway_waits(side: Side, gateway: Manifest) -> None:
    waited = age(gateway, side.now())
    said = await side.trouble(name_of(gateway))
    if said or waited > PATIENCE:
        raise Halt(
            _STATE,
            Why.GATEWAY_NOT_READY,
            f"Liqo's gateway in {side.name} does not start" + (f": {said}." if said else f" since {waited:.0f} s."),
            next_step=f"`kubectl -n {side.tenant} get pods,events`. On Talos its namespace must allow privileged pods (PodSecurity).",
        )
    raise Halt(_STATE, Why.GATEWAY_STARTING, f"Liqo's gateway in {side.name} starts.")


async def _connected(home: Side, remote: Side, client: Manifest, spec: PeerSpec) -> None:
    waited = age(client, home.now())
    for side in (home, remote):
        found = await side.of_peer(names.CONNECTION, side.tenant)
        value = str(status(found[0]).get("value") or "") if found else ""
        if value == "Connected":
            continue
        if side is home and (said := await home.trouble(name_of(client))):
            raise Halt(
                _STATE, Why.GATEWAY_NOT_READY, f"Liqo's gateway in {home.name} does not run: {said}.",
                next_step=f"`kubectl -n {home.tenant} get pods,events`.",
            )  # fmt: skip
        if waited > PATIENCE or value == "Error":
            raise Halt(
                _STATE,
                Why.GATEWAY_UNREACHABLE,
                f"The tunnel to {spec.gateway_address or 'the gateway'}:{spec.gateway_port} (UDP) does not come up since {waited:.0f} s, "
                f"as {side.name} sees it ({value or 'no connection yet'}).",
                next_step=(
                    "`lamplighter mesh check` from home; does the mesh's firewall on the node let group `home` in at this port (UDP), "
                    "and is the address the node's in the mesh?"
                ),
            )
        raise Halt(_STATE, Why.CONNECTING, f"The tunnel to {spec.gateway_address}:{spec.gateway_port} comes up.")


def _whole(thing: Manifest, side: Side, now: float) -> None:
    if deleting(thing) or condition(thing, "NamespaceDeletionContentFailure").get("status") == "True":
        waited = age(thing, now)
        raise Halt(
            _STATE,
            Why.CLEARING,
            f"{thing['kind']} {name_of(thing)} in {side.name} is still being deleted from an earlier peering.",
            next_step="`lamplighter federation status` names what holds it." if waited > PATIENCE else "",
        )
