"""`mesh check`: judges what this machine shows of its mesh; every finding says what to do.

The questions are asked from the ground up, as a person would: is there an interface, are the files right, does a lighthouse answer below the
mesh and inside of it, do full packets pass, is the way direct, does anything overlap. Not responsible for looking: that is `sight`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.findings import Finding
from lamplighter.mesh import certificates, sight
from lamplighter.mesh.errors import BadCertificate
from lamplighter.mesh.findings import fail, ok, unknown, warn
from lamplighter.mesh.firewall import AGENT, KINDS
from lamplighter.mesh.identity import identity
from lamplighter.mesh.nodes import FOLDER, mtu_problem
from lamplighter.mesh.releases import FIRST_WITH_V2, parsed

DEFAULTS: tuple[tuple[IPv4Network, str], ...] = (
    (IPv4Network("10.42.0.0/16"), "the pods of k3s"),
    (IPv4Network("10.43.0.0/16"), "the services of k3s"),
    (IPv4Network("10.244.0.0/16"), "the pods of Talos and kubeadm"),
    (IPv4Network("10.96.0.0/12"), "the services of Talos and kubeadm"),
    (IPv4Network("172.31.0.0/16"), "AWS's default network"),
    (IPv4Network("172.17.0.0/16"), "Docker's bridge"),
    (IPv4Network("100.64.0.0/10"), "Tailscale, which drops these addresses from other interfaces"),
)
"""Networks that others take unasked, and who does."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to examine. `peers`: further addresses of the mesh to try, such as a cloud node's. `vpc`: the stack's own network."""

    config: MeshConfig
    folder: Path = Path(FOLDER)
    log: Path | None = None
    peers: Sequence[IPv4Address] = ()
    lighthouse_addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    vpc: IPv4Network | None = None


def check(question: Question, now: float) -> Iterator[Finding]:
    """All findings, from the ground up. Takes some seconds, more when nothing answers."""
    config = question.config
    yield from _program(config)
    yield from _files(question, now)
    yield _clock()
    link = sight.interface(config.interface)
    up = link is not None and link.up
    yield _interface(config, link, _own_address(question.folder))
    yield from overlaps(config, sight.routes(), question.vpc)
    problem = mtu_problem(config.mtu)
    yield (
        warn("mtu setting", problem, "See the guide to the mesh.")
        if problem
        else ok("mtu setting", f"{config.mtu}: WireGuard fits inside")
    )
    log = sight.journal(question.log)
    for lighthouse in config.lighthouses:
        if link is not None and lighthouse.overlay in link.addresses:
            yield ok(f"lighthouse {lighthouse.name}", "it is this machine")
            continue
        addresses = question.lighthouse_addresses.get(lighthouse.name) or lighthouse.addresses
        yield from _lighthouse(lighthouse.name, lighthouse.overlay, addresses, up=up)
        if up:
            yield from _path(f"lighthouse {lighthouse.name}", lighthouse.overlay, config, log)
    for peer in question.peers if up else ():
        yield from _peer(peer, config, log)


def _program(config: MeshConfig) -> Iterator[Finding]:
    found = sight.version()
    if found is None:
        yield unknown("nebula", "no program `nebula` on the PATH", "Install it, unless it runs in a container or by Talos.")
    elif config.certificate_version == 2 and parsed(found) < FIRST_WITH_V2:
        yield fail(
            "nebula", f"Nebula {found} refuses certificates of version 2", "Take 1.10 or newer, or mesh.certificate_version: 1."
        )
    else:
        yield ok("nebula", f"Nebula {found}")


def _files(question: Question, now: float) -> Iterator[Finding]:
    folder = question.folder
    texts: dict[str, str] = {}
    for name in ("config.yml", "ca.crt", "node.crt", "node.key"):
        try:
            texts[name] = (folder / name).read_text(encoding="utf-8")
        except PermissionError:
            if name != "node.key":
                yield unknown("files", f"{folder / name} cannot be read by this user", "Ask again as root.")
        except OSError:
            yield fail(
                "files",
                f"{folder / name} is not there",
                "Render it: `lamplighter mesh render KIND --name NAME --out DIR`, or name --folder.",
            )
    if {"ca.crt", "node.crt"} <= texts.keys():
        yield from identity(
            question.config, bundle=texts["ca.crt"], certificate=texts["node.crt"], key=texts.get("node.key"), now=now
        )
    if "config.yml" in texts:
        yield from _settings(texts["config.yml"], question)
        if "node.key" in texts and (said := sight.accepted(folder)) is not None and not said[0]:
            yield fail("config.yml", f"Nebula refuses it: {said[1]}", "Render it anew.")


