"""Settings of the Nebula mesh. Certificates and keys are made by `lamplighter mesh`; nothing secret stands here.

Not responsible for what the settings become: that is the package `mesh`.
"""

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Self

from pydantic import Field, PlainSerializer, PlainValidator, StringConstraints, WithJsonSchema, model_validator

from lamplighter.config.pools import CommandLine, SecretRef
from lamplighter.config.section import Section
from lamplighter.config.types import Span
from lamplighter.core.units import Duration


def _network(value: object) -> IPv4Network:
    if isinstance(value, IPv4Network):
        return value
    if not isinstance(value, str):
        raise ValueError("write a network such as 10.77.0.0/16")  # noqa: TRY004 - pydantic reports ValueErrors
    return IPv4Network(value)


def _address(value: object) -> IPv4Address:
    if isinstance(value, IPv4Address):
        return value
    if not isinstance(value, str):
        raise ValueError("write an address such as 10.77.0.1")  # noqa: TRY004 - pydantic reports ValueErrors
    return IPv4Address(value)


_text = PlainSerializer(str, return_type=str)
Network = Annotated[
    IPv4Network, PlainValidator(_network), _text, WithJsonSchema({"type": "string", "examples": ["10.77.0.0/16"]})
]
Address = Annotated[IPv4Address, PlainValidator(_address), _text, WithJsonSchema({"type": "string", "examples": ["10.77.0.1"]})]
Underlay = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):\d{1,5}$")]
NodeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Lighthouse(Section):
    """One lighthouse: a node with a fixed public address, which tells the others where they are."""

    name: NodeName = Field(description="Its name, which is also its certificate's.")
    overlay: Address = Field(description="Its address inside the mesh.")
    addresses: tuple[Underlay, ...] = Field(
        (),
        strict=False,
        max_length=8,
        description="Where it is reached from outside, as `host:port`. Empty for the one in AWS: the stack knows it.",
    )


class MeshConfig(Section):
    """The Nebula mesh between home and the cloud. Without lighthouses there is none."""

    network: Network = Field(
        IPv4Network("10.77.0.0/16"),
        description="All addresses of the mesh. The default collides with none of the usual defaults of home networks, AWS, k3s or Tailscale.",
    )
    nodes: Network = Field(
        IPv4Network("10.77.128.0/17"),
        description="The part from which cloud nodes get addresses; cloud nodes are certified for no other.",
    )
    home: Address = Field(IPv4Address("10.77.0.10"), description="Address of the machine on which Lamplighter runs.")
    lighthouses: tuple[Lighthouse, ...] = Field(
        (), strict=False, max_length=8, description="The lighthouses; two are better than one."
    )
    port: int = Field(
        4242, ge=1, le=65535, description="UDP port of lighthouses and of machines that can be reached from outside."
    )
    mtu: int = Field(
        1300, ge=576, le=8900, description="MTU of the mesh's interface. WireGuard inside of it (Liqo) needs 60 bytes less: 1240."
    )
    interface: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,14}$")] = Field(
        "nebula1", description="Name of the mesh's network interface."
    )
    certificate_version: int = Field(
        1,
        ge=1,
        le=2,
        description="Version of the certificates. 2 only where every node runs Nebula 1.10 or newer: older ones refuse to start.",
    )
    node_certificate: Span = Field(
        Duration(86_400), description="How long a cloud node's certificate is valid; it is renewed at half of that."
    )
    passphrase: SecretRef | None = Field(
        None,
        description="Reference to the passphrase of the online authority's key, which the keeper uses: `env:NAME` or `file:PATH`.",
    )
    offline_passphrase: CommandLine | None = Field(
        None,
        description="A command that prints the passphrase of the offline authority, such as `op read op://Home/nebula/passphrase`; default: asked for.",
    )
    publish: str | None = Field(
        None,
        min_length=1,
        description="Folder of this machine's Nebula for bundle and blocklist, such as /etc/nebula; default: the data folder's `mesh/published`.",
    )
    reload: CommandLine | None = Field(
        None,
        description="A command that makes this machine's Nebula read them again, such as `systemctl reload nebula`; default: a systemd path unit does it.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.nodes.subnet_of(self.network):
            raise ValueError(f"nodes: {self.nodes} is not a part of the network {self.network}")
        for what, address in (("home", self.home), *((f"lighthouses: {one.name}", one.overlay) for one in self.lighthouses)):
            if address not in self.network:
                raise ValueError(f"{what}: {address} is not in the network {self.network}")
            if address in self.nodes:
                raise ValueError(f"{what}: {address} is in {self.nodes}, where cloud nodes get theirs")
        # The home machine may be a lighthouse itself; two lighthouses are never one.
        for what, values in (
            ("name", [one.name for one in self.lighthouses]),
            ("address", [one.overlay for one in self.lighthouses]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"lighthouses: two have the same {what}")
        return self


__all__ = ["Address", "Lighthouse", "MeshConfig", "Network", "NodeName"]
