"""`lamplighter mesh render`, `check` and `talos`: what Nebula runs with, and whether it runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamplighter.cli.config import ConfigOption, read
from lamplighter.cli.invocation import DataOption, Invocation, JsonOption, console
from lamplighter.cli.mesh_common import Desk
from lamplighter.core.errors import LamplighterError

if TYPE_CHECKING:
    from lamplighter.core.findings import Finding
    from lamplighter.mesh.firewall import Kind
    from lamplighter.mesh.nodes import Node

_Name = Annotated[str, typer.Option("--name", metavar="NAME", help="The node, as `mesh sign` named it.")]
_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go; made if it is not there.")]
_Lighthouses = Annotated[
    list[str] | None,
    typer.Option(
        "--lighthouse",
        metavar="NAME=HOST:PORT",
        help="Where a lighthouse is that the configuration gives no address for. Repeatable.",
    ),
]


def register(group: typer.Typer) -> None:
    """Add the commands to `lamplighter mesh`."""
    group.command("render")(render)
    group.command("check")(check)
    group.command("talos")(talos)


def render(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="lighthouse, home, gpu or laptop.")],
    name: _Name,
    out: _Out,
    systemd: Annotated[bool, typer.Option("--systemd", help="Also units for systemd.")] = False,
    container: Annotated[bool, typer.Option("--container", help="Also a compose.yaml, for Docker or Podman.")] = False,
    daemonset: Annotated[
        str | None,
        typer.Option("--daemonset", metavar="NODE", help="Also a DaemonSet for this one node of a Kubernetes cluster."),
    ] = None,
    snat: Annotated[bool, typer.Option("--snat", help="Also what lets pods or containers of this machine use the mesh.")] = False,
    pods: Annotated[
        list[str] | None,
        typer.Option("--pods", metavar="NETWORK", help="The pods' network for --snat; default: 10.244.0.0/16. Repeatable."),
    ] = None,
    user_data: Annotated[
        str | None, typer.Option("--user-data", metavar="STACK:REGION", help="Also the user data of a lighthouse in EC2.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--folder", metavar="DIR", help="Where that machine has Nebula's files; default: /etc/nebula.")
    ] = None,
    ssh: Annotated[bool, typer.Option("--ssh", help="Let laptops reach port 22 of home.")] = False,
    gateway_port: Annotated[int, typer.Option("--gateway-port", help="The port of home that laptops reach.")] = 8080,
    lighthouse: _Lighthouses = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a node's Nebula runs with: its configuration, its certificates as far as they are here, and what starts it.

    Files with a private key are readable for you alone. Asked again, it writes them anew."""
    from lamplighter.mesh import snat as masquerade
    from lamplighter.mesh.container import CONFIG, FILE, FILES, compose
    from lamplighter.mesh.kubernetes import daemon_set, snat_daemon_set, to_yaml
    from lamplighter.mesh.nodes import FOLDER, mtu_problem
    from lamplighter.mesh.nodes import render as render_node
    from lamplighter.mesh.publishing import BLOCKLIST, blocklist_file
    from lamplighter.mesh.units import units

    desk = Desk.at(context, named)
    if sum((systemd, container, daemonset is not None)) > 1:
        raise LamplighterError("one node has one Nebula", next_step="Give one of --systemd, --container and --daemonset.")
    node = _node(desk, kind, ssh, gateway_port)
    if folder is not None and (container or daemonset):
        raise LamplighterError("a container's Nebula has its files in /config", next_step="Leave --folder out.")
    folder = folder or (CONFIG if container or daemonset else FOLDER)
    blocklist = list(desk.folder.read().blocklist)
    inside = blocklist if daemonset else []  # elsewhere it is a file of its own, which changes alone
    files = {
        "config.yml": render_node(node, desk.config, lighthouse_addresses=_addresses(lighthouse), blocklist=inside, folder=folder)
    } | _identity(desk, name)
    if not daemonset:
        files[BLOCKLIST] = blocklist_file(blocklist)
    if systemd:
        published = None if desk.config.publish else str(desk.folder.published)
        files |= units(folder=folder, published=published if node.kind == "home" else None)
    if container:
        files = {f"{FILES}/{file}": text for file, text in files.items()} | {FILE: compose()}
    networks = [_network(one) for one in pods or ()] or [masquerade.POD_NETWORK]
    if daemonset:
        if lacking := {"ca.crt", "node.crt", "node.key"} - files.keys():
            raise LamplighterError(
                f"{name!r} lacks {', '.join(sorted(lacking))} here",
                next_step=f"`lamplighter mesh sign {name} --kind {kind}` makes them.",
            )
        files = {"nebula.yaml": to_yaml(daemon_set(name, daemonset, files))}
        if snat:
            files["mesh-snat.yaml"] = to_yaml(snat_daemon_set(desk.config, networks))
    elif snat:
        files |= {
            masquerade.RULES: masquerade.rules(desk.config, networks),
            masquerade.UNIT: masquerade.unit(f"{folder}/{masquerade.RULES}"),
        }
    if user_data:
        files["user-data.sh"] = _user_data(user_data)
    _write(desk, out, files)
    if problem := mtu_problem(desk.config.mtu):
        desk.invocation.note(problem)


