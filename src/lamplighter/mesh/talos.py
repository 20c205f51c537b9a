"""Nebula on Talos: the image's schematic, the extension's configuration, addresses pinned to the LAN, in an order that cannot loop.

An extension service without its configuration waits, and a service that waits lets Talos reboot every 70 minutes without a word
(siderolabs/talos#14373): so the configuration is applied before, or with, the image. And a kubelet that is free to choose may take the
mesh's address for the node's (siderolabs/talos#7586): so it is pinned in the same step. Not responsible for talking to Talos: `talosctl` does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import PurePosixPath
from typing import Any

import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.errors import LamplighterError
from lamplighter.core.findings import Finding
from lamplighter.mesh.findings import fail, ok, unknown, warn
from lamplighter.mesh.identity import identity
from lamplighter.mesh.releases import FIRST_WITH_V2, nebula_of_talos, parsed

EXTENSION = "siderolabs/nebula"
SERVICE = "nebula"
FOLDER = "/usr/local/etc/nebula"
"""Where the extension's Nebula reads its files (siderolabs/extensions, network/nebula)."""
MOUNTED = ("config.yml", "ca.crt", "node.crt", "node.key")
TALOS = "1.13.9"

SCHEMATIC, CONFIGURATION, ADDRESSES, INSTRUCTIONS = "1-schematic.yaml", "2-nebula.yaml", "2-addresses.yaml", "README.md"
"""The files in the order of their use; the two with a 2 go in one step."""


@dataclass(frozen=True, slots=True)
class TalosNode:
    """One machine of the home cluster. `lan`: the network in which Kubernetes and etcd talk. `talos`: its version, or the one to install."""

    name: str
    lan: IPv4Network
    talos: str = TALOS
    control_plane: bool = False


def render(node: TalosNode, files: Mapping[str, str], config: MeshConfig) -> dict[str, str]:
    """Files by name. `files`: the node's config.yml (rendered for `FOLDER`), ca.crt, node.crt and node.key; 2-nebula.yaml holds the key.

    Raises LamplighterError when the LAN is the mesh.
    """
    if node.lan.overlaps(config.network):
        raise LamplighterError(
            f"{node.lan} overlaps the mesh {config.network}: Kubernetes would talk through it",
            next_step="Give the network of your house, such as 192.168.1.0/24.",
        )
    schematic = {"customization": {"systemExtensions": {"officialExtensions": [EXTENSION]}}}
    service = {
        "apiVersion": "v1alpha1",
        "kind": "ExtensionServiceConfig",
        "name": SERVICE,
        "configFiles": [{"content": files[name], "mountPath": f"{FOLDER}/{name}"} for name in MOUNTED],
    }
    addresses: dict[str, Any] = {"machine": {"kubelet": {"nodeIP": {"validSubnets": [str(node.lan)]}}}}
    if node.control_plane:
        addresses["cluster"] = {"etcd": {"advertisedSubnets": [str(node.lan)]}}
    return {
        SCHEMATIC: _dump(schematic),
        CONFIGURATION: _dump(service),
        ADDRESSES: _dump(addresses),
        INSTRUCTIONS: _instructions(node, config),
    }


def check(files: Mapping[str, str], config: MeshConfig, *, now: float, talos: str | None = None) -> Iterator[Finding]:
    """Findings about rendered files, by name: names and places, the certificate and its key, pinned addresses, Talos's version.

    `talos`: the version that will run; default: the one that the instructions name.
    """
    documents: dict[str, Any] = {}
    for name in (SCHEMATIC, CONFIGURATION, ADDRESSES):
        if name not in files:
            yield fail(
                name, "it is missing", "Render the folder anew: `lamplighter mesh talos --name NAME --lan NETWORK --out DIR`."
            )
            continue
        try:
            documents[name] = yaml.safe_load(files[name])
        except yaml.YAMLError as error:
            yield fail(name, f"it is not YAML: {error}", "Render the folder anew.")
    if SCHEMATIC in documents:
        yield _schematic(documents[SCHEMATIC])
    if CONFIGURATION in documents:
        yield from _configuration(documents[CONFIGURATION], config, now)
    if ADDRESSES in documents:
        yield from _addresses(documents[ADDRESSES], config)
    yield from _version(talos or _named(files.get(INSTRUCTIONS, "")), config)


