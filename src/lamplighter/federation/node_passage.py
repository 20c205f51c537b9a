"""One machine's way into the home cluster and out of it, one step at a time. What is there decides what is done: nothing here must be remembered.

In: the record, then the peering, then the pod. Out, planned: the pod, the peering, the record, and then whoever holds the machine lets it go.
Out, when the machine is lost: the peering is given up for lost, which takes the pod with it. Every way has a limit, after which the machine goes
nevertheless: money first, tidiness second. Not responsible for when (`node_provider`), nor for the machine itself.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
import yaml

from lamplighter.config.federation import FederationConfig
from lamplighter.config.pools import AwsPool
from lamplighter.config.secrets import resolve
from lamplighter.core.clock import Clock
from lamplighter.core.errors import LamplighterError, ProviderError
from lamplighter.core.reasons import WakeFailure
from lamplighter.federation import offload, peering
from lamplighter.federation.node_duty import Clustered, cluster_id
from lamplighter.federation.node_pod import PodView
from lamplighter.federation.node_workload import REPLICA, Record, build, hub_secret, hub_secret_name, read, settings
from lamplighter.federation.peering import PeerSpec, PeerStatus, Retreat
from lamplighter.providers.aws.nodes import Facts
from lamplighter.providers.kubernetes import names
from lamplighter.providers.kubernetes.access import Access
from lamplighter.providers.kubernetes.applying import ensure_key
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, POD

_log = structlog.get_logger(__name__)

JOIN_LIMIT = 240.0
"""Seconds from a ready cluster to a ready peering, after which the wake has failed."""
PART_LIMIT = 60.0
"""Seconds that a planned end may take before the machine is ended without it."""
BRISK = 15.0
"""Seconds for which an end is pushed on quickly."""
AGAIN = 30.0
"""Seconds between two looks at a peering that is ready."""


class Liqo(Protocol):
    """What is asked of `federation.peering` and `federation.offload`."""

    async def advance(self, home: Cluster, remote: Cluster, spec: PeerSpec) -> PeerStatus: ...

    async def retreat(self, home: Cluster, remote: Cluster | None, cluster: str, planned: bool, home_id: str) -> Retreat: ...

    async def open(self, home: Cluster, namespace: str) -> offload.OffloadStatus: ...


class OurLiqo:
    """The real ones."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def advance(self, home: Cluster, remote: Cluster, spec: PeerSpec) -> PeerStatus:
        """One step towards a peering."""
        return await peering.advance(home, remote, spec, clock=self._clock)

    async def retreat(self, home: Cluster, remote: Cluster | None, cluster: str, planned: bool, home_id: str) -> Retreat:
        """One step away from it."""
        return await peering.retreat(home, remote, cluster, planned, home_id=home_id, clock=self._clock)

    async def open(self, home: Cluster, namespace: str) -> offload.OffloadStatus:
        """One step towards an offloaded namespace."""
        return await offload.ensure(home, namespace, clock=self._clock)


@dataclass(frozen=True)
class Country:
    """What all machines of a pool share. `kubeconfig`: of a machine's cluster, by handle; raises ProviderError."""

    pool: str
    installation: str
    config: AwsPool
    federation: FederationConfig
    duty: Clustered
    liqo: Liqo
    clock: Clock
    home: Callable[[], Cluster]
    kubeconfig: Callable[[str, Facts], Awaitable[str]]
    connect: Callable[[Access], Cluster] = Cluster.connect

    @property
    def space(self) -> str:
        """The offloaded namespace."""
        return self.federation.namespace


