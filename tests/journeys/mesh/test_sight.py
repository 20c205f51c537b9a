"""`mesh check` beside a real mesh: what it says when all is well, and what when something is not. It runs in the machine's own namespace."""

import json
import sys
from pathlib import Path

import pytest

from lamplighter.mesh import snat
from tests.mesh_lab import Lab, Machine, listening, reached
from tests.mesh_lab.lab import ip

_CHECK = """
import json, pathlib, sys, time
from ipaddress import IPv4Address
from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh.check import Question, check
given = json.loads(sys.argv[1])
question = Question(MeshConfig.model_validate(given['config']), pathlib.Path(given['folder']), pathlib.Path(given['log']),
                    [IPv4Address(one) for one in given['peers']], given['lighthouses'])
print(json.dumps([[finding.name, finding.verdict, finding.message] for finding in check(question, time.time())]))
"""


def _check(machine: Machine, *peers: Machine) -> dict[str, tuple[str, str]]:
    lab = machine.lab
    given = {
        "config": lab.config.model_dump(mode="json", exclude_none=True),
        "folder": str(machine.folder),
        "log": str(machine.folder / "nebula.log"),
        "peers": [peer.overlay for peer in peers],
        "lighthouses": lab.lighthouse_addresses(),
    }
    said = machine.run(sys.executable, "-c", _CHECK, json.dumps(given), timeout=90)
    return {name: (verdict, message) for name, verdict, message in json.loads(said)}


def test_a_healthy_mesh_has_no_finding_that_fails(lab: Lab) -> None:
    """A check that cries wolf is not read when it matters."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    home.reaches(gpu)
    with listening(gpu, (7443,)):
        found = _check(home, gpu)
    assert [name for name, (verdict, _) in found.items() if verdict == "fail"] == []
    assert found["interface"][0] == "ok"
    assert found["lighthouse one"][0] == found["lighthouse two"][0] == "ok"
    assert found["lighthouse one: mtu"][0] == found[f"node {gpu.overlay}: mtu"][0] == "ok"
    assert found[f"node {gpu.overlay}: way"] == ("ok", "direct")
    assert found[f"node {gpu.overlay}: agent"][0] == "ok"


def test_a_narrow_path_is_named_with_the_size_that_fits(lab: Lab) -> None:
    """`pings pass, tokens hang`: a person must read the cause here, not find it out by nights of trying."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    home.reaches(gpu)
    # What a tunnel or PPPoE on the way does whose ICMP is filtered: full packets vanish.
    gpu.run(
        "nft",
        "-f",
        "-",
        input="table ip lab { chain in { type filter hook input priority 0; udp dport 4242 ip length > 1280 drop; }; }",
    )
    try:
        verdict, message = _check(home, gpu)[f"node {gpu.overlay}: mtu"]
    finally:
        gpu.run("nft", "flush", "ruleset")
    assert verdict == "fail"
    largest = int(message.rsplit(maxsplit=1)[1])
    assert 1200 <= largest < 1280


def test_a_dead_lighthouse_and_one_that_distrusts_us_are_told_apart(lab: Lab) -> None:
    """The one needs its machine looked at, the other its certificates; both look the same from inside of the mesh."""
    home, one, two = (lab.machines[name] for name in ("home", "one", "two"))
    one.stop(kill=True)
    two.block(home.fingerprint())
    try:
        home.stop()
        home.start()
        found = _check(home)
    finally:
        one.start()
    assert found["lighthouse one"][0] == "fail"
    assert "nothing answers" in found["lighthouse one"][1]
    assert found["lighthouse two"][0] == "fail"
    assert "does not inside of the mesh" in found["lighthouse two"][1]


@pytest.fixture
def pod(lab: Lab) -> str:
    """A namespace behind home, as a pod is behind its machine: 10.244.0.5, with home as its way out."""
    home = lab.machines["home"]
    space = lab.namespace("pod")
    ip("netns", "add", space)
    ip("-n", home.namespace, "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", space)
    ip("-n", home.namespace, "address", "add", "10.244.0.1/24", "dev", "pod0")
    ip("-n", home.namespace, "link", "set", "pod0", "up")
    ip("-n", space, "address", "add", "10.244.0.5/24", "dev", "eth0")
    ip("-n", space, "link", "set", "eth0", "up")
    ip("-n", space, "route", "add", "default", "via", "10.244.0.1")
    home.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    return space


def test_a_pod_reaches_a_cloud_node_only_when_masqueraded(lab: Lab, pod: str, tmp_path: Path) -> None:
    """Nebula drops a pod's own address without a word: the gateway in a pod would wait for its engine for ever."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    home.reaches(gpu)
    rules = tmp_path / snat.RULES
    rules.write_text(snat.rules(lab.config))

    def reaches() -> set[tuple[str, int]]:
        # The same tries as everywhere, from the pod's namespace.
        inside = Machine(lab, "pod", home.node, "10.244.0.5", "", "", home.folder)
        return reached(inside, gpu.overlay, (8000,))

    with listening(gpu, (8000,)):
        assert reaches() == set()
        home.run("nft", "-f", rules)
        home.run("nft", "-f", rules)  # again, as at every boot
        assert reaches() == {("tcp", 8000)}
    assert home.run("nft", "list", "table", "ip", "lamplighter_mesh").count("masquerade") == 1