def _schematic(document: Any) -> Finding:
    listed = _at(document, "customization", "systemExtensions", "officialExtensions")
    if isinstance(listed, list) and EXTENSION in listed:
        return ok(SCHEMATIC, f"the image carries {EXTENSION}")
    return fail(
        SCHEMATIC, f"the image would not carry {EXTENSION}", "List it under customization.systemExtensions.officialExtensions."
    )


def _configuration(document: Any, config: MeshConfig, now: float) -> Iterator[Finding]:
    if (
        _at(document, "kind") != "ExtensionServiceConfig"
        or _at(document, "apiVersion") != "v1alpha1"
        or _at(document, "name") != SERVICE
    ):
        yield fail(
            CONFIGURATION,
            f"it is not the ExtensionServiceConfig named {SERVICE}: the service would wait, and Talos reboot every 70 minutes",
            "Render it anew.",
        )
        return
    listed = _at(document, "configFiles")
    mounted = {_at(one, "mountPath"): _at(one, "content") for one in listed} if isinstance(listed, list) else {}
    lacking = [name for name in MOUNTED if not isinstance(mounted.get(f"{FOLDER}/{name}"), str)]
    if lacking:
        yield fail(CONFIGURATION, f"nothing is mounted at {', '.join(f'{FOLDER}/{name}' for name in lacking)}", "Render it anew.")
        return
    yield ok(CONFIGURATION, f"{len(MOUNTED)} files under {FOLDER}")
    yield from _nebula(mounted[f"{FOLDER}/config.yml"], config)
    yield from identity(
        config,
        bundle=mounted[f"{FOLDER}/ca.crt"],
        certificate=mounted[f"{FOLDER}/node.crt"],
        key=mounted[f"{FOLDER}/node.key"],
        now=now,
        kind="home",
    )


def _nebula(text: str, config: MeshConfig) -> Iterator[Finding]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield fail("config.yml", f"it is not YAML: {error}", "Render it anew.")
        return
    wrong = [
        f"pki.{key} is {_at(settings, 'pki', key)}"
        for key, name in (("ca", "ca.crt"), ("cert", "node.crt"), ("key", "node.key"))
        if PurePosixPath(str(_at(settings, "pki", key))) != PurePosixPath(FOLDER) / name
    ]
    if wrong:
        yield fail("config.yml", f"{', '.join(wrong)}: Nebula would not find it under {FOLDER}", "Render it anew.")
    if _at(settings, "tun", "dev") != config.interface:
        yield warn("config.yml", f"the interface is {_at(settings, 'tun', 'dev')}, not {config.interface}", "Render it anew.")
    if not wrong:
        yield ok("config.yml", "its paths are the extension's")


def _addresses(document: Any, config: MeshConfig) -> Iterator[Finding]:
    subnets = _at(document, "machine", "kubelet", "nodeIP", "validSubnets")
    if not isinstance(subnets, list) or not subnets:
        yield fail(
            ADDRESSES,
            "the kubelet's address is not pinned: it may take the mesh's for the node's",
            "Set machine.kubelet.nodeIP.validSubnets to the network of your house.",
        )
        return
    for subnet in subnets:
        try:
            network = IPv4Network(subnet)
        except (AddressValueError, NetmaskValueError, ValueError):
            continue  # an IPv6 network, or an exclusion with `!`
        if network.overlaps(config.network):
            yield fail(ADDRESSES, f"{network} overlaps the mesh {config.network}", "Name the network of your house alone.")
            return
    yield ok(ADDRESSES, f"the kubelet is pinned to {', '.join(map(str, subnets))}")


