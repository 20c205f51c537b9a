"""Lets pods at home use the mesh: their addresses become home's on the way in.

Nebula carries packets of the address in its own certificate and silently drops all others, so a pod's packets must be masqueraded. Their
TCP handshakes are told the mesh's MTU too: a pod's interface promises 1450 or 1500, and ICMP that says otherwise is often lost on the way.
Not responsible for the pods' own network.
"""

from collections.abc import Sequence
from ipaddress import IPv4Network

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.errors import LamplighterError

POD_NETWORK = IPv4Network("10.244.0.0/16")
"""Talos's and kubeadm's default; k3s has 10.42.0.0/16."""
RULES = "mesh-snat.nft"
UNIT = "mesh-snat.service"


def rules(config: MeshConfig, pods: Sequence[IPv4Network] = (POD_NETWORK,)) -> str:
    """An nftables file. Loading it again replaces what it made before, in one step. Raises LamplighterError for overlapping networks."""
    for network in pods:
        if network.overlaps(config.network):
            raise LamplighterError(
                f"the pods' network {network} overlaps the mesh's, {config.network}",
                next_step="Give the mesh another network (mesh.network), before any certificate is made.",
            )
    inside = ", ".join(map(str, pods))
    return f"""\
#!/usr/sbin/nft -f
# Made by `lamplighter mesh render --snat`.
add table ip lamplighter_mesh
delete table ip lamplighter_mesh
table ip lamplighter_mesh {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{config.interface}" ip saddr {{ {inside} }} ip daddr {config.network} masquerade
    }}
    chain forward {{
        type filter hook forward priority mangle; policy accept;
        oifname "{config.interface}" tcp flags syn tcp option maxseg size set rt mtu
        iifname "{config.interface}" tcp flags syn tcp option maxseg size set {config.mtu - 40}
    }}
}}
"""


def unit(file: str = f"/etc/nebula/{RULES}") -> str:
    """A systemd unit that loads the file at boot and takes its table away when stopped."""
    return f"""\
# Made by `lamplighter mesh render --snat`.
[Unit]
Description=Masquerade pods into the mesh
After=network-pre.target nftables.service
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {file}
ExecReload=/usr/sbin/nft -f {file}
ExecStop=/usr/sbin/nft delete table ip lamplighter_mesh
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


__all__ = ["POD_NETWORK", "RULES", "UNIT", "rules", "unit"]
