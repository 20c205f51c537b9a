"""What the home cluster holds of one pool's machines: their records and their pods. Read as a whole, as often as somebody wants to know.

Not responsible for what follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lamplighter.core.errors import ProviderError
from lamplighter.federation.node_passage import Country, Passage
from lamplighter.federation.node_pod import PodView, crashing, view
from lamplighter.federation.node_workload import REPLICA, Record, read, selected
from lamplighter.providers.kubernetes.applying import key_of
from lamplighter.providers.kubernetes.client import Cluster
from lamplighter.providers.kubernetes.errors import KubernetesError
from lamplighter.providers.kubernetes.kinds import DEPLOYMENT, EVENT, POD, SECRET, Manifest
from lamplighter.providers.kubernetes.names import key_secret
from lamplighter.providers.kubernetes.reading import Event, created, deleting, event, meta, name, subject, true, uid
from lamplighter.providers.kubernetes.workload import CONTAINER

_LOG_LINES = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """By handle. `key`: which the pool's engines demand."""

    records: Mapping[str, Record] = field(default_factory=dict)
    pods: Mapping[str, PodView] = field(default_factory=dict)
    key: str | None = field(default=None, repr=False)

    def pod(self, handle: str) -> PodView | None:
        """The pod of a machine."""
        return self.pods.get(handle)


class Sight:
    """Of one pool."""

    def __init__(self, country: Country) -> None:
        self.seen: Seen | None = None
        self._at = float("-inf")
        self._error: ProviderError | None = None
        self._key: str | None = None
        self._country = country

    def fresh(self, most: float) -> Seen:
        """What was seen last. Raises ProviderError when that is older than `most` seconds."""
        if self.seen is None or self._country.clock.monotonic() - self._at > most:
            raise self._error or ProviderError("The home cluster has not answered for a minute.")
        return self.seen

    async def look(self, passages: Mapping[str, Passage]) -> Seen:
        """Look. Raises ProviderError."""
        try:
            home = self._country.home()
            self.seen = await self._look(home, passages)
        except ProviderError as error:
            self._error = error
            raise
        self._at = self._country.clock.monotonic()
        return self.seen

    async def _look(self, home: Cluster, passages: Mapping[str, Passage]) -> Seen:
        country = self._country
        chosen = selected(country.pool, country.installation)
        records = {
            record.handle: record
            for record in map(read, await home.list(DEPLOYMENT, country.space, labels=chosen))
            if record is not None
        }
        if not records:
            return Seen()
        newest: dict[str, Manifest] = {}
        for pod in await home.list(POD, country.space, labels=chosen):
            handle = str((meta(pod).get("labels") or {}).get(REPLICA))
            other = newest.get(handle)
            if other is None or (not deleting(pod), created(pod)) > (not deleting(other), created(other)):
                newest[handle] = pod
        events = await self._events(home) if any(not true(pod, "Ready") for pod in newest.values()) else {}
        now = country.clock.time()
        pods = {}
        for handle, pod in newest.items():
            served = handle in passages and passages[handle].served == uid(pod)
            log = await self._log(home, pod) if crashing(pod) and not served else ""
            pods[handle] = view(pod, events.get(uid(pod), ()), now, log=log, was_ready=served)
        return Seen(records, pods, await self._engine_key(home))

    async def _engine_key(self, home: Cluster) -> str | None:
        if self._key is None:
            found = await home.get_or_none(SECRET, key_secret(self._country.pool), self._country.space)
            self._key = key_of(found) if found is not None else None
        return self._key

    async def _events(self, home: Cluster) -> Mapping[str, Sequence[Event]]:
        found: dict[str, list[Event]] = {}
        for one in await home.list(EVENT, self._country.space, fields={"involvedObject.kind": "Pod"}):
            found.setdefault(subject(one)[2], []).append(event(one))
        return found

    async def _log(self, home: Cluster, pod: Manifest) -> str:
        try:
            return await home.logs(name(pod), self._country.space, container=CONTAINER, tail=_LOG_LINES, previous=True)
        except KubernetesError:
            return ""  # a node that does not give it; the container's last message has to do
