"""Homes as they are: behind a router that lets nothing in, and with the lighthouse on the very machine."""

from collections.abc import Iterator

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh.nodes import Node
from tests.journeys.mesh.conftest import CONFIG
from tests.mesh_lab import Lab, Machine, Pings, listening, missing, reached
from tests.mesh_lab.lab import ip

_MASQUERADE = """
table ip router {
    chain out { type nat hook postrouting priority srcnat; oifname "eth0" masquerade; }
    chain in { type filter hook forward priority 0; iifname "eth0" ct state new drop; }
}
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    if reason := missing():
        pytest.skip(reason)


def _behind_a_router(lab: Lab, home: Machine) -> str:
    """Take home off the internet and put it behind a router of its own; the router's namespace."""
    lab.attach("router", "vrouter", "10.99.0.200/24")
    router = lab.namespace("router")
    lab.wan("ip", "link", "del", home.wire)
    ip("-n", router, "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", home.namespace)
    ip("-n", router, "address", "add", "192.168.1.1/24", "dev", "lan")
    ip("-n", router, "link", "set", "lan", "up")
    for words in (
        ("address", "add", "192.168.1.2/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("route", "add", "default", "via", "192.168.1.1"),
    ):
        ip("-n", home.namespace, *words)
    ip("netns", "exec", router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    _load(lab, router)
    return router


def _load(lab: Lab, router: str) -> None:
    file = lab.folder / "router.nft"
    file.write_text(_MASQUERADE)
    ip("netns", "exec", router, "nft", "flush", "ruleset")
    ip("netns", "exec", router, "nft", "-f", file)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lighthouse and a cloud node on the internet, home behind its router."""
    with Lab(CONFIG) as made:
        made.add("one", Node("lighthouse"), "10.77.0.1")
        made.add("home", Node("home"), "10.77.0.10")
        made.add("gpu", Node("gpu"), "10.77.128.1")
        yield made


def test_home_behind_a_router_reaches_a_cloud_node_and_survives_the_routers_restart(lab: Lab) -> None:
    """Most homes: no port is forwarded, and some night the router forgets every connection."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    router = _behind_a_router(lab, home)
    lab.start()
    home.reaches(gpu)
    with listening(gpu, (8000,)):
        assert reached(home, gpu.overlay, (8000,)) == {("tcp", 8000)}
    with Pings(home, gpu) as pings:
        _load(lab, router)  # its memory is gone: what comes in looks new and is dropped until home sends again
        pings.flows(1)
    print(f"the router forgot everything: {len(pings.lost) * 0.05:.1f} s without an answer")
    assert len(pings.lost) <= 100  # five seconds
    assert not gpu.pings("192.168.1.2")


def test_home_can_be_the_lighthouse_itself() -> None:
    """The cheapest mesh there is: a forwarded port and nothing rented. What home lets in must not grow by that."""
    config = MeshConfig.model_validate({"lighthouses": [{"name": "home", "overlay": "10.77.0.10"}]})
    with Lab(config) as lab:
        home = lab.add("home", Node("home", lighthouse=True), "10.77.0.10")
        gpu = lab.add("gpu", Node("gpu"), "10.77.128.1")
        laptop = lab.add("laptop", Node("laptop"), "10.77.0.20")
        lab.start()
        home.reaches(gpu)
        laptop.reaches(home)
        with listening(home, (22, 8080), (53,)), listening(gpu, (7443,)):
            assert reached(gpu, home.overlay, (22, 8080), (53,)) == set()
            assert reached(laptop, home.overlay, (22, 8080), (53,)) == {("tcp", 8080)}
            assert reached(home, gpu.overlay, (7443,)) == {("tcp", 7443)}