def _own_address(folder: Path) -> IPv4Address | None:
    """What the certificate says; None when there is none that can be read."""
    try:
        return IPv4Address(str(certificates.parse((folder / "node.crt").read_text(encoding="utf-8")).address.ip))
    except (BadCertificate, OSError, ValueError):
        return None


def _settings(text: str, question: Question) -> Iterator[Finding]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield fail("config.yml", f"it is not YAML: {error}", "Render it anew.")
        return
    settings = found if isinstance(found, Mapping) else {}
    tun = settings.get("tun") or {}
    if tun.get("dev") != question.config.interface or tun.get("mtu") != question.config.mtu:
        yield warn(
            "config.yml",
            f"it says {tun.get('dev')} with MTU {tun.get('mtu')}, the configuration {question.config.interface} with {question.config.mtu}",
            "Render it anew.",
        )
    yield from openings((settings.get("firewall") or {}).get("inbound") or ())


def openings(inbound: Sequence[Any]) -> Iterator[Finding]:
    """What a node's file lets in that none of ours does: cloud nodes at all, and everybody to more than ICMP."""
    wide = []
    for rule in inbound:
        if not isinstance(rule, Mapping):
            continue
        groups = [rule["group"]] if isinstance(rule.get("group"), str) else list(rule.get("groups") or ())
        everybody = not groups and (
            rule.get("host") == "any" or rule.get("cidr") in {"0.0.0.0/0", "any"} or not rule.keys() & {"host", "cidr"}
        )
        if "gpu" in groups or "any" in groups or (everybody and rule.get("proto") != "icmp"):
            wide.append(f"{rule.get('proto')} {rule.get('port')} from {', '.join(groups) or 'everybody'}")
        if len(groups) > 1 and set(groups) <= set(KINDS):
            yield warn(
                "firewall",
                f"a rule asks for {' and '.join(groups)} at once: no certificate of ours is in both",
                "Nebula reads a list of groups as AND: write one rule for each.",
            )
    if wide:
        yield fail(
            "firewall",
            f"it lets in {'; '.join(wide)}",
            "Render config.yml anew, or narrow the rule: cloud nodes may open nothing at home.",
        )
    else:
        yield ok("firewall", "it lets in nothing from cloud nodes, and nothing but pings from everybody")


def _clock() -> Finding:
    said = sight.synchronised()
    if said is None:
        return unknown("clock", "whether it is kept by others' cannot be told here")
    if said:
        return ok("clock", "synchronised")
    return warn("clock", "it is not synchronised: certificates of a day fail when it drifts", "`timedatectl set-ntp true`")


def _interface(config: MeshConfig, link: sight.Interface | None, own: IPv4Address | None) -> Finding:
    name = config.interface
    if link is None:
        return fail(
            "interface", f"there is no {name}: Nebula does not run here", "`systemctl status nebula`, `journalctl -u nebula`"
        )
    if not link.up or not link.addresses:
        return fail("interface", f"{name} is down", "`systemctl restart nebula`, `journalctl -u nebula`")
    if own is not None and own not in link.addresses:
        return fail(
            "interface",
            f"{name} has {link.addresses[0]}, the certificate says {own}",
            "Restart Nebula: an address is taken at its start.",
        )
    if link.mtu != config.mtu:
        return warn(
            "interface",
            f"{name} has MTU {link.mtu}, the configuration says {config.mtu}",
            "Render config.yml anew and restart Nebula.",
        )
    return ok("interface", f"{name} is up with {link.addresses[0]}, MTU {link.mtu}")