class Passage:
    """One machine. `released`: whoever holds it may end it. `clear`: nothing of it is left in the home cluster."""

    def __init__(self, country: Country, handle: str, instance: str, model: str) -> None:
        self.handle, self.instance, self.model = handle, instance, model
        self.peer: PeerStatus | None = None
        self.peered = False
        self.failure: tuple[WakeFailure, str] | None = None
        self.detail: str | None = None
        """What is waited for, for people."""
        self.leaving_since: float | None = None
        """Monotonic."""
        self.released = False
        self.clear = False
        self.served: str | None = None
        """The pod that has answered, by uid."""
        self.let_go = False
        """Whoever holds the machine was told that it may end it."""
        self._country = country
        self._remote: Cluster | None = None
        self._began: float | None = None
        self._looked = float("-inf")
        self._log = _log.bind(pool=country.pool, handle=handle, instance=instance)

    @property
    def cluster(self) -> str:
        """The id of the machine's cluster."""
        return cluster_id(self.instance)

    @property
    def settled(self) -> bool:
        """Whether nothing of it is on its way."""
        return self.leaving_since is None and (self.served is not None or self.failure is not None)

    @property
    def brisk(self) -> bool:
        """Whether its next step is worth a look at once: what Liqo takes long to let go of is looked at calmly."""
        since = self.leaving_since
        return not self.settled and (since is None or self._country.clock.monotonic() - since < BRISK)

    def look(self, pod: PodView | None) -> None:
        """Note whether its pod has answered."""
        if pod is not None and pod.ready and self.served is None and not pod.leaving:
            self.served = pod.uid

    # --- in -----------------------------------------------------------------------------------------------------------------------------

    async def enter(self, facts: Facts, record: Record | None) -> None:
        """Whatever can be done now towards a pod that serves. What does not work yet is `detail`, what never will is `failure`."""
        if self.failure is not None or not facts.ready:
            return
        now = self._country.clock.monotonic()
        self._began = self._began if self._began is not None else now
        wanted = record is not None and record.wanted
        if self.peered and wanted and now - self._looked < AGAIN:
            return
        self._looked = now
        try:
            await self._enter(facts, record, wanted=wanted)
        except LamplighterError as error:
            self._log.debug("a machine cannot join the cluster yet", error=error.message)
            if not wanted:
                self._wait(error.advice, PeerStatus("network"))

    async def _enter(self, facts: Facts, record: Record | None, *, wanted: bool) -> None:
        country, home = self._country, self._country.home()
        opened = await country.liqo.open(home, country.space)
        if record is None:
            await self._note(home, facts)
        self.peer = await self._join(home, facts)
        self.peered = self.peer.ready
        if wanted:
            return  # what befalls it from now on its pod tells
        if self.peer.state == "failed":
            self._fail(self.peer)
        elif not self.peered:
            self._wait(self.peer.detail or self.peer.state, self.peer)
        elif (wrong := opened.twins.get(self.cluster)) != "":  # other machines' twins are not its business
            self._wait(
                wrong or f"Liqo makes the twin namespace {country.space} ({opened.phase or 'nothing said yet'})", self.peer
            )
        else:
            await home.patch_scale(DEPLOYMENT, names.workload_name(country.pool, self.handle), country.space, 1)
            self.detail = None
            self._log.info("a machine has joined the cluster", node=self.peer.node)

    def _wait(self, what: str, peer: PeerStatus) -> None:
        self.detail = what
        # Before the wake's own deadline, which would only say that it is over.
        limit = min(JOIN_LIMIT, float(self._country.config.boot_deadline) / 2)
        if self._began is not None and self._country.clock.monotonic() - self._began > limit:
            self._fail(peer, f"not within {limit:.0f} s: {what}")

    def _fail(self, peer: PeerStatus, what: str | None = None) -> None:
        sentence = f"{what or peer.detail or peer.reason or peer.state} {peer.next_step}".strip()
        self.failure = (WakeFailure.FEDERATION_FAILED, sentence)
        self._log.warning("a machine cannot join the cluster", reason=peer.reason, detail=sentence)

    async def _note(self, home: Cluster, facts: Facts) -> None:
        """Write the record: the workload, without its pod, and what the pod will read."""
        country = self._country
        config, container = country.duty.container(facts.model, facts.kind)
        await ensure_key(home, country.pool, country.space, country.installation)
        secret: str | None = None
        if config.hub_token is not None:
            token = resolve(config.hub_token, where=f"models.{facts.model}.hub_token")
            await home.apply(hub_secret(country.pool, token, namespace=country.space, installation=country.installation))
            secret = hub_secret_name(country.pool)
        share = country.duty.slice(facts.kind)
        given = settings(country.config, country.federation, facts.kind, share, self.cluster, secret)
        manifest = build(
            self.handle, facts.instance, facts.model, config, country.pool, given, container,
            namespace=country.space, installation=country.installation,
        )  # fmt: skip
        try:
            await home.create(manifest)
        except KubernetesError as error:
            if error.word != "AlreadyExists":
                raise

    async def _join(self, home: Cluster, facts: Facts) -> PeerStatus:
        federation = self._country.federation
        labels = {names.POOL: self._country.pool, names.INSTALLATION: self._country.installation}
        spec = PeerSpec(
            self.cluster,
            home_id=federation.cluster_id,
            mtu=federation.mtu,
            gateway_address=str(facts.overlay),
            gateway_port=federation.gateway_port,
            bidirectional=federation.bidirectional,
            labels=labels,
        ).with_slice(self._country.duty.slice(facts.kind))
        try:
            remote = await self._reach(facts)
        except ProviderError as error:
            return PeerStatus("network", reason="unreachable", detail=error.message, next_step=error.next_step)
        return await self._country.liqo.advance(home, remote, spec)

    async def _reach(self, facts: Facts) -> Cluster:
        """The machine's own cluster. Raises ProviderError."""
        if self._remote is None:
            text = await self._country.kubeconfig(self.handle, facts)
            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ProviderError(f"The machine {self.instance} gave a kubeconfig that is none.") from error
            if not isinstance(content, Mapping):
                raise ProviderError(f"The machine {self.instance} gave an empty kubeconfig.")
            self._remote = self._country.connect(Access(content=content))
        return self._remote

    # --- out ----------------------------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """From now on it is on its way out."""
        if self.leaving_since is None:
            self.leaving_since = self._country.clock.monotonic()

    @property
    def late(self) -> bool:
        """Whether its planned end took too long."""
        since = self.leaving_since
        return since is not None and self._country.clock.monotonic() - since > PART_LIMIT

    async def depart(self, facts: Facts | None, record: Record | None) -> None:
        """Whatever can be done now towards its end; `facts` None: the machine is gone. Raises ProviderError."""
        self.leave()
        living = facts is not None and facts.living
        self.released = self.released or self.late or not living
        home = self._country.home()
        if record is None:  # it may be so new that nobody has seen it
            found = await home.get_or_none(DEPLOYMENT, names.workload_name(self._country.pool, self.handle), self._country.space)
            record = read(found) if found is not None else None
        if record is None:
            self.clear = self.released = True
            return
        if record.wanted:
            await home.patch_scale(DEPLOYMENT, record.name, self._country.space, 0)
        if living:
            await self._part(home, facts, record)
        else:
            await self._lose(home, record)

    async def _part(self, home: Cluster, facts: Facts | None, record: Record) -> None:
        """With both clusters there: the pod ends in its own time, then Liqo takes the peering apart."""
        pods = await home.list(POD, self._country.space, labels={names.POOL: self._country.pool, REPLICA: record.handle})
        if pods:
            self.detail = "its pod ends"
            return
        remote: Cluster | None = None
        if facts is not None and facts.ready:
            try:
                remote = await self._reach(facts)
            except ProviderError as error:
                self._log.debug("a machine's cluster cannot be asked", error=error.message)
        await self._retreat(home, remote, record, planned=True)

    async def _lose(self, home: Cluster, record: Record) -> None:
        await self._retreat(home, None, record, planned=False)

    async def _retreat(self, home: Cluster, remote: Cluster | None, record: Record, *, planned: bool) -> None:
        federation = self._country.federation
        done = await self._country.liqo.retreat(home, remote, record.cluster, planned, federation.cluster_id)
        self.detail = "; ".join(done.remains[:3]) or None
        if done.done:
            await home.delete(DEPLOYMENT, record.name, self._country.space)
            self.clear = self.released = True
            self._log.info("a machine has left the cluster", planned=planned)

    async def close(self) -> None:
        """Let go of its cluster's connections."""
        if self._remote is not None:
            remote, self._remote = self._remote, None
            await asyncio.shield(remote.close())
