"""Nebula's file for each kind of node, judged by the real Nebula where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.errors import ConfigError
from lamplighter.mesh import firewall, nodes
from lamplighter.mesh.firewall import KINDS, Kind
from lamplighter.mesh.nodes import Node
from lamplighter.mesh.publishing import blocklist_file
from tests.mesh_lab.certificates import Authority
from tests.unit.mesh.network.files import CONFIG, TWO

_ADDRESSES: dict[Kind, str] = {"lighthouse": "10.77.0.1", "home": "10.77.0.10", "gpu": "10.77.128.1", "laptop": "10.77.0.20"}


def _accepted(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nebula", "-test", "-config", str(folder)], check=False, capture_output=True, text=True, timeout=20)


@pytest.mark.skipif(shutil.which("nebula") is None, reason="nebula is not installed")
@pytest.mark.parametrize(
    "node", [*(Node(kind) for kind in KINDS), Node("home", lighthouse=True, ssh=True)], ids=lambda node: f"{node}"
)
def test_nebula_takes_every_file_that_we_render(tmp_path: Path, node: Node) -> None:
    """A file that Nebula refuses keeps a rented machine out of the mesh, and the wake fails after minutes."""
    for name, text in Authority("a").node("n", f"{_ADDRESSES[node.kind]}/16", node.kind).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "config.yml").write_text(nodes.render(node, CONFIG, lighthouse_addresses=TWO, folder=str(tmp_path)))
    (tmp_path / "blocklist.yml").write_text(blocklist_file(["ab" * 32]))
    said = _accepted(tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "ab" * 32 in said.stdout + said.stderr


def test_a_cloud_node_knows_both_lighthouses_and_nobody_else() -> None:
    """The one in AWS is known to the stack only; without it a node is invisible while the other one is down."""
    settings = yaml.safe_load(nodes.gpu_config(CONFIG, lighthouse_addresses=TWO, blocklist=["bb", "aa"], engine_ports=(9000,)))
    assert settings["static_host_map"] == {"10.77.0.1": ["203.0.113.1:4242"], "10.77.0.2": ["198.51.100.2:4242"]}
    assert settings["lighthouse"]["hosts"] == settings["relay"]["relays"] == ["10.77.0.1", "10.77.0.2"]
    assert settings["pki"] == {
        "ca": "/etc/nebula/ca.crt",
        "cert": "/etc/nebula/node.crt",
        "key": "/etc/nebula/node.key",
        "disconnect_invalid": True,
        "blocklist": ["aa", "bb"],
    }
    assert 9000 in {rule["port"] for rule in settings["firewall"]["inbound"]}
    assert 8000 not in {rule["port"] for rule in settings["firewall"]["inbound"]}


def test_an_address_that_the_stack_tells_wins_over_the_configured_one() -> None:
    """A lighthouse that was replaced has another address; a node told the old one would never come up."""
    settings = nodes.settings(Node("gpu"), CONFIG, lighthouse_addresses={"one": ["192.0.2.9:4242"]})
    assert settings["static_host_map"] == {"10.77.0.1": ["192.0.2.9:4242"]}


def test_a_mesh_without_any_reachable_lighthouse_is_refused_with_what_to_do() -> None:
    """A node that can find nobody would boot, bill, and end by its deadline; better to say so before."""
    lonely = MeshConfig.model_validate({"lighthouses": [{"name": "one", "overlay": "10.77.0.1"}]})
    with pytest.raises(ConfigError) as refused:
        nodes.gpu_config(lonely, lighthouse_addresses={}, blocklist=())
    assert refused.value.next_step
    nodes.render(Node("lighthouse"), lonely, lighthouse_addresses={})  # it needs no other


def test_a_lighthouse_asks_nobody_and_relays() -> None:
    """Nebula refuses to start a lighthouse that has lighthouses."""
    for node in (Node("lighthouse"), Node("home", lighthouse=True)):
        settings = nodes.settings(node, CONFIG, lighthouse_addresses=TWO)
        assert settings["lighthouse"]["am_lighthouse"] is settings["relay"]["am_relay"] is True
        assert settings["lighthouse"]["hosts"] == settings["relay"]["relays"] == []
        assert settings["listen"]["port"] == 4242


def test_an_ipv6_lighthouse_opens_an_ipv6_socket() -> None:
    """A socket of IPv4 alone cannot reach it, and Nebula would say nothing."""
    six = nodes.settings(Node("laptop"), CONFIG, lighthouse_addresses={"one": ["[2001:db8::1]:4242"]})
    assert six["listen"] == {"host": "::", "port": 0}
    assert nodes.settings(Node("laptop"), CONFIG, lighthouse_addresses=TWO)["listen"]["host"] == "0.0.0.0"


def test_files_have_no_yaml_anchors() -> None:
    """Legal, and baffling to whoever reads the file at night."""
    assert "&id" not in nodes.gpu_config(CONFIG, lighthouse_addresses=TWO, blocklist=())


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_node_lets_a_cloud_node_in(kind: Kind) -> None:
    """Cloud nodes run what strangers ask for; one rule too many and a prompt reaches the house."""
    for rule in firewall.inbound(kind, ssh=True):
        written = rule.nebula()
        assert "groups" not in written  # Nebula reads a list as AND: a rule for two groups would let nobody in
        assert written.get("group") != "gpu"
        if "host" in written:
            assert (kind, written["proto"]) == ("lighthouse", "icmp")


def test_a_cloud_node_lets_in_home_alone() -> None:
    """A lost laptop must not open a rented machine."""
    assert {rule.group for rule in firewall.inbound("gpu")} == {"home"}


def test_ssh_is_closed_unless_asked_for() -> None:
    """An option that is on by default is no option."""
    assert not [rule for kind in KINDS for rule in firewall.inbound(kind) if rule.port == 22]
    assert [rule.group for rule in firewall.inbound("home", ssh=True) if rule.port == 22] == ["laptop"]


@pytest.mark.parametrize(("mtu", "said"), [(1300, None), (1299, "1239"), (1440, None), (1441, "1500")])
def test_an_mtu_that_loses_full_packets_is_named(mtu: int, said: str | None) -> None:
    """`pings pass, tokens hang` costs a night; the setting can tell before."""
    problem = nodes.mtu_problem(mtu)
    assert problem is None if said is None else said in (problem or "")