def overlaps(config: MeshConfig, routes: Sequence[sight.Route] | None, vpc: IPv4Network | None) -> Iterator[Finding]:
    """Networks that the mesh shares with others: packets for the one end in the other."""
    mesh = config.network
    clashes = [
        f"the route {route.network} of {route.device}"
        for route in routes or ()
        if route.device != config.interface and route.network.overlaps(mesh)
    ]
    if vpc is not None and vpc.overlaps(mesh):
        clashes.append(f"cloud.vpc_network {vpc}")
    another = "Give the mesh another network (mesh.network) and certify its nodes anew."
    if clashes:
        yield fail("overlap", f"{mesh} overlaps {', '.join(clashes)}", another)
    likely = [f"{network} ({who})" for network, who in DEFAULTS if network.overlaps(mesh)]
    if likely:
        yield warn("overlap", f"{mesh} overlaps {', '.join(likely)}", another)
    if routes is None and not clashes:
        yield unknown("overlap", "this machine's routes cannot be read")
    elif not clashes and not likely:
        yield ok("overlap", f"{mesh} is nobody else's here")


def _lighthouse(name: str, overlay: IPv4Address, addresses: Sequence[str], *, up: bool) -> Iterator[Finding]:
    what = f"lighthouse {name}"
    inside = sight.pings(overlay) if up else False
    if inside:
        yield ok(what, f"{overlay} answers inside of the mesh")
        return
    if not addresses:
        yield unknown(what, "its address outside is not known here", "It is in AWS: `lamplighter cloud status` names it.")
        return
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            answers = sight.knock(host.strip("[]"), int(port))
        except OSError as error:
            yield fail(what, f"{host} cannot be resolved: {error.strerror or error}", "Its name, or this machine's DNS.")
            continue
        if answers:
            yield fail(
                what,
                f"a Nebula answers at {address}, and {overlay} does not inside of the mesh",
                "They do not trust each other: compare the bundles, clocks and expiry on both sides (`lamplighter mesh inspect`).",
            )
        else:
            yield fail(
                what,
                f"nothing answers at {address} over UDP",
                "Does it run? Does its router or security group let UDP in, and yours out? Has its address changed?",
            )


def _path(what: str, address: IPv4Address, config: MeshConfig, log: str | None) -> Iterator[Finding]:
    if not sight.pings(address, wait=1):
        return
    if sight.pings(address, size=config.mtu):
        yield ok(f"{what}: mtu", f"full packets of {config.mtu} bytes pass")
    else:
        passes = sight.largest(address, config.mtu)
        yield fail(
            f"{what}: mtu",
            f"pings pass, packets of {config.mtu} bytes do not; the largest that does has {passes or 'fewer than 576'}",
            f"Set mesh.mtu to {passes or 1200} or less on every node, and WireGuard's 60 lower. Tokens hang otherwise.",
        )
    found = None if log is None else sight.way(log, address)
    if found == "direct":
        yield ok(f"{what}: way", "direct")
    elif found == "relayed":
        yield warn(
            f"{what}: way",
            "through a relay: slower, and gone with it",
            f"Forward UDP {config.port} to home, or allow it on the way.",
        )
    else:
        yield unknown(f"{what}: way", "Nebula's log does not tell whether it is direct", "Name it with --log, or ask as root.")


def _peer(address: IPv4Address, config: MeshConfig, log: str | None) -> Iterator[Finding]:
    what = f"node {address}"
    if not sight.pings(address):
        yield fail(
            what,
            "it does not answer",
            "Does it live (`lamplighter status`)? Is its certificate revoked or expired? Is this machine's group `home`?",
        )
        return
    yield ok(what, "it answers")
    yield from _path(what, address, config, log)
    if address in config.nodes:
        said = sight.connects(address, (AGENT,))[AGENT]
        if said:
            yield ok(f"{what}: agent", f"port {AGENT} is open to us")
        elif said is False:
            yield fail(
                f"{what}: agent",
                f"nothing listens on port {AGENT}",
                "The agent died: `lamplighter cloud status` shows its last log.",
            )
        else:
            yield fail(
                f"{what}: agent",
                f"port {AGENT} is silent: the node's firewall drops us",
                "This machine's certificate must be in group `home`.",
            )


__all__ = ["DEFAULTS", "Question", "check", "openings", "overlaps"]
