"""Ends what is doomed and buries what is dead: the agent is asked first, then AWS by name; then the certificate is revoked.

Not responsible for who is doomed: that is the keeper's. Everything here is repeated until a picture proves it.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.admission import Admission
from lamplighter.providers.aws.groups import Groups
from lamplighter.providers.aws.manifest import Manifests
from lamplighter.providers.aws.nodes import Keys
from lamplighter.providers.aws.picture import Machine

if TYPE_CHECKING:
    from lamplighter.providers.aws.poller import Poller

_log = structlog.get_logger(__name__)

END_GRACE = 4.0
"""Seconds that a node has, once asked, to save its logs and end itself before it is ended by name."""
END_AGAIN = 5.0
_LOOK = 0.4


class Ending:
    """Of one pool."""

    def __init__(
        self, poller: "Poller", manifests: Manifests, groups: Groups, admission: Admission, keys: Keys, clock: Clock
    ) -> None:
        self._poller = poller
        self._manifests = manifests
        self._groups = groups
        self._admission = admission
        self._keys = keys
        self._clock = clock
        self._settled: set[str] = set()
        """Instances that are buried, and handles that AWS was told to forget."""
        self._log = _log.bind(pool=poller.name)

    def push(self) -> None:
        """Whatever is due for the doomed and the dead of the newest picture."""
        self._end_doomed()
        self._bury_the_dead()

    async def at_once(self) -> None:
        """End by name what was to be ended, without waiting for its last words."""
        doomed = [machine for machine in self._poller.machines if machine.living and machine.replica in self._poller.doomed]
        for result in await asyncio.gather(*(self._terminate(machine) for machine in doomed), return_exceptions=True):
            if isinstance(result, BaseException):
                self._log.warning("an instance could not be ended; its lease ends it", error=str(result))

    def _end_doomed(self) -> None:
        """Push every doomed instance that lives towards its end."""
        for machine in self._poller.machines:
            if (
                machine.living
                and machine.replica in self._poller.doomed
                and self._poller.errands.due(f"end {machine.id}", END_AGAIN)
            ):
                self._poller.errands.start(f"end {machine.id}", self._end(machine))

    async def _end(self, machine: Machine) -> None:
        """Ask the node, which saves its logs; if it does not end itself soon, end it by name."""
        node = self._poller.node(machine)
        told = node.failure is not None  # a node that failed is about to end itself, and is saving its logs
        if node.met_at is not None and machine.overlay is not None:
            try:
                token = self._keys.agent(machine.id, machine.replica)
                await self._poller.dialer.end(machine.overlay, token, "asked", timeout=1.5)
                told = True
            except ProviderError as error:
                self._log.debug("a node could not be asked to end itself", instance=machine.id, error=error.message)
        if told and await self._ends_itself(machine):
            return
        await self._terminate(machine)
        self._poller.hurry()

    async def _ends_itself(self, machine: Machine) -> bool:
        """Give it its time; whether it is gone, or on its way."""
        until = self._clock.monotonic() + END_GRACE
        while self._clock.monotonic() < until:
            self._poller.hurry()
            await self._clock.sleep(_LOOK)
            if not self._counted(machine):
                return True
        try:
            await self._poller.refresh()  # both of us lowering the capacity would end another instance
        except ProviderError as error:
            self._log.debug("what became of a node is not known", instance=machine.id, error=error.message)
        return not self._counted(machine)

    def _counted(self, machine: Machine) -> bool:
        """Whether the instance still lives and its group still counts it."""
        now = self._poller.picture.machine(machine.id) if self._poller.picture is not None else None
        listed = any(
            (group.members or {}).get(machine.id, False)
            for group in (self._poller.picture.groups if self._poller.picture else ())
        )
        return now is not None and now.living and (listed or machine.group is None)

    async def _terminate(self, machine: Machine) -> None:
        await self._groups.end(machine.id, machine.group)

    def _bury_the_dead(self) -> None:
        """Revoke what dead instances held, and let AWS forget those whose end the keeper knows of."""
        for machine in self._poller.machines:
            if not machine.gone:
                continue
            if (
                machine.id not in self._settled
                and (machine.replica or machine.certificates)
                and self._poller.errands.due(f"bury {machine.id}", END_AGAIN)
            ):
                self._poller.errands.start(f"bury {machine.id}", self._bury(machine))
            forget = machine.replica in self._poller.doomed and machine.replica not in self._settled
            if forget and self._poller.errands.due(f"forget {machine.id}", END_AGAIN):
                self._poller.errands.start(f"forget {machine.id}", self._forget(machine))

    async def _bury(self, machine: Machine) -> None:
        manifest, _ = await self._manifests.pool(self._poller.name)
        await self._admission.bury(manifest, machine)
        self._settled.add(machine.id)

    async def _forget(self, machine: Machine) -> None:
        await self._groups.forget(machine.id)
        self._settled.add(machine.replica)
