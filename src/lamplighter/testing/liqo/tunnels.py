"""The networking module as Liqo's controllers play it: networks mapped, gateways with keys, a connection when both ends fit.

No packet is sent. Not responsible for whether real packets would pass.
"""

import base64
import os
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lamplighter.federation import names
from lamplighter.providers.kubernetes.kinds import POD, SECRET, Kind, Manifest
from lamplighter.providers.kubernetes.reading import deleting, status
from lamplighter.providers.kubernetes.reading import name as name_of
from lamplighter.testing.liqo.member import Member, owned_by, peer_of

if TYPE_CHECKING:
    from lamplighter.testing.liqo.federation import FakeLiqo

_POOL = [f"10.{second}.0.0/16" for second in range(71, 127)]


async def reconcile(liqo: "FakeLiqo", member: Member) -> None:
    """One round of the networking module of one cluster."""
    await _configurations(member)
    for kind in (names.GATEWAY_SERVER, names.GATEWAY_CLIENT):
        for gateway in await member.all(kind):
            if not deleting(gateway):
                await _gateway(member, kind, gateway)
    for client in await member.all(names.GATEWAY_CLIENT):
        if not deleting(client) and (peer := liqo.members.get(peer_of(client))) is not None:
            await _connect(liqo, member, client, peer)


async def _configurations(member: Member) -> None:
    found = await member.all(names.CONFIGURATION)
    taken = [ip_network(network) for network in (member.pods, member.external, *member.reserved)]
    for one in found:
        cidrs = (status(one).get("remote") or {}).get("cidr") or {}
        taken += [ip_network(network) for kind in ("pod", "external") for network in cidrs.get(kind) or ()]
    for one in found:
        if status(one).get("remote") or "configuring" in member.faults:
            continue
        wanted = (((one.get("spec") or {}).get("remote")) or {}).get("cidr") or {}
        mapped: dict[str, list[str]] = {}
        for kind in ("pod", "external"):
            mapped[kind] = []
            for network in wanted.get(kind) or ():
                free = next(
                    ip_network(candidate)
                    for candidate in (network, *_POOL)
                    if not any(ip_network(candidate).overlaps(other) for other in taken)
                )
                taken.append(free)
                mapped[kind].append(str(free))
        await member.tell(names.CONFIGURATION, name_of(one), {"remote": {"cidr": mapped}}, one["metadata"]["namespace"])


async def _gateway(member: Member, kind: Kind, gateway: Manifest) -> None:
    space, name = gateway["metadata"]["namespace"], name_of(gateway)
    if "gateway-pod" in member.faults:
        await _stuck_pod(member, gateway)
        return
    if status(gateway).get("secretRef"):
        return
    secret = f"gw-{name}-keys"
    private = X25519PrivateKey.generate()
    data = {
        "privateKey": base64.b64encode(private.private_bytes_raw()).decode(),
        "publicKey": base64.b64encode(private.public_key().public_bytes_raw()).decode(),
    }
    meta = {"name": secret, "labels": {names.REMOTE_ID: peer_of(gateway), names.GATEWAY_RESOURCE: "true"}}
    await member.make(SECRET, {"metadata": {**meta, "ownerReferences": owned_by(gateway)}, "data": data}, space)
    told: dict[str, Any] = {"secretRef": {"apiVersion": "v1", "kind": "Secret", "name": secret, "namespace": space}}
    if kind is names.GATEWAY_SERVER:
        endpoint = (gateway.get("spec") or {}).get("endpoint") or {}
        told["endpoint"] = {"addresses": ["10.0.0.1"], "port": endpoint.get("nodePort", 32000), "protocol": "UDP"}
    await member.tell(kind, name, told, space)


async def _connect(liqo: "FakeLiqo", member: Member, client: Manifest, peer: Member) -> None:
    """Both ends get a Connection once each has the other's key; its value says whether the client's packets would reach the server."""
    server = None if peer.lost else next((one for one in await peer.all(names.GATEWAY_SERVER) if peer_of(one) == member.id), None)
    fits = server is not None and not deleting(server) and _dials(client, server) and liqo.reaches(member, peer)
    keys = server is not None and await _knows(member, client, peer, server) and await _knows(peer, server, member, client)
    for side, gateway, kind in ((member, client, "Client"), *([(peer, server, "Server")] if server is not None else [])):
        if side.lost:
            continue
        space, name = gateway["metadata"]["namespace"], f"gw-{name_of(gateway)}"
        found = await side.client.get_or_none(names.CONNECTION, name, space)
        if found is None:
            if not keys:
                continue
            meta = {"name": name, "labels": {names.REMOTE_ID: peer_of(gateway)}, "ownerReferences": owned_by(gateway)}
            reference = {
                "apiVersion": gateway["apiVersion"],
                "kind": gateway["kind"],
                "name": name_of(gateway),
                "namespace": space,
            }
            await side.make(names.CONNECTION, {"metadata": meta, "spec": {"type": kind, "gatewayRef": reference}}, space)
        before = status(found).get("value")
        value = "Connected" if fits and keys else "Error" if before in ("Connected", "Error") else "Connecting"
        if value != before:
            await side.tell(names.CONNECTION, name, {"value": value}, space)


def _dials(client: Manifest, server: Manifest) -> bool:
    return bool((client["spec"]["endpoint"]).get("port") == (server["spec"]["endpoint"]).get("nodePort"))


async def _knows(member: Member, gateway: Manifest, peer: Member, theirs: Manifest) -> bool:
    """Whether `member` was given the key that `peer`'s gateway really has."""
    reference = status(theirs).get("secretRef") or {}
    if not reference or peer.lost or member.lost:
        return False
    secret = await peer.client.get_or_none(SECRET, reference["name"], reference["namespace"])
    real = ((secret or {}).get("data") or {}).get("publicKey")
    given = [one for one in await member.all(names.PUBLIC_KEY, gateway["metadata"]["namespace"]) if peer_of(one) == peer.id]
    return bool(real) and any((one.get("spec") or {}).get("publicKey") == real for one in given)


async def _stuck_pod(member: Member, gateway: Manifest) -> None:
    """A pod that PodSecurity or a registry keeps from running, as the kubelet tells it."""
    space, name = gateway["metadata"]["namespace"], f"gw-{name_of(gateway)}-{os.urandom(2).hex()}"
    if any(name_of(one).startswith(f"gw-{name_of(gateway)}") for one in await member.all(POD, space)):
        return
    pod = {"metadata": {"name": name}, "spec": {"containers": [{"name": "gateway", "image": "ghcr.io/liqotech/gateway:v1.2.0"}]}}
    await member.make(POD, pod, space)
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "ghcr.io/liqotech/gateway:v1.2.0"'}
    told = {"phase": "Pending", "containerStatuses": [{**_CONTAINER, "state": {"waiting": waiting}}]}
    await member.tell(POD, name, told, space)


_CONTAINER = {
    "name": "gateway", "image": "ghcr.io/liqotech/gateway:v1.2.0", "imageID": "", "ready": False, "restartCount": 0, "started": False,
}  # fmt: skip
