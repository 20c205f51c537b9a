"""The handshake by which a consumer may ask a provider for resources: nonce, signature, tenant, identity.

Each side's Liqo makes and checks its own part; what is public is carried across here, as `liqoctl` does. Raises Halt where it waits.
Not responsible for the network: the API servers are reached over the mesh itself.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit

from lamplighter.federation import handshake, names, objects
from lamplighter.federation.side import Side
from lamplighter.federation.standing import PATIENCE, Halt, State, Why, age
from lamplighter.providers.kubernetes.kinds import SECRET, Manifest
from lamplighter.providers.kubernetes.reading import deleting, labels, status
from lamplighter.providers.kubernetes.reading import name as name_of

_STATE: State = "authentication"


async def authenticate(consumer: Side, provider: Side) -> None:
    """Until the consumer's Liqo holds a kubeconfig of the provider. Raises Halt."""
    for side in (consumer, provider):
        _whole(await side.ensure_tenant(), side)
    nonce = await _nonce(consumer, provider)
    signature = await _signed(consumer, provider, nonce)
    tenant = await _tenant(consumer, provider, signature)
    parameters = status(tenant)["authParams"]
    _reachable(str(parameters.get("apiServer") or ""), provider)
    space = str(status(tenant)["tenantNamespace"])
    identity = await consumer.ensure(objects.identity(provider.id, consumer.tenant, parameters, space))
    _whole(identity, consumer)
    if not (status(identity).get("kubeconfigSecretRef") or {}).get("name"):
        raise Halt(
            _STATE,
            Why.IDENTITY_PENDING,
            f"Liqo in {consumer.name} makes its credentials for {provider.name}.",
            next_step=_look(consumer) if age(identity, consumer.now()) > PATIENCE else "",
        )


async def _nonce(consumer: Side, provider: Side) -> str:
    there = await provider.list(SECRET, provider.tenant, {names.NONCE: None, names.REMOTE_ID: consumer.id})
    secret = there[0] if there else await provider.ensure(objects.nonce(consumer.id, provider.tenant))
    value = (secret.get("data") or {}).get("nonce")
    if not value:
        raise Halt(
            _STATE,
            Why.NONCE_MISSING,
            f"Liqo in {provider.name} has not made a nonce yet.",
            next_step=_look(provider) if age(secret, provider.now()) > PATIENCE else "",
        )
    return str(value)


async def _signed(consumer: Side, provider: Side, nonce: str) -> str:
    there = await consumer.list(SECRET, consumer.tenant, {names.SIGNED_NONCE: None, names.REMOTE_ID: provider.id})
    stale = [one for one in there if (one.get("data") or {}).get("nonce") != nonce]
    for one in stale:  # of an earlier handshake, which the provider has forgotten
        await consumer.delete(SECRET, one)
    fresh = [one for one in there if one not in stale]
    secret = fresh[0] if fresh else await consumer.ensure(objects.signed_nonce(provider.id, consumer.tenant, nonce))
    signature = (secret.get("data") or {}).get("signedNonce")
    if not signature:
        raise Halt(
            _STATE,
            Why.NONCE_UNSIGNED,
            f"Liqo in {consumer.name} has not signed the nonce of {provider.name} yet.",
            next_step=_look(consumer) if age(secret, consumer.now()) > PATIENCE else "",
        )
    return str(signature)


async def _tenant(consumer: Side, provider: Side, signature: str) -> Manifest:
    there = await provider.of_peer(names.TENANT, provider.tenant)
    current = next((one for one in there if not deleting(one)), None)
    if there and current is None:
        _whole(there[0], provider)
    spec = (current or {}).get("spec") or {}
    if spec.get("tenantCondition", "Active") != "Active":
        raise Halt(
            _STATE,
            Why.TENANT_CLOSED,
            f"{provider.name} has set its tenant {consumer.id} to {spec['tenantCondition']}: it grants nothing more.",
            next_step="`liqoctl uncordon tenant`, there, if that is not meant any more.",
            failed=True,
        )
    if current is None or (labels(current).get(names.OURS) == names.OURS_VALUE and spec.get("signature") != signature):
        current = await _introduce(consumer, provider, signature, spec)
    if not status(current).get("authParams") or not status(current).get("tenantNamespace"):
        said = await provider.warning(name_of(current))
        refused = said.startswith(("SignatureVerificationFailed", "InvalidCSR"))
        if said or age(current, provider.now()) > PATIENCE:
            raise Halt(
                _STATE,
                Why.TENANT_REFUSED if refused else Why.TENANT_PENDING,
                f"{provider.name} has not accepted the tenant {consumer.id}" + (f": {said}." if said else " yet."),
                next_step=_look(provider),
            )
        raise Halt(_STATE, Why.TENANT_PENDING, f"{provider.name} signs the credentials of {consumer.id}.")
    return {"apiVersion": names.TENANT.api_version, "kind": names.TENANT.kind, **current}


async def _introduce(consumer: Side, provider: Side, signature: str, spec: Manifest) -> Manifest:
    secret = await consumer.get(SECRET, handshake.KEYS, consumer.liqo)
    if secret is None:
        raise Halt(
            _STATE,
            Why.LIQO_STARTING,
            f"Liqo in {consumer.name} has no keys yet (secret {handshake.KEYS}).",
            next_step=_look(consumer),
        )
    public, request = str(spec.get("publicKey") or ""), str(spec.get("csr") or "")
    made = handshake.credentials(secret.get("data") or {}, consumer.id)
    if public == made.public_key and handshake.asks_as(request, public, consumer.id):
        made = handshake.Credentials(
            public, request
        )  # the same again: an ECDSA signature differs each time, and would be a change
    return await provider.ensure(
        objects.tenant(consumer.id, provider.tenant, public_key=made.public_key, request=made.request, signature=signature)
    )


def _reachable(url: str, provider: Side) -> None:
    """Liqo tells the address that it was installed with. One that means "myself" leads the consumer nowhere."""
    host = urlsplit(url).hostname or ""
    try:
        own = ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        own = host in ("", "localhost")
    if own:
        raise Halt(
            _STATE,
            Why.API_ADDRESS,
            f"{provider.name} gives {url or 'no address'} as its API server: nobody else can reach that.",
            next_step="Install Liqo there with its address in the mesh: `lamplighter federation install --api-server https://ADDRESS:6443`.",
            failed=True,
        )


def _whole(thing: Manifest, side: Side) -> None:
    if deleting(thing):
        raise Halt(
            _STATE,
            Why.CLEARING,
            f"{thing['kind']} {name_of(thing)} in {side.name} is still being deleted from an earlier peering.",
        )


def _look(side: Side) -> str:
    return f"Look at its controller, in {side.name}: `kubectl -n {side.liqo} logs deploy/liqo-controller-manager`."
