"""Lets a node in: a certificate for the key that it made, an address, its keys, and what it shall run, put where only it can read them.

The node's half of its key comes through a queue on which AWS itself names the sender. Nothing secret is stored but in the assignment, and
nothing that the node could change is believed later. Not responsible for which node has which order (`decide`).
"""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

import structlog

from lamplighter.config.mesh import MeshConfig
from lamplighter.config.secrets import resolve
from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.mesh.authority import Issued, OnlineAuthority
from lamplighter.mesh.errors import MeshError
from lamplighter.mesh.lighthouse import blocklist_parameter
from lamplighter.mesh.nodes import gpu_config
from lamplighter.providers.aws.client import Aws, AwsError, in_thread
from lamplighter.providers.aws.duty import Duty, Given
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.manifest import Manifest, PoolManifest
from lamplighter.providers.aws.nodes import Keys, Node
from lamplighter.providers.aws.picture import TAG_CERTIFICATES, TAG_OVERLAY, TAG_PORT, Certificate, Machine, certificates_text

_log = structlog.get_logger(__name__)

_UNLOCKING = threading.Lock()
"""OpenSSL's Argon2 with several lanes hangs, or says that memory is short, when two threads of a process derive at once."""
FOLDER = "nodes"
ASSIGNMENT = "assignment.json"


class Authority(Protocol):
    """What is needed of `mesh.authority.OnlineAuthority`."""

    def issue(self, name: str, public_key_pem: str, address: IPv4Address, *, now: float) -> Issued: ...

    def revoke(self, fingerprint: str, until: float) -> None: ...

    def due(self, fingerprint: str, *, now: float) -> bool: ...

    def confirm(self, name: str, *, bundle: str, fingerprint: str) -> None: ...

    def taken(self) -> frozenset[IPv4Address]: ...

    def bundle(self) -> str: ...

    def blocklist(self) -> tuple[str, ...]: ...

    def publish(self) -> None: ...


def open_authority(data: Path, mesh: MeshConfig, clock: Clock) -> Authority:
    """The one that certifies cloud nodes. Takes a third of a second. Raises ProviderError, which says what is missing."""
    if not mesh.lighthouses:
        raise ProviderError(
            "There is no mesh: `mesh.lighthouses` is empty, so no cloud machine could join.",
            next_step="Set the mesh up with `lamplighter mesh init`, and name its lighthouses in lamplighter.yaml.",
        )
    try:
        passphrase = resolve(mesh.passphrase, where="mesh.passphrase") if mesh.passphrase is not None else None
        with _UNLOCKING:
            return OnlineAuthority.open(data / "mesh", mesh, passphrase, clock=clock)
    except LamplighterError as error:
        raise ProviderError(
            f"No certificate can be made for a cloud machine: {error.message}.",
            next_step=error.next_step or "Run `lamplighter mesh init`.",
        ) from error