def check(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where this machine's Nebula has its files.")] = Path(
        "/etc/nebula"
    ),
    peer: Annotated[
        list[str] | None, typer.Option("--peer", metavar="ADDRESS", help="Also try this node of the mesh. Repeatable.")
    ] = None,
    log: Annotated[Path | None, typer.Option("--log", metavar="FILE", help="Nebula's log; default: its unit's journal.")] = None,
    lighthouse: _Lighthouses = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine's mesh: files, interface, lighthouses, full packets, direct or relayed, firewall, overlapping networks, clock.

    Changes nothing. Exit status 1 when something fails."""
    from lamplighter.mesh.check import Question
    from lamplighter.mesh.check import check as examine

    desk = Desk.at(context, named)
    tree, _ = read(desk.invocation, named)
    peers = [_address(one) for one in peer or ()]
    question = Question(desk.config, folder, log, peers, _addresses(lighthouse), tree.cloud.vpc_network)
    _show(desk.invocation, examine(question, desk.now))


def talos(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The node, as `mesh sign` named it.")] = None,
    lan: Annotated[
        str | None, typer.Option("--lan", metavar="NETWORK", help="The network of your house, such as 192.168.1.0/24.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the files go.")] = None,
    checked: Annotated[
        Path | None, typer.Option("--check", metavar="DIR", help="Check files that were rendered, instead.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="The version of Talos; default: one that is known to work.")
    ] = None,
    control_plane: Annotated[bool, typer.Option("--control-plane", help="Also pin etcd to the house's network.")] = False,
    lighthouse: _Lighthouses = None,
    named: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what makes a Talos machine a node of the mesh, with instructions in the order that cannot reboot-loop; or check it.

    One file holds the node's private key. With --check, exit status 1 when something fails."""
    from lamplighter.mesh.nodes import render as render_node
    from lamplighter.mesh.talos import FOLDER, MOUNTED, TALOS, TalosNode
    from lamplighter.mesh.talos import check as examine
    from lamplighter.mesh.talos import render as render_talos

    desk = Desk.at(context, named)
    if checked is not None:
        texts = {
            path.name: path.read_text(encoding="utf-8") for path in sorted(checked.iterdir()) if path.suffix in {".yaml", ".md"}
        }
        _show(desk.invocation, examine(texts, desk.config, now=desk.now, talos=version))
        return
    if name is None or lan is None or out is None:
        raise LamplighterError("--name, --lan and --out are needed", next_step="Or --check DIR, for files that were rendered.")
    files = _identity(desk, name)
    if lacking := set(MOUNTED) - files.keys() - {"config.yml"}:
        raise LamplighterError(
            f"{name!r} lacks {', '.join(sorted(lacking))} here",
            next_step=f"`lamplighter mesh sign {name} --kind home` makes them.",
        )
    node = _node(desk, "home", ssh=False, gateway_port=8080)
    files["config.yml"] = render_node(
        node,
        desk.config,
        lighthouse_addresses=_addresses(lighthouse),
        blocklist=list(desk.folder.read().blocklist),
        folder=FOLDER,
    )
    rendered = render_talos(TalosNode(name, _network(lan), version or TALOS, control_plane), files, desk.config)
    findings = list(examine(rendered, desk.config, now=desk.now))
    _write(desk, out, rendered)
    for finding in findings:
        if finding.verdict in {"warn", "fail"}:
            desk.invocation.note(f"{finding.verdict}: {finding.name}: {finding.message}. {finding.next_step}")


