"""Which stacks a configuration asks for, and what each one's Terraform module is told. Pure.

A stack is everything of one name in one region: network, groups, queues, bucket. Pools that name the same stack and region share it.
Not responsible for files or processes: `workspace` writes what is decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamplighter.config import AwsPool, Config
from lamplighter.operations.cloud.errors import CloudError

_DEAD_MAN_MINUTES = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)


@dataclass(frozen=True, slots=True)
class Stack:
    """One name in one region, with the pools that live in it."""

    name: str
    region: str
    pools: Mapping[str, AwsPool]

    @property
    def title(self) -> str:
        """For people: `lamplighter in eu-central-1`."""
        return f"{self.name} in {self.region}"

    def group(self, pool: str, market: str) -> str:
        """The name of one Auto Scaling group; `market`: `spot` or `on-demand`."""
        return f"{self.name}-{pool}-{market}"

    @property
    def groups(self) -> tuple[str, ...]:
        """All its groups, by name."""
        return tuple(self.group(pool, market) for pool in self.pools for market in ("spot", "on-demand"))


def stacks(config: Config) -> tuple[Stack, ...]:
    """Every stack of the configuration, in the order in which its first pool is written."""
    found: dict[tuple[str, str], dict[str, AwsPool]] = {}
    for name, pool in config.pools.items():
        if isinstance(pool, AwsPool):
            found.setdefault((pool.stack, pool.region), {})[name] = pool
    return tuple(Stack(name, region, pools) for (name, region), pools in found.items())


def select(config: Config, wanted: str | None) -> tuple[Stack, ...]:
    """Those that are called `wanted` (`NAME` or `NAME/REGION`), else all. Raises CloudError when there is none."""
    every = stacks(config)
    if not every:
        raise CloudError(
            "the configuration has no pool of kind aws, so there is nothing to build",
            next_step="Add one to lamplighter.yaml: `pools: {spot: {kind: aws, region: eu-central-1}}`; docs/guides/cloud.md begins there.",
        )
    if wanted is None:
        return every
    name, _, region = wanted.partition("/")
    chosen = tuple(stack for stack in every if stack.name == name and region in ("", stack.region))
    if not chosen:
        there = ", ".join(f"{stack.name}/{stack.region}" for stack in every)
        raise CloudError(f"no pool names the stack {wanted!r}", next_step=f"There is: {there}.")
    return chosen


def find_pool(config: Config, wanted: str | None) -> tuple[Stack, str]:
    """The stack and name of one aws pool: `wanted`, or the only one. Raises CloudError."""
    every = {pool: stack for stack in select(config, None) for pool in stack.pools}
    if wanted is None and len(every) > 1:
        raise CloudError("there is more than one pool of kind aws", next_step=f"Name one: {', '.join(every)}.")
    name = wanted if wanted is not None else next(iter(every))
    if name not in every:
        raise CloudError(f"there is no pool of kind aws named {name!r}", next_step=f"There is: {', '.join(every)}.")
    return every[name], name


def variables(
    config: Config, stack: Stack, installation: str, *, images: Mapping[str, str], lighthouse_data: str | None
) -> dict[str, Any]:
    """The module's variables.

    `images`: the newest baked image of each pool that wants one. `lighthouse_data`: user data of the lighthouse's machine; needed only in the
    first stack of a configuration with `cloud.lighthouse`, which is where that machine runs. Raises CloudError when it is missing.
    """
    cloud, mesh = config.cloud, config.mesh
    minutes = float(cloud.dead_man_every) / 60
    if minutes not in _DEAD_MAN_MINUTES:
        raise CloudError(
            f"cloud.dead_man_every is {cloud.dead_man_every}; AWS repeats an action at minutes that divide an hour",
            next_step=f"Write 5m, or another of {', '.join(f'{one}m' for one in _DEAD_MAN_MINUTES)}.",
        )
    return {
        "stack": stack.name,
        "installation": installation,
        "region": stack.region,
        "pools": {name: _pool(pool, images.get(name)) for name, pool in stack.pools.items()},
        "vpc_cidr": str(cloud.vpc_network),
        "private_subnet": cloud.private_subnet,
        "vpc_endpoints": cloud.vpc_endpoints,
        "alerts": list(cloud.alerts),
        "monthly_budgets": list(cloud.monthly_budgets),
        "lighthouse": _lighthouse(config, stack, lighthouse_data),
        "registry": cloud.registry,
        "backups": cloud.backups,
        "dead_man_minutes": int(minutes),
        "mesh_port": mesh.port,
        "tags": dict(cloud.tags),
    }


def _pool(pool: AwsPool, baked: str | None) -> dict[str, Any]:
    return {
        "instance_types": list(pool.instance_types),
        "zones": list(pool.zones),
        "max": pool.max_replicas + 1,  # the one that replaces another runs beside it for a while
        "allocation": pool.allocation,
        # Before anything was baked there is nothing that a launch template could name.
        "image": "stock" if pool.image == "baked" and not baked else pool.image,
        "disk_gb": pool.disk_gb,
        "model_storage": {"kind": pool.model_storage.kind, "size_gb": pool.model_storage.size_gb},
        "boot_deadline": int(pool.boot_deadline),
        "lease": int(pool.lease),
        "drain": int(pool.drain),
        "max_price": str(pool.max_price.money.amount) if pool.max_price is not None else None,
    }


def wants_lighthouse(config: Config, stack: Stack) -> bool:
    """Whether the lighthouse's machine belongs to this stack: to the first one, so that there is one in all."""
    return config.cloud.lighthouse is not None and stacks(config)[0].groups == stack.groups


def _lighthouse(config: Config, stack: Stack, user_data: str | None) -> dict[str, Any] | None:
    light = config.cloud.lighthouse
    if light is None or not wants_lighthouse(config, stack):
        return None
    if user_data is None:
        raise CloudError(
            f"the lighthouse {light.name} has no certificate yet, so its machine cannot be made",
            next_step=f"Run `lamplighter mesh sign {light.name} --kind lighthouse` first; docs/guides/mesh-authority.md says how.",
        )
    return {"name": light.name, "instance_type": light.instance_type, "user_data": user_data}