class Admission:
    """Admits nodes of one pool, keeps their certificates fresh, and takes them away again."""

    def __init__(
        self,
        aws: Aws,
        groups: Groups,
        *,
        pool: str,
        duty: Duty,
        mesh: MeshConfig,
        keys: Keys,
        authority: Callable[[], Authority],
        clock: Clock,
    ) -> None:
        self._aws = aws
        self._groups = groups
        self._duty = duty
        self._mesh = mesh
        self._keys = keys
        self._open = authority
        self._authority: Authority | None = None
        self._opening = asyncio.Lock()
        self._clock = clock
        self._log = _log.bind(pool=pool)

    async def authority(self) -> Authority:
        """Opened once. Raises ProviderError."""
        async with self._opening:
            if self._authority is None:
                with self._clock.busy():
                    self._authority = await in_thread(self._open)
            return self._authority

    async def admit(
        self, manifest: Manifest, part: PoolManifest, machine: Machine, node: Node, used: Iterable[IPv4Address]
    ) -> None:
        """Certificate, address, keys and assignment for a node that has its order. Safe to repeat. Raises ProviderError.

        `used`: addresses of the pool's other nodes.
        """
        try:
            work = self._duty.prepare(machine.model, machine.kind)
        except LamplighterError as error:
            node.refuse(getattr(error, "reason", WakeFailure.PROVIDER_ERROR), error.message)
            raise ProviderError(error.message, next_step=error.next_step) from error
        authority = await self.authority()
        now = self._clock.time()
        try:
            with self._clock.busy():
                address, issued = await in_thread(lambda: self._issue(authority, machine, node.public_key, frozenset(used), now))
        except MeshError as error:
            raise ProviderError(
                f"The node {machine.id} gets no certificate: {error.message}.", next_step=error.next_step
            ) from error
        # Written down before the node can use it: a certificate that we do not know of could not be revoked.
        certificate = Certificate(issued.fingerprint, issued.not_after)
        await self._groups.tag(
            machine.id,
            {
                TAG_OVERLAY: str(address),
                TAG_PORT: str(work.port),
                TAG_CERTIFICATES: certificates_text((certificate,)),
            },
        )
        secret = await self._hub_token(manifest, work.hub_token, machine.model)
        files = await self.files(authority, manifest, issued.certificate_pem, work.port)
        key = self._keys.engine(machine.id, machine.replica)
        given = Given(machine.id, machine.kind, address, manifest.region, manifest.account, key)
        assignment = {
            "version": 1,
            "instance": machine.id,
            "replica": machine.replica,
            "model": machine.model,
            "overlay": str(address),
            "nebula": files,
            "agent_token": self._keys.agent(machine.id, machine.replica),
            **work.body(given),
            "hub_token_secret": secret,
            "lease": part.lease,
            "boot_deadline": part.boot_deadline,
            "drain": part.drain,
        }
        await self._aws.call(
            "s3", "put_object", Bucket=manifest.bucket, Key=self._key(manifest, machine.id), Body=json.dumps(assignment).encode(),
            ContentType="application/json",
        )  # fmt: skip
        node.assigned_at = self._clock.time()
        node.given, node.bundle = digest(files), files["ca.crt"]
        self._log.info("a node was admitted", instance=machine.id, handle=machine.replica, overlay=str(address))

    def _issue(
        self, authority: Authority, machine: Machine, public_key: str, used: frozenset[IPv4Address], now: float
    ) -> tuple[IPv4Address, Issued]:
        address = machine.overlay or free_address(self._mesh, machine.id, used | authority.taken())
        return address, authority.issue(machine.id, public_key, address, now=now)

    async def files(self, authority: Authority, manifest: Manifest, certificate: str | None, port: int) -> dict[str, str]:
        """What a node's Nebula is given now. `certificate` None: it keeps the one that it has."""
        lighthouses: dict[str, list[str]] = {}
        if manifest.lighthouse is not None:
            lighthouses[manifest.lighthouse[0]] = [manifest.lighthouse[1]]

        def make() -> dict[str, str]:
            ports = sorted({8000, 11434, port})
            config = gpu_config(self._mesh, lighthouse_addresses=lighthouses, blocklist=authority.blocklist(), engine_ports=ports)
            return {"config.yml": config, "ca.crt": authority.bundle()}

        try:
            with self._clock.busy():
                files = await in_thread(make)
        except LamplighterError as error:
            raise ProviderError(f"A node's mesh cannot be configured: {error.message}.", next_step=error.next_step) from error
        return files if certificate is None else {**files, "node.crt": certificate}

    async def renewal(self, manifest: Manifest, machine: Machine, node: Node) -> dict[str, str] | None:
        """What a node's Nebula must be given because something is new: certificate, bundle or blocklist; None when nothing is.

        The caller notes it once the node has it. Raises ProviderError.
        """
        authority = await self.authority()
        now = self._clock.time()
        pem: str | None = None
        with self._clock.busy():
            last = machine.certificates[-1].fingerprint if machine.certificates else ""
            try:
                if machine.overlay is not None and node.public_key and await in_thread(lambda: authority.due(last, now=now)):
                    address = machine.overlay
                    issued = await in_thread(lambda: authority.issue(machine.id, node.public_key, address, now=now))
                    pem = issued.certificate_pem
                    certificate = Certificate(issued.fingerprint, issued.not_after)
                    await self._groups.tag(machine.id, {TAG_CERTIFICATES: certificates_text((certificate,))})
            except MeshError as error:
                raise ProviderError(f"The certificate of {machine.id} cannot be renewed: {error.message}.") from error
        files = await self.files(authority, manifest, pem, machine.port)
        return files if pem is not None or node.given != digest(files) else None

    async def confirm(self, machine: Machine, node: Node) -> None:
        """Tell the authority what a node has, once for each change: a rotation goes on only when every node is known to follow."""
        fingerprint = node.status.fingerprint if node.status is not None else None
        if fingerprint is None or not node.bundle or node.confirmed == (node.bundle, fingerprint):
            return
        authority = await self.authority()
        try:
            with self._clock.busy():
                await in_thread(lambda: authority.confirm(machine.id, bundle=node.bundle, fingerprint=fingerprint))
        except MeshError as error:
            self._log.warning("what a node has could not be noted", instance=machine.id, error=error.message)
            return
        node.confirmed = (node.bundle, fingerprint)

    async def bury(self, manifest: Manifest, machine: Machine) -> None:
        """An instance is gone: its certificate is worth nothing any more, and its assignment is removed. Safe to repeat. Raises ProviderError."""
        now = self._clock.time()
        valid = [one for one in machine.certificates if one.until > now]
        if valid:
            authority = await self.authority()

            def revoke() -> None:
                for one in valid:
                    authority.revoke(one.fingerprint, one.until)
                authority.publish()

            try:
                with self._clock.busy():
                    await in_thread(revoke)
            except MeshError as error:
                raise ProviderError(f"The certificate of {machine.id} could not be revoked: {error.message}.") from error
            await self._tell_lighthouse(manifest, authority.blocklist())
        try:
            await self._aws.call("s3", "delete_object", Bucket=manifest.bucket, Key=self._key(manifest, machine.id))
        except AwsError as error:
            if error.aws_code not in ("NoSuchKey", "NoSuchBucket"):
                raise

    async def _tell_lighthouse(self, manifest: Manifest, blocklist: Sequence[str]) -> None:
        """Hand the blocklist to the stack's own lighthouse, which reads it every minute. It only introduces: nodes refuse what is revoked themselves."""
        if manifest.lighthouse is None:
            return
        name, text = blocklist_parameter(manifest.stack, blocklist)
        try:
            await self._aws.call("ssm", "put_parameter", Name=name, Value=text, Type="SecureString", Overwrite=True)
        except ProviderError as error:
            self._log.warning("the lighthouse could not be told what is revoked", error=error.message, next_step=error.next_step)

    async def _hub_token(self, manifest: Manifest, reference: str | None, model: str) -> str | None:
        """Put the hub's token into the stack's secret, unless it is there; the secret's name. Raises ProviderError."""
        if reference is None:
            return None
        try:
            token = resolve(reference, where=f"models.{model}.hub_token")
        except LamplighterError as error:
            raise ProviderError(
                f"The hub's token of {model!r} cannot be had: {error.message}.",
                reason=WakeFailure.GATED_MODEL,
                next_step=error.next_step,
            ) from error
        name = manifest.hub_token_secret
        # AWS keeps the version's name that we give: a stable one of the value says whether it is there, and a repeated put does nothing.
        version: str | None = self._keys.name("hub_token", manifest.stack, token)
        answer = await self._aws.call("secretsmanager", "describe_secret", SecretId=name)
        versions = answer.get("VersionIdsToStages") or {}
        if "AWSCURRENT" not in versions.get(version, ()):
            if version in versions:
                version = None  # an older token came back: it needs a new version
            extra = {"ClientRequestToken": version} if version is not None else {}
            await self._aws.call("secretsmanager", "put_secret_value", SecretId=name, SecretString=token, **extra)
        return name

    def _key(self, manifest: Manifest, instance: str) -> str:
        return f"{FOLDER}/{manifest.sender(instance)}/{ASSIGNMENT}"


def digest(files: Mapping[str, str]) -> str:
    """Of what all nodes get alike: configuration and bundle."""
    return hashlib.sha256(f"{files['config.yml']}\0{files['ca.crt']}".encode()).hexdigest()


def free_address(mesh: MeshConfig, instance: str, used: Iterable[IPv4Address]) -> IPv4Address:
    """An address of the nodes' range, other ones for other instances, so that one is not soon given again. Raises ProviderError."""
    taken = {*used, mesh.home, *(one.overlay for one in mesh.lighthouses)}
    network = mesh.nodes
    first, count = int(network.network_address) + 1, network.num_addresses - 2
    start = int.from_bytes(hashlib.sha256(instance.encode()).digest()[:8], "big")
    for step in range(max(0, count)):
        address = IPv4Address(first + (start + step) % count)
        if address not in taken:
            return address
    raise ProviderError(f"All addresses of {network} are in use.", next_step="Set `mesh.nodes` to a larger network.")
