"""Nebula's whole `config.yml` for each kind of node: lighthouse, home, gpu, laptop.

Every node trusts the same bundle, knows all lighthouses and may use them as relays when no direct path opens. Not responsible for
certificates (`authority`), nor for what starts Nebula (`units`, `container`, `kubernetes`, `talos`, `lighthouse`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from lamplighter.config.mesh import Lighthouse, MeshConfig
from lamplighter.core.errors import ConfigError
from lamplighter.mesh import firewall
from lamplighter.mesh.firewall import ENGINES, GATEWAY, Kind

FOLDER = "/etc/nebula"
"""Where a node's Nebula has its files: config.yml, ca.crt, node.crt, node.key, and blocklist.yml where it is a file of its own."""

WIREGUARD_OVERHEAD = 60
"""Bytes that WireGuard adds to a packet over IPv4: IP 20, UDP 8, its own header and tag 32."""
LIQO_MTU = 1240
"""MTU that both Liqo gateways are told; WireGuard with more inside of the mesh loses every full packet: pings pass, tokens hang."""

_REPORT_EVERY = 10
"""Seconds between a node's reports to the lighthouses: how soon they know a node's new address."""

_ASK_AFTER, _DROP_AFTER = 2, 3
"""Seconds without an answer until a tunnel is tested, and from then until it is given up. Nebula's own 5 and 10 leave home talking for a quarter
of a minute to where a spot node was; they also are how long a revoked node may go on."""

