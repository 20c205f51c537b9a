"""What a pool's keeper shows on `/metrics` about its replicas and their engines' own queues."""

from collections import Counter
from collections.abc import Mapping, Sequence

from lamplighter.core.states import HOLDING, ReplicaState
from lamplighter.engines.base import Probe
from lamplighter.observability.metrics import Metrics
from lamplighter.store.replicas import Replica


class Gauges:
    """Those of the pool `name`."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self._name = name
        self._metrics = metrics
        self._told: set[str] = set()
        """Models whose engines ever told of their queues: they go back to zero, and do not vanish."""

    def measure(self, rows: Sequence[Replica], probes: Mapping[str, Probe], seconds: float) -> None:
        """After a round of `seconds`. `probes`: by replica, the newest."""
        counts = Counter(row.state for row in rows)
        for state in HOLDING:
            self._metrics.replicas.labels(self._name, state.value).set(counts.get(state, 0))
        self._metrics.keeper_step_seconds.labels().observe(seconds)
        told: dict[str, list[Probe]] = {}
        for row in rows:
            probe = probes.get(row.id)
            if probe is not None and probe.running is not None and row.models and row.state is ReplicaState.READY:
                told.setdefault(row.models[0], []).append(probe)
        self._told |= told.keys()
        for model in self._told:
            some = told.get(model, [])
            self._metrics.engine_requests.labels(self._name, model, "running").set(sum(probe.running or 0 for probe in some))
            self._metrics.engine_requests.labels(self._name, model, "waiting").set(sum(probe.waiting or 0 for probe in some))
            self._metrics.engine_cache.labels(self._name, model).set(max((probe.cache or 0.0 for probe in some), default=0.0))
