"""What `mesh check` makes of what it sees. Looking itself is tried beside a real mesh, in the journeys."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.core.findings import Finding, Verdict
from lamplighter.mesh import check, firewall, nodes, sight
from lamplighter.mesh.check import Question
from lamplighter.mesh.firewall import KINDS
from lamplighter.mesh.nodes import Node
from tests.mesh_lab.certificates import Authority
from tests.unit.mesh.network.files import CONFIG, NOW, TWO


def _verdicts(findings: list[Finding]) -> set[Verdict]:
    return {finding.verdict for finding in findings}


@pytest.mark.parametrize(
    ("network", "routes", "vpc", "verdict", "said"),
    [
        ("10.77.0.0/16", [("192.168.1.0/24", "eth0"), ("10.77.0.0/16", "nebula1")], "10.78.0.0/16", Verdict.OK, "nobody else's"),
        ("10.77.0.0/16", [("10.0.0.0/8", "wg0")], None, Verdict.FAIL, "10.0.0.0/8 of wg0"),
        ("10.77.0.0/16", [], "10.77.4.0/22", Verdict.FAIL, "cloud.vpc_network"),
        ("100.80.0.0/16", [], None, Verdict.WARN, "Tailscale"),
        ("10.42.0.0/16", [], None, Verdict.WARN, "k3s"),
        ("172.31.0.0/16", [], None, Verdict.WARN, "AWS"),
        ("10.77.0.0/16", None, None, Verdict.UNKNOWN, "cannot be read"),
    ],
)
def test_a_network_that_others_use_is_named(
    network: str, routes: list[tuple[str, str]] | None, vpc: str | None, verdict: Verdict, said: str
) -> None:
    """Packets for the mesh that end in another network look like a dead node, for hours."""
    base = IPv4Network(network)
    config = MeshConfig.model_validate(
        {"network": network, "nodes": str(list(base.subnets(1))[1]), "home": str(base.network_address + 10)}
    )
    seen = None if routes is None else [sight.Route(IPv4Network(one), device) for one, device in routes]
    findings = list(check.overlaps(config, seen, None if vpc is None else IPv4Network(vpc)))
    assert verdict in _verdicts(findings)
    assert any(said in finding.message for finding in findings)


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_render_has_no_opening_that_the_check_fails(kind: firewall.Kind) -> None:
    """A check that fails what the same program made is switched off."""
    rules = [rule.nebula() for rule in firewall.inbound(kind, ssh=True)]
    assert _verdicts(list(check.openings(rules))) == {Verdict.OK}


@pytest.mark.parametrize(
    "rule",
    [
        {"port": 22, "proto": "tcp", "group": "gpu"},
        {"port": "any", "proto": "any", "host": "any"},
        {"port": 8080, "proto": "tcp", "groups": ["gpu", "home"]},
        {"port": 8080, "proto": "tcp", "cidr": "0.0.0.0/0"},
        {"port": 8080, "proto": "tcp"},
    ],
)
def test_a_rule_that_opens_the_house_is_found(rule: dict[str, Any]) -> None:
    """Somebody widens a rule to try something, and it stays."""
    assert Verdict.FAIL in _verdicts(list(check.openings([rule])))


def test_a_list_of_groups_is_explained() -> None:
    """`groups: [home, laptop]` reads like OR and is AND: nobody gets in."""
    findings = list(check.openings([{"port": 8080, "proto": "tcp", "groups": ["home", "laptop"]}]))
    assert any(finding.verdict is Verdict.WARN and "AND" in finding.next_step for finding in findings)


_DIRECT = '{"msg":"Handshake message received","vpnIp":"10.77.0.1","udpAddr":{"ip":"203.0.113.1","port":4242}}'
_RELAYED = '{"msg":"Handshake message received","vpnIp":"10.77.0.1","udpAddr":null}'
_NEWER = '{"msg":"Handshake message received","vpnAddrs":["10.77.0.1"],"from":"203.0.113.1:4242"}'
_NEWER_RELAYED = '{"msg":"Handshake message received","vpnAddrs":["10.77.0.1"],"from":"203.0.113.1:4242","relay":"10.77.0.2"}'
_OTHER = '{"msg":"Handshake message received","vpnIp":"10.77.0.9","udpAddr":null}'


@pytest.mark.parametrize(
    ("log", "way"),
    [
        ([_RELAYED, _DIRECT, _OTHER], "direct"),
        ([_DIRECT, _RELAYED], "relayed"),
        ([_NEWER], "direct"),
        ([_NEWER_RELAYED], "relayed"),
        ([_OTHER, "no JSON: Handshake message received"], None),
        ([], None),
    ],
)
def test_the_last_tunnel_decides_whether_the_way_is_direct(log: list[str], way: str | None) -> None:
    """A relay halves the speed; an old line of the log must not hide it."""
    assert sight.way("\n".join(log), IPv4Address("10.77.0.1")) == way


def _question(folder: Path, files: dict[str, str] | None = None) -> Question:
    signed = Authority("a", at=NOW).node("home", "10.77.0.10/16", "home")
    texts = (
        signed | {"config.yml": nodes.render(Node("home"), CONFIG, lighthouse_addresses=TWO, folder=str(folder))} | (files or {})
    )
    for name, text in texts.items():
        (folder / name).write_text(text)
    return Question(MeshConfig.model_validate({"interface": "nonesuch0"}), folder, log=folder / "no.log")


def _found(question: Question) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in check.check(question, NOW):
        found.setdefault(finding.name, []).append(finding)
    return found


def test_a_machine_without_a_running_nebula_is_told_so(tmp_path: Path) -> None:
    """Everything else would follow from it; it must stand there in words, with what to type."""
    (finding,) = _found(_question(tmp_path))["interface"]
    assert finding.verdict is Verdict.FAIL
    assert "journalctl" in finding.next_step


def test_missing_files_are_named_with_how_to_make_them(tmp_path: Path) -> None:
    """`--folder` of another machine, or a first try before rendering."""
    question = _question(tmp_path)
    (tmp_path / "config.yml").unlink()
    (tmp_path / "node.crt").unlink()
    found = _found(question)
    assert [finding.verdict for finding in found["files"]] == [Verdict.FAIL, Verdict.FAIL]
    assert "mesh render" in found["files"][0].next_step


def test_a_file_for_another_interface_is_noticed(tmp_path: Path) -> None:
    """After a change of the configuration somebody must render anew; nothing else says so."""
    (finding,) = (one for one in _found(_question(tmp_path))["config.yml"] if one.verdict is Verdict.WARN)
    assert "nonesuch0" in finding.message


def test_every_finding_that_is_not_well_says_what_to_do(tmp_path: Path) -> None:
    """A verdict without a next step leaves a person where they were."""
    for findings in _found(_question(tmp_path, {"ca.crt": "nonsense"})).values():
        for finding in findings:
            assert finding.next_step or finding.verdict in {Verdict.OK, Verdict.UNKNOWN}, finding


def test_a_knock_on_a_closed_port_is_silence(unused_udp_port: int) -> None:
    """Where no Nebula is, the check must say so and not wait for long."""
    assert not sight.knock("127.0.0.1", unused_udp_port, wait=0.01, tries=2)


@pytest.fixture
def unused_udp_port() -> int:
    """A UDP port of loopback on which nothing listens."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
