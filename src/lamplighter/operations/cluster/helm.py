"""Helm, inside this process: the few verbs that are needed, in our words. Its library (244 MB) is an extra, and loaded when first used.

Each release of ours carries three labels: its part, the chart's version, and a digest of what it was made of. By them it is known again, and
whether anything would change. Not responsible for which releases there should be (`plan`).
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from lamplighter.operations.cluster.errors import ClusterError, NoHelm
from lamplighter.operations.cluster.parts import Chart, Part, shipped_chart
from lamplighter.providers.kubernetes.access import Access

if TYPE_CHECKING:
    import helm_python

PART, DIGEST = "lamplighter.dev/part", "lamplighter.dev/digest"
"""Labels of a release's record."""
TIMEOUT = 900
"""Seconds for one part, its images' download included."""
HISTORY = 5
_SAID = 1200
_UNREACHABLE = ("chart repository", "failed to do request", "no such host")
_OFFLINE = (
    "Charts are downloaded from where their projects publish them; without the internet, give a folder with them: --charts."
)


@dataclass(frozen=True, slots=True)
class Release:
    """One release as Helm keeps it. `part`: of ours, which; `digest`: of what it was made of."""

    name: str
    namespace: str
    revision: int
    status: str
    chart: str
    version: str
    part: str | None = None
    digest: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class HelmFailed(ClusterError):
    """Helm's own words."""

    code = "helm_failed"


class Releases(Protocol):
    """What running a plan needs. Every method may raise HelmFailed; each call waits until it is done."""

    def list(self) -> Sequence[Release]:
        """All of the cluster, in whatever state."""
        ...

    def install(self, part: Part, values: Mapping[str, Any], digest: str) -> None:
        """Make the part's release and wait for its workloads."""
        ...

    def upgrade(self, part: Part, values: Mapping[str, Any], digest: str) -> None:
        """Bring the part's release to this chart and these values, and wait for its workloads."""
        ...

    def roll_back(self, part: Part) -> None:
        """Bring it to the last revision that worked."""
        ...

    def uninstall(self, part: Part) -> None:
        """Remove it and wait until its workloads are gone."""
        ...

    def stop(self) -> None:
        """End the installation or upgrade that is under way in another thread: its call then raises HelmFailed, soon."""
        ...


class Helm:
    """`Releases` by Helm's library. `charts`: a folder with the charts, for clusters without the internet; None: their own repositories."""

    def __init__(self, access: Access, charts: Path | None = None, timeout: int = TIMEOUT) -> None:
        self._library = _load()
        self._access = access
        self._charts = charts
        self._timeout = timeout
        self._under_way: helm_python.HelmContext | None = None

    def stop(self) -> None:
        if (context := self._under_way) is not None:
            context.cancel()

    def list(self) -> Sequence[Release]:
        with self._config("default") as config:
            found = self._ask(lambda: config.list(all_namespaces=True, all_states=True))
        return [_release(one) for one in found]

    def install(self, part: Part, values: Mapping[str, Any], digest: str) -> None:
        with self._config(part.namespace) as config, self._stoppable() as context:
            self._ask(
                lambda: config.install(
                    self._chart(part.chart), part.release, dict(values), context=context, wait="watcher", timeout=self._timeout,
                    **self._told(part, digest), **self._source(part.chart),
                )
            )  # fmt: skip

    def upgrade(self, part: Part, values: Mapping[str, Any], digest: str) -> None:
        with self._config(part.namespace) as config, self._stoppable() as context:
            self._ask(
                lambda: config.upgrade(
                    self._chart(part.chart), part.release, dict(values), context=context, wait="watcher", timeout=self._timeout,
                    reset_values=True, max_history=HISTORY, **self._told(part, digest), **self._source(part.chart),
                )
            )  # fmt: skip

    def roll_back(self, part: Part) -> None:
        with self._config(part.namespace) as config:
            self._ask(lambda: config.rollback(part.release, wait="watcher", timeout=self._timeout))

    def uninstall(self, part: Part) -> None:
        with self._config(part.namespace) as config:
            self._ask(lambda: config.uninstall(part.release, ignore_not_found=True, wait="watcher", timeout=self._timeout))

    @contextlib.contextmanager
    def _stoppable(self) -> "Iterator[helm_python.HelmContext]":
        with self._library.HelmContext() as context:
            self._under_way = context
            try:
                yield context
            finally:
                self._under_way = None

    def _config(self, namespace: str) -> "helm_python.Config":
        access = self._access
        given: dict[str, Any] = {}
        if access.content is not None:
            given["kubeconfig_content"] = yaml.safe_dump(json.loads(json.dumps(access.content)))
        elif access.kubeconfig is not None:
            given["kubeconfig_path"] = access.kubeconfig
        if access.context is not None:
            given["kube_context"] = access.context
        config: helm_python.Config = self._library.Config(namespace=namespace, **given)
        return config

    def _chart(self, chart: Chart) -> str:
        if self._charts is not None:
            for name in (f"{chart.name}-{chart.version}.tgz", f"{chart.name}-{chart.version.removeprefix('v')}.tgz", chart.name):
                if (self._charts / name).exists():
                    return str(self._charts / name)
            raise HelmFailed(
                f"{self._charts} has no chart {chart.name} {chart.version}",
                next_step=f"On a machine with the internet: helm pull {_pulled(chart)} --version {chart.version}; copy the file there.",
            )
        if not chart.repository:
            return str(shipped_chart())
        return chart.reference if chart.repository.startswith("oci://") else chart.name

    def _source(self, chart: Chart) -> dict[str, Any]:
        if self._charts is not None or not chart.repository:
            return {}
        if chart.repository.startswith("oci://"):
            return {"chart_version": chart.version}
        return {"chart_version": chart.version, "chart_repo_url": chart.repository}

    @staticmethod
    def _told(part: Part, digest: str) -> dict[str, Any]:
        return {"labels": {PART: part.name, DIGEST: digest}, "description": "lamplighter cluster"}

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (self._library.HelmRepoError, self._library.HelmRegistryError) as error:
            raise HelmFailed(str(error)[:_SAID], next_step=_OFFLINE) from error
        except self._library.HelmError as error:
            unreachable = any(sign in str(error) for sign in _UNREACHABLE)
            raise HelmFailed(str(error)[:_SAID], next_step=_OFFLINE if unreachable else "") from error


def _load() -> Any:
    """The library. Raises NoHelm with the command that brings it."""
    try:
        import helm_python
    except ImportError as error:
        raise NoHelm(
            "Helm is not installed here: it is an extra of Lamplighter, because it takes 244 MB",
            next_step="pip install 'lamplighter[cluster]'",
        ) from error
    return helm_python


def _release(told: Mapping[str, Any]) -> Release:
    labels = {str(name): str(value) for name, value in (told.get("labels") or {}).items()}
    return Release(
        name=str(told["name"]),
        namespace=str(told["namespace"]),
        revision=int(told["revision"]),
        status=str(told["status"]),
        chart=str(told.get("chart_name", "")),
        version=str(told.get("chart_version", "")),
        part=labels.get(PART),
        digest=labels.get(DIGEST),
        labels=labels,
    )


def _pulled(chart: Chart) -> str:
    if not chart.repository:
        return f"oci://ghcr.io/lamplighter/charts/{chart.name}"
    return chart.reference if chart.repository.startswith("oci://") else f"{chart.name} --repo {chart.repository}"
