"""What Terraform built, as the stack itself tells it: the parameter `/<stack>/manifest`. The keeper knows a stack by nothing else.

Not responsible for what stands in the account beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamplighter.core.clock import Clock
from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.client import APPLY, Aws, AwsError

VERSION = 1
SPOT, ON_DEMAND = "spot", "on-demand"
KEEP_FOR = 300.0
"""Seconds for which a manifest is not read again; a stack changes when somebody applies it."""


@dataclass(frozen=True, slots=True)
class PoolManifest:
    """One pool of a stack. `groups`: the Auto Scaling group of each market. `maximum`: instances of one group at the most. Seconds."""

    groups: Mapping[str, str]
    instance_types: tuple[str, ...]
    zones: tuple[str, ...]
    maximum: int
    boot_deadline: float
    lease: float
    drain: float
    image: str = "stock"
    volume: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A stack, as far as a keeper needs to know it. `lighthouse`: name and public `host:port` of the one that it runs, if it does."""

    stack: str
    installation: str
    region: str
    account: str
    bucket: str
    nodes_queue: str
    events_queue: str
    node_role: str
    hub_token_secret: str
    lighthouse: tuple[str, str] | None = None
    pools: Mapping[str, PoolManifest] = field(default_factory=dict)

    def sender(self, instance: str) -> str:
        """What AWS writes as the sender of a message that comes from `instance`; also the instance's folder in the bucket."""
        return f"{self.node_role}:{instance}"


def parse(text: str, *, stack: str, installation: str) -> Manifest:
    """Raises ProviderError when it is of another installation, of a version that we do not know, or damaged."""
    try:
        raw = json.loads(text)
        version = raw["version"]
        if version != VERSION:
            raise ProviderError(
                f"The stack {stack!r} was made by another version of Lamplighter (its manifest has version {version}).",
                next_step=APPLY,
            )
        if raw["installation"] != installation:
            raise ProviderError(
                f"The stack {stack!r} belongs to another installation ({raw['installation']}), and is not touched.",
                next_step="Give this installation's pools a `stack` name of their own, and run `lamplighter cloud apply`.",
            )
        light = raw.get("lighthouse")
        return Manifest(
            stack=str(raw["stack"]),
            installation=str(raw["installation"]),
            region=str(raw["region"]),
            account=str(raw["account"]),
            bucket=str(raw["bucket"]),
            nodes_queue=str(raw["nodes_queue_url"]),
            events_queue=str(raw["events_queue_url"]),
            node_role=str(raw["node_role_id"]),
            hub_token_secret=str(raw["hub_token_secret"]),
            lighthouse=(str(light["name"]), str(light["address"])) if light else None,
            pools={name: _pool(pool) for name, pool in raw["pools"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProviderError(
            f"The manifest of the stack {stack!r} cannot be read: {type(error).__name__} {error}.", next_step=APPLY
        ) from error


def _pool(raw: Mapping[str, Any]) -> PoolManifest:
    storage = raw.get("model_storage") or {}
    return PoolManifest(
        groups={market: str(raw["groups"][market]) for market in (SPOT, ON_DEMAND)},
        instance_types=tuple(map(str, raw["instance_types"])),
        zones=tuple(map(str, raw.get("zones") or ())),
        maximum=int(raw["max"]),
        boot_deadline=float(raw["boot_deadline"]),
        lease=float(raw["lease"]),
        drain=float(raw["drain"]),
        image=str(raw.get("image") or "stock"),
        volume=storage.get("volume_id"),
    )


class Manifests:
    """Reads the manifest of one stack, and keeps it for a while."""

    def __init__(self, aws: Aws, stack: str, installation: str, clock: Clock) -> None:
        self._aws = aws
        self._stack = stack
        self._installation = installation
        self._clock = clock
        self._known: Manifest | None = None
        self._read_at = float("-inf")

    async def get(self) -> Manifest:
        """Raises ProviderError, also when there is no such stack."""
        if self._known is not None and self._clock.monotonic() - self._read_at < KEEP_FOR:
            return self._known
        try:
            answer = await self._aws.call("ssm", "get_parameter", Name=f"/{self._stack}/manifest")
        except AwsError as error:
            if error.aws_code == "ParameterNotFound":
                raise ProviderError(f"There is no stack {self._stack!r} in {self._aws.region}.", next_step=APPLY) from error
            if self._known is not None:
                return self._known  # AWS is away: what was true minutes ago is better than nothing
            raise
        self._known = parse(answer["Parameter"]["Value"], stack=self._stack, installation=self._installation)
        self._read_at = self._clock.monotonic()
        return self._known

    async def pool(self, name: str) -> tuple[Manifest, PoolManifest]:
        """The stack, and one pool of it. Raises ProviderError."""
        manifest = await self.get()
        pool = manifest.pools.get(name)
        if pool is None:
            self._read_at = float("-inf")  # whoever applies it now is seen at the next look
            raise ProviderError(f"The stack {self._stack!r} in {self._aws.region} has no pool {name!r}.", next_step=APPLY)
        return manifest, pool
