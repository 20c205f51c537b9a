"""Nebula as a systemd service: unprivileged, with the one capability that it needs, reloaded when bundle or blocklist change.

Not responsible for Nebula's own file (`nodes`) nor for installing the program.
"""

from pathlib import PurePosixPath

from lamplighter.mesh.nodes import FOLDER

SERVICE = "nebula.service"
USER = "nebula"
_PUBLISHED = ("ca.crt", "blocklist.yml", "node.crt")
"""What Lamplighter writes anew while Nebula runs: see `publishing`."""


def units(*, folder: str = FOLDER, published: str | None = None, program: str = "/usr/bin/nebula") -> dict[str, str]:
    """The units by file name, for /etc/systemd/system, and `nebula.conf` for /etc/sysusers.d.

    `published`: where Lamplighter puts bundle and blocklist when that is not `folder` itself; a service of root then copies them, so that
    Lamplighter needs no right to write where Nebula reads its configuration.
    """
    source = published or folder
    return {
        SERVICE: _service(folder, program),
        "nebula-published.path": _path(source),
        "nebula-published.service": _published(folder, source),
        "nebula.conf": f'u {USER} - "Nebula mesh"\n',
    }


def _service(folder: str, program: str) -> str:
    return f"""\
# Made by `lamplighter mesh render --systemd`.
[Unit]
Description=Nebula mesh
Documentation=https://nebula.defined.net/docs/
Wants=network-online.target nss-lookup.target time-sync.target modprobe@tun.service
After=network-online.target nss-lookup.target time-sync.target modprobe@tun.service
StartLimitIntervalSec=0

[Service]
User={USER}
Group={USER}
ExecStartPre={program} -test -config {folder}
# The folder, not one file: Nebula merges the blocklist that lies beside its configuration.
ExecStart={program} -config {folder}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=2

# An interface, its address and its route: that is all it changes.
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
PrivateTmp=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def _path(source: str) -> str:
    watched = "\n".join(f"PathChanged={PurePosixPath(source) / name}" for name in _PUBLISHED)
    return f"""\
# Made by `lamplighter mesh render --systemd`.
[Unit]
Description=Bundle, blocklist and certificate of the mesh have changed

[Path]
{watched}

[Install]
WantedBy=multi-user.target
"""


def _published(folder: str, source: str) -> str:
    copies = ""
    if PurePosixPath(source) != PurePosixPath(folder):
        # Under a name that Nebula does not read, then renamed: it must never see half a bundle.
        copies = "".join(
            f"ExecStart=/bin/sh -ec 'test ! -e {source}/{name} || {{ install -m 0644 {source}/{name} {folder}/.{name}.new; "
            f"mv -f {folder}/.{name}.new {folder}/{name}; }}'\n"
            for name in _PUBLISHED
        )
    return f"""\
# Made by `lamplighter mesh render --systemd`.
[Unit]
Description=Give Nebula the bundle, blocklist and certificate of the mesh
After={SERVICE}

[Service]
Type=oneshot
{copies}ExecStart=/bin/systemctl try-reload-or-restart {SERVICE}
"""


__all__ = ["SERVICE", "USER", "units"]
