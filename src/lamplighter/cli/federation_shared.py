"""What the federation's commands share: options, the clusters that they speak to, and the question before what cannot be undone."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

import typer

from lamplighter.cli.config import read
from lamplighter.cli.invocation import Invocation, of
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.config import Config
    from lamplighter.providers.kubernetes.access import Access
    from lamplighter.providers.kubernetes.client import Cluster

T = TypeVar("T")
ClusterArgument = Annotated[str, typer.Argument(metavar="ID", help="The other cluster's id, as its Liqo was installed with.")]
KubeconfigOption = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="The other cluster's kubeconfig; default: none, only home.")
]
ContextOption = Annotated[str | None, typer.Option("--context", metavar="NAME", help="A context of that kubeconfig.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="Its node's address in the mesh; default: its API server's.")
]
LimitOption = Annotated[float, typer.Option("--limit", min=1, metavar="SECONDS", help="How long to wait.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dataclass(frozen=True, slots=True)
class Desk:
    """One command's invocation and configuration."""

    invocation: Invocation
    config: "Config"

    @classmethod
    def at(cls, context: typer.Context, named: Path | None) -> Self:
        """Of a command. Raises ConfigError."""
        invocation = of(context)
        return cls(invocation, read(invocation, named)[0])

    def access(self, kubeconfig: Path | None, context: str | None) -> "Access":
        """The cluster of a kubeconfig; without one the home cluster, as configured."""
        from lamplighter.providers.kubernetes.access import Access

        if kubeconfig is not None:
            return Access(context=context, kubeconfig=kubeconfig.expanduser())
        config = self.config.federation
        return Access(context=config.context, kubeconfig=Path(config.kubeconfig).expanduser() if config.kubeconfig else None)

    @asynccontextmanager
    async def cluster(self, kubeconfig: Path | None, context: str | None) -> "AsyncGenerator[Cluster]":
        """A client of `access`. Raises ProviderError."""
        from lamplighter.providers.kubernetes.client import Cluster

        cluster = Cluster.connect(self.access(kubeconfig, context))
        try:
            yield cluster
        finally:
            await cluster.close()

    @asynccontextmanager
    async def cluster_or_none(self, kubeconfig: Path | None, context: str | None) -> "AsyncGenerator[Cluster | None]":
        """The same; None without a kubeconfig."""
        if kubeconfig is None:
            yield None
            return
        async with self.cluster(kubeconfig, context) as cluster:
            yield cluster

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it, to its end. Ctrl-C cancels it and lets it clean up."""
        return asyncio.run(work)

    def ask(self, yes: bool, question: str, *, what: str) -> None:
        """Go on only when a person says yes, or said `--yes`."""
        from lamplighter.operations.cluster.errors import Refused

        if yes:
            return
        if self.invocation.json or not sys.stdin.isatty():
            raise Refused(f"{what} was not confirmed", next_step="Add --yes.")
        if not typer.confirm(question, default=False, err=True):
            raise Refused("nothing was done: you said no")

    def in_mesh(self, address: str | None, server: str) -> str:
        """The address to which the tunnel goes: as given, else the API server's own; it must lie in the mesh. Raises LamplighterError."""
        mesh = self.config.mesh.network
        text = address or urlsplit(server).hostname or ""
        try:
            if ip_address(text) in mesh:
                return text
        except ValueError:
            pass
        if address is not None:
            raise LamplighterError(
                f"{address} does not lie in the mesh ({mesh}): the tunnel would go around it",
                next_step="Give the node's address in the mesh; `lamplighter mesh list` shows it.",
            )
        raise LamplighterError(
            f"the kubeconfig leads to {text or 'nowhere'}, which does not lie in the mesh ({mesh})",
            next_step="Give the node's address in the mesh with --address.",
        )
