"""The handshake as Liqo's controllers answer it: nonces, signatures that are really checked, signed certificates in name only, credentials.

Not responsible for resources.
"""

import base64
import secrets
import time
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lamplighter.federation import names
from lamplighter.providers.kubernetes.kinds import EVENT, SECRET, Manifest
from lamplighter.providers.kubernetes.reading import deleting, status
from lamplighter.providers.kubernetes.reading import name as name_of
from lamplighter.testing.liqo.member import Member, owned_by, peer_of

if TYPE_CHECKING:
    from lamplighter.testing.liqo.federation import FakeLiqo

_TENANT_HELD = "tenant.liqo.io/finalizer"
_REPLICATOR_HELD = "crdreplicator.liqo.io/operator"


async def reconcile(_liqo: "FakeLiqo", member: Member) -> None:
    """One round of the authentication module of one cluster."""
    await _nonces(member)
    await _signatures(member)
    await _tenants(member)
    await _identities(member)


async def _nonces(member: Member) -> None:
    for secret in await member.all(SECRET, selected={names.NONCE: None}):
        if "nonce-missing" in member.faults or (secret.get("data") or {}).get("nonce"):
            continue
        if secret["metadata"]["namespace"] == await member.tenant(peer_of(secret)):
            value = base64.b64encode(base64.b64encode(secrets.token_bytes(64))).decode()
            await member.change(SECRET, secret, {"data": {"nonce": value}})


async def _signatures(member: Member) -> None:
    for secret in await member.all(SECRET, selected={names.SIGNED_NONCE: None}):
        data = secret.get("data") or {}
        if "nonce-unsigned" in member.faults or not data.get("nonce") or data.get("signedNonce"):
            continue
        signature = member.private.sign(base64.b64decode(data["nonce"]))
        await member.change(SECRET, secret, {"data": {"signedNonce": base64.b64encode(signature).decode()}})


async def _tenants(member: Member) -> None:
    for tenant in await member.all(names.TENANT):
        if deleting(tenant):
            await member.release(names.TENANT, tenant, _TENANT_HELD)
            continue
        await member.hold(names.TENANT, tenant, _TENANT_HELD)
        refused = await _refusal(member, tenant)
        if refused:
            await _warn(member, tenant, *refused)
        elif not status(tenant).get("authParams"):
            url = member.api_server or f"https://{member.id}.cluster.invalid:6443"
            parameters = {"apiServer": url, "ca": _text("authority"), "signedCRT": _text("certificate")}
            space = tenant["metadata"]["namespace"]
            await member.tell(names.TENANT, name_of(tenant), {"tenantNamespace": space, "authParams": parameters}, space)


async def _refusal(member: Member, tenant: Manifest) -> tuple[str, str] | None:
    """As the provider's Liqo checks it: the nonce is its own, signed by the key in the tenant, which is the request's key too."""
    spec, name = tenant.get("spec") or {}, name_of(tenant)
    found = await member.all(SECRET, tenant["metadata"]["namespace"], {names.NONCE: None})
    nonce = next(((one.get("data") or {}).get("nonce") for one in found), None)
    if not nonce:
        return "NonceNotFound", f"no nonce for tenant {name}"
    try:
        key = serialization.load_pem_public_key(base64.b64decode(spec["publicKey"]))
        request = x509.load_pem_x509_csr(base64.b64decode(spec["csr"]))
    except (KeyError, ValueError) as error:
        return "InvalidCSR", str(error)
    if not isinstance(key, Ed25519PublicKey):
        return "InvalidCSR", "unsupported public key"
    try:
        key.verify(base64.b64decode(spec["signature"]), base64.b64decode(nonce))
    except InvalidSignature:
        return "SignatureVerificationFailed", f"signature verification failed for Tenant {name!r}"
    names_ = {attribute.oid.dotted_string: str(attribute.value) for attribute in request.subject}
    if (names_.get("2.5.4.3"), names_.get("2.5.4.10")) != (spec.get("clusterID"), "liqo.io"):
        return "InvalidCSR", "invalid common name or organization"
    der = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if request.public_key().public_bytes(*der) != key.public_bytes(*der):
        return "InvalidCSR", "invalid public key"
    return None


async def _identities(member: Member) -> None:
    for identity in await member.all(names.IDENTITY):
        if deleting(identity) or "identity-pending" in member.faults:
            continue
        space, name = identity["metadata"]["namespace"], f"kubeconfig-{name_of(identity)}"
        spec = identity.get("spec") or {}
        if (status(identity).get("kubeconfigSecretRef") or {}).get("name") != name:
            meta = {
                "name": name,
                "labels": {names.REMOTE_ID: spec["clusterID"], "liqo.io/identity-type": spec["type"]},
                "annotations": {"liqo.io/remote-tenant-namespace": spec.get("namespace") or ""},
                "ownerReferences": owned_by(identity),
            }
            held = {"finalizers": [_REPLICATOR_HELD]} if spec["type"] == "ControlPlane" else {}
            await member.make(SECRET, {"metadata": {**meta, **held}, "data": {"kubeconfig": _text("kubeconfig")}}, space)
            await member.tell(names.IDENTITY, name_of(identity), {"kubeconfigSecretRef": {"name": name}}, space)
    for secret in await member.all(SECRET, selected={"liqo.io/identity-type": "ControlPlane"}):
        if deleting(secret):
            await member.release(SECRET, secret, _REPLICATOR_HELD)


async def _warn(member: Member, thing: Manifest, reason: str, message: str) -> None:
    space = thing["metadata"]["namespace"]
    event = {
        "metadata": {"name": f"{name_of(thing)}.{reason.lower()}"},
        "involvedObject": {
            "apiVersion": thing["apiVersion"], "kind": thing["kind"], "name": name_of(thing), "namespace": space,
            "uid": thing["metadata"]["uid"],
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": "tenant-controller"},
        "lastTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    await member.make(EVENT, event, space)


def _text(what: str) -> str:
    return base64.b64encode(f"pretended {what}".encode()).decode()
