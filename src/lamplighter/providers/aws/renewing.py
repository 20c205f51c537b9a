"""Renews what lets nodes live: their leases, AWS's own dead-man, their certificates and what their Nebula must refuse.

What is not renewed ends itself, and nothing else here is needed for that. Not responsible for ending anything.
"""

import asyncio

import structlog

from lamplighter.core.clock import Clock, cancellable
from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.admission import Admission, digest
from lamplighter.providers.aws.decide import open_orders
from lamplighter.providers.aws.dial import DialError
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.manifest import Manifest, Manifests, PoolManifest
from lamplighter.providers.aws.nodes import Keys
from lamplighter.providers.aws.picture import Machine
from lamplighter.providers.aws.poller import Poller

_log = structlog.get_logger(__name__)


class Renewing:
    """Of one pool."""

    def __init__(
        self, poller: Poller, manifests: Manifests, groups: Groups, admission: Admission, keys: Keys, clock: Clock
    ) -> None:
        self._poller = poller
        self._manifests = manifests
        self._groups = groups
        self._admission = admission
        self._keys = keys
        self._clock = clock
        self._log = _log.bind(pool=poller.name)

    async def renew(self) -> None:
        """Everything that runs and is wanted. Does nothing, and costs nothing, while there is nothing. Raises ProviderError."""
        picture = self._poller.picture
        if picture is None:
            return
        leaving = self._poller.doomed | self._poller.parting
        wanted = [m for m in picture.machines if m.living and m.replica and m.replica not in leaving]
        waiting = [group.name for order, group in open_orders(picture).values() if order.failure is None]
        if not wanted and not waiting:
            return
        manifest, part = await self._manifests.pool(self._poller.name)
        met = [machine for machine in wanted if machine.overlay is not None and self._poller.node(machine).met_at is not None]
        await cancellable(asyncio.gather(*(self._renew(manifest, part, machine) for machine in met)))
        groups = sorted({*waiting, *(machine.group for machine in wanted if machine.group)})
        await self._groups.push_dead_man(groups, self._until(part, wanted, bool(waiting)))

    def _until(self, part: PoolManifest, wanted: list[Machine], waiting: bool) -> float:
        """Until when AWS's dead-man must wait: as long as a node that boots may still take, or else as long as a lease; and its drain."""
        now = self._clock.time()
        booting = [machine for machine in wanted if self._poller.node(machine).ready_at is None]
        left = [part.boot_deadline - (now - (machine.ordered_at or machine.launched_at)) for machine in booting]
        return now + max(part.lease, *left, part.boot_deadline if waiting else 0.0) + part.drain

    async def _renew(self, manifest: Manifest, part: PoolManifest, machine: Machine) -> None:
        """One node: its lease first, then what is new for its mesh. It answers or it does not: the others are not kept from theirs."""
        node = self._poller.node(machine)
        assert machine.overlay is not None  # noqa: S101 - only such are renewed
        try:
            token = self._keys.agent(machine.id, machine.replica)
            await self._poller.dialer.lease(machine.overlay, token, part.lease)
            files = await self._admission.renewal(manifest, machine, node)
            if files is not None:
                await self._poller.dialer.nebula(machine.overlay, token, files)
                node.given, node.bundle = digest(files), files["ca.crt"]
                self._poller.hurry()  # its tags tell of a new certificate
                self._log.info("a node's mesh was renewed", instance=machine.id, certificate="node.crt" in files)
            await self._admission.confirm(machine, node)
        except DialError as error:
            self._log.warning("a node's lease could not be renewed", instance=machine.id, error=error.message)
        except ProviderError as error:
            self._log.warning("a node's certificate or blocklist could not be renewed", instance=machine.id, error=error.message)
