"""Who reaches whom, on which ports, with which packets: the firewall and the MTU of the files that we render, in real namespaces."""

import pytest

from lamplighter.mesh import firewall
from tests.mesh_lab import Lab, listening, reached

_TCP = (22, 80, 6443, 7443, 8000, 8080, 9100, 9400, 11434)
_UDP = (53, 30742, 51840)
_OPEN = {("tcp", port) for port in (6443, 7443, 8000, 9100, 9400, 11434)} | {("udp", 30742)}


def test_a_cloud_node_answers_home_alone_and_on_the_listed_ports_only(lab: Lab) -> None:
    """A rented machine that another rented machine, or a lost laptop, can reach is one break-in away from all of them."""
    home, gpu, other, laptop, lighthouse = (lab.machines[name] for name in ("home", "gpu", "other", "laptop", "one"))
    home.reaches(gpu)
    with listening(gpu, _TCP, _UDP):
        assert reached(home, gpu.overlay, _TCP, _UDP) == _OPEN
        for stranger in (other, laptop, lighthouse):
            assert reached(stranger, gpu.overlay, _TCP, _UDP) == set(), stranger.name
            assert not stranger.pings(gpu), stranger.name


def test_home_accepts_nothing_from_a_cloud_node(lab: Lab) -> None:
    """Prompts of strangers run on rented machines: nothing there may open a connection into the house, not even a ping."""
    home, stranger, laptop = (lab.machines[name] for name in ("home", "other", "laptop"))
    laptop.reaches(home)
    with listening(home, _TCP, _UDP):
        assert reached(stranger, home.overlay, _TCP, _UDP) == set()
        assert not stranger.pings(home)
        assert reached(laptop, home.overlay, _TCP, _UDP) == {("tcp", 22), ("tcp", 8080)}


def test_a_lighthouse_answers_pings_and_nothing_else(lab: Lab) -> None:
    """It stands open on the internet; what runs on it besides must not be reachable through the mesh."""
    lighthouse = lab.machines["one"]
    with listening(lighthouse, _TCP, _UDP):
        for name in ("home", "gpu", "laptop"):
            assert lab.machines[name].reaches(lighthouse) < 20
            assert reached(lab.machines[name], lighthouse.overlay, _TCP, _UDP) == set(), name


def test_every_rule_of_a_cloud_node_was_tried() -> None:
    """A port that is opened later and not tried here would be open to whoever was forgotten."""
    rules = {(rule.protocol, rule.port) for rule in firewall.inbound("gpu")} - {("icmp", None)}
    assert rules == _OPEN


@pytest.mark.parametrize(("size", "arrives"), [(1300, True), (1301, False)])
def test_full_packets_pass_and_larger_ones_are_refused_at_once(lab: Lab, size: int, arrives: bool) -> None:
    """`pings pass, tokens hang` is what a path with a smaller MTU than promised looks like."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    home.reaches(gpu)
    assert home.pings(gpu, size=size) is arrives


def test_a_full_packet_of_wireguard_inside_of_the_mesh_arrives(lab: Lab) -> None:
    """Liqo's tunnel is told 1240: with its 60 bytes such a packet is as large as the mesh carries, and not one byte larger."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    home.reaches(gpu)
    with listening(gpu, udp=(30742,)):
        whole = 1240 + 60 - 28  # IP and UDP headers are on top of a datagram's bytes
        assert reached(home, gpu.overlay, udp=(30742,), size=whole) == {("udp", 30742)}
