"""What makes a Talos machine a node of the mesh: its files, their order, and what the check says of files that would loop or stay silent."""

from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

import pytest
import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.errors import LamplighterError
from lamplighter.core.findings import Verdict
from lamplighter.mesh import nodes, talos
from lamplighter.mesh.nodes import Node
from tests.mesh_lab.certificates import DAY, Authority
from tests.unit.mesh.network import talos_example
from tests.unit.mesh.network.files import CONFIG, NOW, TWO


def _files(authority: Authority | None = None, *, group: str = "home", changes: dict[str, str] | None = None) -> dict[str, str]:
    signed = (authority or Authority("a", at=NOW)).node("house-1", "10.77.0.11/16", group)
    config = nodes.render(Node("home"), CONFIG, lighthouse_addresses=TWO, folder=talos.FOLDER)
    return {"config.yml": config} | signed | (changes or {})


def _rendered(files: dict[str, str] | None = None, **node: Any) -> dict[str, str]:
    return talos.render(talos.TalosNode("house-1", IPv4Network("192.168.1.0/24"), **node), files or _files(), CONFIG)


def _worst(files: dict[str, str], config: MeshConfig = CONFIG, *, now: float = NOW, version: str | None = None) -> dict[str, str]:
    found = talos.check(files, config, now=now, talos=version)
    return {one.name: one.message for one in found if one.verdict in {Verdict.FAIL, Verdict.WARN}}


def test_what_is_rendered_passes_its_own_check() -> None:
    """A check that refuses what we render, or never refuses, helps nobody."""
    assert _worst(_rendered()) == {}
    assert _worst(_rendered(control_plane=True)) == {}


def test_the_instructions_give_the_configuration_before_the_image() -> None:
    """The other way round Talos waits for the configuration and reboots every 70 minutes, silently."""
    text = _rendered()[talos.INSTRUCTIONS]
    steps = [
        text.index(word)
        for word in ("factory.talos.dev/schematics", f"@{talos.CONFIGURATION}", "upgrade --image", "get extensionserviceconfigs")
    ]
    assert steps == sorted(steps)
    assert text.index(f"@{talos.ADDRESSES}") < text.index("upgrade --image")
    assert "private key" in text


def test_etcd_of_a_control_plane_is_pinned_too() -> None:
    """etcd that announces the mesh's address loses its quorum when the mesh goes."""
    worker, plane = (yaml.safe_load(_rendered(control_plane=yes)[talos.ADDRESSES]) for yes in (False, True))
    assert worker == {"machine": {"kubelet": {"nodeIP": {"validSubnets": ["192.168.1.0/24"]}}}}
    assert plane["cluster"] == {"etcd": {"advertisedSubnets": ["192.168.1.0/24"]}}


def test_a_lan_that_is_the_mesh_is_refused() -> None:
    """Pinning the kubelet to the mesh is the very mistake that the pin is for."""
    with pytest.raises(LamplighterError):
        talos.render(talos.TalosNode("house-1", IPv4Network("10.77.0.0/24")), _files(), CONFIG)


def _service(change: Callable[[dict[str, Any]], object]) -> dict[str, str]:
    files = _rendered()
    document = yaml.safe_load(files[talos.CONFIGURATION])
    change(document)
    return files | {talos.CONFIGURATION: yaml.safe_dump(document)}


@pytest.mark.parametrize(
    ("files", "where", "said"),
    [
        (lambda: _service(lambda one: one.update(name="nebula-mesh")), talos.CONFIGURATION, "reboot"),
        (lambda: _service(lambda one: one["configFiles"].pop()), talos.CONFIGURATION, "node.key"),
        (lambda: _service(lambda one: one["configFiles"][1].update(mountPath="/etc/nebula/ca.crt")), talos.CONFIGURATION, "ca.crt"),
        (lambda: _rendered(_files(changes={"config.yml": nodes.render(Node("home"), CONFIG, lighthouse_addresses=TWO)})), "config.yml", "would not find"),
        (lambda: _rendered(_files(changes={"node.key": _files()["node.key"]})), "key", "not the one"),
        (lambda: _rendered(_files(changes={"ca.crt": Authority("b", at=NOW).certificate()})), "authority", "not in the bundle"),
        (lambda: _rendered(_files(group="laptop")), "group", "not in home"),
        (lambda: _rendered() | {talos.ADDRESSES: "machine: {}\n"}, talos.ADDRESSES, "not pinned"),
        (lambda: _rendered() | {talos.ADDRESSES: _pinned("10.77.0.0/16")}, talos.ADDRESSES, "overlaps"),
        (lambda: _rendered() | {talos.SCHEMATIC: "customization: {}\n"}, talos.SCHEMATIC, "would not carry"),
        (lambda: _rendered() | {talos.SCHEMATIC: "{"}, talos.SCHEMATIC, "not YAML"),
        (lambda: {name: text for name, text in _rendered().items() if name != talos.ADDRESSES}, talos.ADDRESSES, "missing"),
    ],
)  # fmt: skip
def test_each_mistake_is_found_before_the_machine_has_it(files: Callable[[], dict[str, str]], where: str, said: str) -> None:
    """A Talos machine without its mesh, or in a reboot loop, is repaired at its console."""
    assert said in _worst(files()).get(where, "nothing")


def _pinned(network: str) -> str:
    return yaml.safe_dump({"machine": {"kubelet": {"nodeIP": {"validSubnets": [network]}}}})


def test_an_expired_certificate_and_a_foreign_network_are_found() -> None:
    """Files from last year look exactly like today's."""
    authority = Authority("a", at=NOW)
    files = _rendered(_files(authority))
    assert "expired" in _worst(files, now=NOW + 21 * DAY)["validity"]
    assert "ends in" in _worst(files, now=NOW + 19 * DAY)["validity"]
    assert "clock" in _worst(files, now=NOW - DAY)["validity"]
    other = MeshConfig.model_validate({"network": "10.88.0.0/16", "nodes": "10.88.128.0/17", "home": "10.88.0.10"})
    assert "10.88.0.0/16" in _worst(files, other)["address"]


@pytest.mark.parametrize(
    ("version", "refused"), [("1.11.6", True), ("1.12.0", False), (None, False), ("1.13", False), ("new", True)]
)
def test_a_talos_too_old_for_version_2_is_refused(version: str | None, refused: bool) -> None:
    """Its Nebula would not start, and the extension would wait: the loop again."""
    second = CONFIG.model_copy(update={"certificate_version": 2})
    authority = Authority("a", at=NOW, version=2)
    assert ("talos" in _worst(_rendered(_files(authority)), second, version=version)) is refused


def test_the_example_in_the_repository_is_what_we_render() -> None:
    """An example that has drifted is copied all the same."""
    for name, text in talos_example.rendered().items():
        assert (talos_example.FOLDER / name).read_text(encoding="utf-8") == text, (
            "python -m tests.unit.mesh.network.talos_example"
        )
