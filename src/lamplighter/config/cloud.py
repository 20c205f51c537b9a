"""Settings of what is built in AWS beside the pools themselves: network, alarms, lighthouse. One stack for each name and region that pools use.

Not responsible for building it: `lamplighter cloud` and the Terraform module do.
"""

from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from lamplighter.config.mesh import Network, NodeName
from lamplighter.config.pools import InstanceType
from lamplighter.config.section import Section
from lamplighter.config.types import Span
from lamplighter.core.units import Duration

Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[\w\s+\-=.:/@]{1,128}$")]


class LighthouseInstance(Section):
    """A small machine in AWS that is a lighthouse of the mesh."""

    name: NodeName = Field(description="Which of `mesh.lighthouses` it is.")
    instance_type: InstanceType = Field("t4g.nano", description="Its type; the smallest is enough.")


class CloudConfig(Section):
    """What `lamplighter cloud apply` builds for each stack."""

    alerts: tuple[Email, ...] = Field(
        (), strict=False, max_length=10, description="E-mail addresses that AWS tells of budgets and alarms."
    )
    monthly_budgets: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(
        (50, 100, 200), strict=False, max_length=5, description="Amounts in USD a month at which AWS itself sends a warning."
    )
    vpc_network: Network = Field(IPv4Network("10.78.0.0/16"), description="Addresses of the stack's own network.")
    private_subnet: bool = Field(
        False, description="Put nodes into a private subnet behind a NAT gateway, which costs about 35 USD a month."
    )
    vpc_endpoints: bool = Field(False, description="Reach AWS's services by VPC endpoints, about 8 USD a month each.")
    lighthouse: LighthouseInstance | None = Field(None, description="Also run a lighthouse in AWS; default: none there.")
    registry: bool = Field(False, description="Also make an ECR repository for engine images of your own.")
    backups: bool = Field(True, description="Also make a place for backups in the stack's bucket, with a lifecycle.")
    dead_man_every: Span = Field(
        Duration(300), description="How often AWS itself sets a group to zero that nobody has renewed; whole minutes."
    )
    engine: Literal["terraform", "tofu"] | None = Field(
        None, description="The program that builds it; default: `terraform` if it is there, else `tofu`."
    )
    tags: dict[Tag, Tag] = Field({}, description="Further tags of everything that is made.")


__all__ = ["CloudConfig", "LighthouseInstance"]