# Addresses of these lead nowhere from outside; without this each of a Kubernetes node's bridges would be tried in every handshake.
_INTERNAL = (
    "docker.*",
    "br-.*",
    "cni.*",
    "flannel.*",
    "cali.*",
    "cilium.*",
    "lxc.*",
    "veth.*",
    "liqo.*",
    "kube-.*",
    "virbr.*",
    "tailscale.*",
)


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the mesh.

    `kind` decides firewall and behaviour. `lighthouse`: it also is a lighthouse, as home may be. `engine_ports`, `gateway_port` and `ssh`
    open what `firewall.inbound` says.
    """

    kind: Kind
    lighthouse: bool = False
    engine_ports: Sequence[int] = ENGINES
    gateway_port: int = GATEWAY
    ssh: bool = False

    @property
    def reachable(self) -> bool:
        """Whether its UDP port is the one of the mesh, so that a router or a security group can let it through."""
        return self.kind != "laptop"

    @property
    def finds(self) -> bool:
        """Whether it is a lighthouse, of its own or beside what else it is."""
        return self.lighthouse or self.kind == "lighthouse"


def gpu_config(
    config: MeshConfig,
    *,
    lighthouse_addresses: Mapping[str, Sequence[str]],
    blocklist: Sequence[str],
    engine_ports: Sequence[int] = ENGINES,
) -> str:
    """The `config.yml` of a cloud node; its keys and certificates lie in /etc/nebula. Raises ConfigError as `render` does."""
    return render(
        Node("gpu", engine_ports=tuple(engine_ports)), config, lighthouse_addresses=lighthouse_addresses, blocklist=blocklist
    )


def render(
    node: Node,
    config: MeshConfig,
    *,
    lighthouse_addresses: Mapping[str, Sequence[str]],
    blocklist: Sequence[str] = (),
    folder: str = FOLDER,
) -> str:
    """The `config.yml` of `node`.

    `lighthouse_addresses`: by the lighthouse's name, `host:port`, as far as the configuration does not say it (the one in AWS). `blocklist`:
    fingerprints of revoked certificates. `folder`: where the node has its files. Raises ConfigError where no lighthouse could be reached.
    """
    return f"# Made by `lamplighter mesh render {node.kind}`.\n" + yaml.safe_dump(
        settings(node, config, lighthouse_addresses=lighthouse_addresses, blocklist=blocklist, folder=folder),
        sort_keys=False,
        width=160,
    )


def settings(
    node: Node,
    config: MeshConfig,
    *,
    lighthouse_addresses: Mapping[str, Sequence[str]],
    blocklist: Sequence[str] = (),
    folder: str = FOLDER,
) -> dict[str, Any]:
    """What `render` writes, as data."""
    known = _reached(config, lighthouse_addresses)
    if not known and not node.finds:
        raise ConfigError(
            "no lighthouse of the mesh has an address",
            where="mesh.lighthouses",
            next_step="Give one `addresses: [host:port]`, or run `lamplighter cloud apply` with a lighthouse in AWS.",
        )
    at = PurePosixPath(folder)
    overlays = [str(lighthouse.overlay) for lighthouse, _ in known]
    every = [address for _, addresses in known for address in addresses]
    return {
        "pki": {
            "ca": str(at / "ca.crt"),
            "cert": str(at / "node.crt"),
            "key": str(at / "node.key"),
            # The default from 1.8 on; before that a revoked node would keep its tunnel.
            "disconnect_invalid": True,
            "blocklist": sorted(blocklist),
        },
        "static_host_map": {str(lighthouse.overlay): list(addresses) for lighthouse, addresses in known},
        "lighthouse": {
            "am_lighthouse": node.finds,
            "interval": _REPORT_EVERY,
            # Lighthouses ask nobody: Nebula refuses hosts there.
            "hosts": [] if node.finds else list(overlays),
            "local_allow_list": {"interfaces": dict.fromkeys(_INTERNAL, False)},
        },
        "listen": {
            "host": "::" if any(one.startswith("[") for one in every) else "0.0.0.0",
            "port": config.port if node.reachable else 0,
        },
        # Keeps a home router's mapping open, and answers from behind one.
        "punchy": {"punch": True, "respond": True, "delay": "1s"},
        "relay": {"am_relay": node.finds, "use_relays": True, "relays": [] if node.finds else overlays},
        "timers": {"connection_alive_interval": _ASK_AFTER, "pending_deletion_interval": _DROP_AFTER},
        "tun": {
            "disabled": False,
            "dev": config.interface,
            "mtu": config.mtu,
            "drop_local_broadcast": True,
            "drop_multicast": True,
        },
        "logging": {"level": "info", "format": "json"},
        "firewall": firewall.sections(
            firewall.inbound(node.kind, engine_ports=node.engine_ports, gateway_port=node.gateway_port, ssh=node.ssh)
        ),
    }


def mtu_problem(mtu: int) -> str | None:
    """Why this MTU is trouble, as a sentence with what to set; None when it is well."""
    if mtu - WIREGUARD_OVERHEAD < LIQO_MTU:
        return (
            f"MTU {mtu} leaves {mtu - WIREGUARD_OVERHEAD} bytes for WireGuard inside of the mesh, and Liqo is told {LIQO_MTU}: "
            f"full packets would be lost while pings pass. Set mesh.mtu to {LIQO_MTU + WIREGUARD_OVERHEAD} or more."
        )
    if mtu > 1500 - WIREGUARD_OVERHEAD:
        return (
            f"MTU {mtu} and Nebula's own {WIREGUARD_OVERHEAD} bytes do not fit a path of 1500. "
            "Leave mesh.mtu at 1300 unless every path between your nodes carries more."
        )
    return None


def _reached(config: MeshConfig, given: Mapping[str, Sequence[str]]) -> list[tuple[Lighthouse, tuple[str, ...]]]:
    """The lighthouses whose addresses are known; one that the stack has not made yet must not keep the others from being used."""
    found = ((lighthouse, tuple(given.get(lighthouse.name) or lighthouse.addresses)) for lighthouse in config.lighthouses)
    return [(lighthouse, addresses) for lighthouse, addresses in found if addresses]


__all__ = [
    "FOLDER",
    "LIQO_MTU",
    "WIREGUARD_OVERHEAD",
    "Node",
    "gpu_config",
    "mtu_problem",
    "render",
    "settings",
]