def _version(talos: str | None, config: MeshConfig) -> Iterator[Finding]:
    if talos is None:
        yield unknown("talos", "its version is not known", "Give --version.")
        return
    try:
        nebula = nebula_of_talos(talos)
    except ValueError:
        yield fail("talos", f"{talos!r} is not a version", "Give it as 1.13.9.")
        return
    if nebula is None:
        yield warn("talos", f"which Nebula Talos {talos} carries is not known to us", "Take Talos 1.11.6 or newer.")
    elif config.certificate_version == 2 and parsed(nebula) < FIRST_WITH_V2:
        yield fail(
            "talos",
            f"Talos {talos} carries Nebula {nebula}, which refuses certificates of version 2",
            "Take Talos 1.12.0 or newer, or mesh.certificate_version: 1.",
        )
    else:
        yield ok(
            "talos",
            f"Talos {talos} carries Nebula {nebula} or newer: enough for certificates of version {config.certificate_version}",
        )


_MARK = "Talos version: v"


def _named(instructions: str) -> str | None:
    for line in instructions.splitlines():
        if line.startswith(_MARK):
            return line.removeprefix(_MARK).strip()
    return None


def _instructions(node: TalosNode, config: MeshConfig) -> str:
    version = node.talos.removeprefix("v")
    nebula = nebula_of_talos(version) or "a version that we do not know"
    return f"""\
# {node.name}: the mesh on Talos

{_MARK}{version}
(its extension `{EXTENSION}` is Nebula {nebula}, or newer)

Keep the order. The configuration comes before the image: an extension that waits for its configuration makes Talos reboot
every 70 minutes without saying why (siderolabs/talos#14373). `{CONFIGURATION}` holds the node's private key: do not commit it.
`NODE` is the machine's address in {node.lan}.

1. Ask the Image Factory for an image with the extension. It answers with an id, which depends on the schematic alone:

   ```console
   $ curl -sS --fail -X POST --data-binary @{SCHEMATIC} https://factory.talos.dev/schematics
   ```

2. Give the machine the mesh's configuration and pin its addresses to the LAN, both in one step.
   On a machine that runs already:

   ```console
   $ talosctl -n NODE patch machineconfig --patch @{CONFIGURATION} --patch @{ADDRESSES} --mode=no-reboot
   ```

   For a new machine, put both into its configuration instead, and the image of step 3 under `machine.install.image`:

   ```console
   $ talosctl machineconfig patch machine.yaml --patch @{CONFIGURATION} --patch @{ADDRESSES} --output machine-mesh.yaml
   $ talosctl apply-config --insecure -n NODE --file machine-mesh.yaml
   ```

3. Only now the image (`ID` is step 1's answer):

   ```console
   $ talosctl -n NODE upgrade --image factory.talos.dev/metal-installer/ID:v{version}
   ```

4. See that it runs, that the interface is there, and that Kubernetes still has the LAN's address:

   ```console
   $ talosctl -n NODE get extensionserviceconfigs
   $ talosctl -n NODE service ext-{SERVICE}
   $ talosctl -n NODE get addresses | grep {config.interface}
   $ kubectl get nodes -o wide
   ```

After a renewal or a rotation render the folder anew and apply `{CONFIGURATION}` alone, as in step 2: Talos replaces files by their place, but
appends to lists such as the pinned networks. `talosctl -n NODE service ext-{SERVICE} restart` if Nebula still runs with the old ones.
Pods reach the mesh only when they are masqueraded: `lamplighter mesh render home --name {node.name} --daemonset --snat --out DIR`.
"""


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Literal, sort_keys=False, width=160)


class _Literal(yaml.SafeDumper):
    """Files inside of the document stay readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Literal.add_representer(str, _text)


def _at(document: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


__all__ = [
    "ADDRESSES",
    "CONFIGURATION",
    "FOLDER",
    "INSTRUCTIONS",
    "MOUNTED",
    "SCHEMATIC",
    "TALOS",
    "TalosNode",
    "check",
    "render",
]