def _node(desk: Desk, kind: str, ssh: bool, gateway_port: int) -> "Node":
    from lamplighter.mesh.firewall import KINDS
    from lamplighter.mesh.nodes import Node

    chosen: Kind | None = next((one for one in KINDS if one == kind), None)
    if chosen is None:
        raise LamplighterError(f"there is no kind {kind!r} of nodes", next_step=f"Name one of {', '.join(KINDS)}.")
    both = chosen == "home" and any(one.overlay == desk.config.home for one in desk.config.lighthouses)
    return Node(chosen, lighthouse=both, ssh=ssh, gateway_port=gateway_port)


def _identity(desk: Desk, name: str) -> dict[str, str]:
    """The node's certificate and key as far as they are here, and the bundle as it is today."""
    from lamplighter.mesh.publishing import BUNDLE, CERTIFICATE, KEY, bundle

    found = {}
    if trusted := bundle(desk.folder.read()):
        found[BUNDLE] = trusted
    for file in (CERTIFICATE, KEY):
        path = desk.folder.node(name) / file
        if path.exists():
            found[file] = path.read_text(encoding="utf-8")
    return found


def _user_data(text: str) -> str:
    from lamplighter.mesh.lighthouse import user_data

    stack, _, region = text.partition(":")
    if not stack or not region:
        raise LamplighterError(f"{text!r} is not STACK:REGION", next_step="Such as lamplighter:eu-central-1.")
    return user_data(stack=stack, region=region)


def _addresses(given: Sequence[str] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in given or ():
        name, _, address = one.partition("=")
        host, _, port = address.rpartition(":")
        if not name or not host or not port.isdigit():
            raise LamplighterError(f"{one!r} is not NAME=HOST:PORT", next_step="Such as two=203.0.113.7:4242.")
        found.setdefault(name, []).append(address)
    return found


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise LamplighterError(f"{text!r} is not a network", next_step="Write it as 192.168.1.0/24.") from error


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise LamplighterError(f"{text!r} is not an address", next_step="Write it as 10.77.128.1.") from error


def _write(desk: Desk, out: Path, files: Mapping[str, str]) -> None:
    """Write the files, each in one step; those with a private key for this user alone."""
    invocation = desk.invocation
    for name, text in files.items():
        desk.folder.write(out.absolute() / name, text, mode=0o600 if "PRIVATE KEY" in text else 0o644)
    secrets = [name for name, text in files.items() if "PRIVATE KEY" in text]
    if secrets:
        invocation.note(f"{', '.join(secrets)} {'hold' if len(secrets) > 1 else 'holds'} a private key: take care where it goes.")
    else:
        invocation.note("No key and certificate of this node are here: put node.key and node.crt beside these files.")
    invocation.show({"folder": str(out), "files": sorted(files), "secret": secrets}, "\n".join(str(out / name) for name in files))


def _show(invocation: Invocation, findings: "Iterable[Finding]") -> None:
    from lamplighter.core.findings import Verdict
    from lamplighter.mesh.findings import failed

    marks = {
        Verdict.OK: "[green]ok     [/green]",
        Verdict.UNKNOWN: "[dim]unknown[/dim]",
        Verdict.WARN: "[yellow]warn   [/yellow]",
        Verdict.FAIL: "[red]FAIL   [/red]",
    }
    seen = []
    screen = console()
    for finding in findings:  # as they come: what nothing answers to takes seconds
        seen.append(finding)
        if invocation.json:
            continue
        screen.print(f"{marks[finding.verdict]}  [bold]{finding.name}[/bold]", end="  ")
        screen.print(finding.message, markup=False, highlight=False, soft_wrap=True)
        if finding.next_step and finding.verdict is not Verdict.OK:
            screen.print(f"         next: {finding.next_step}", markup=False, highlight=False, soft_wrap=True)
    if invocation.json:
        invocation.show({"ok": not failed(seen), "checks": [asdict(finding) for finding in seen]})
    if failed(seen):
        raise typer.Exit(1)
