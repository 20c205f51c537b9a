"""Our own authorities at work in a real mesh: the keeper's certificates, its published files, a rotation, a revocation, all under traffic."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamplighter.config.mesh import MeshConfig
from lamplighter.mesh import administration, rotation
from lamplighter.mesh.authority import OnlineAuthority
from lamplighter.mesh.nodes import Node
from tests.journeys.mesh.conftest import CONFIG
from tests.mesh_lab import Lab, Machine, OurAuthorities, Pings, missing
from tests.mesh_lab.certificates import PASSPHRASE
from tests.mesh_lab.lab import wait


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[Lab, OurAuthorities]]:
    """One lighthouse, home and two cloud nodes, certified as `lamplighter mesh sign` and the keeper do."""
    if reason := missing():
        pytest.skip(reason)
    ours = OurAuthorities(tmp_path / "mesh", CONFIG)
    with Lab(CONFIG, signer=ours) as lab:
        lab.add("one", Node("lighthouse"), "10.77.0.1")
        lab.add("home", Node("home"), "10.77.0.10")
        lab.add("gpu", Node("gpu"), "10.77.128.1")
        lab.add("other", Node("gpu"), "10.77.128.2")
        lab.start()
        yield lab, ours


def _keeper(lab: Lab, ours: OurAuthorities) -> OnlineAuthority:
    """The keeper's authority, which publishes to home's Nebula and makes it read again."""
    home = lab.machines["home"]
    assert home.process is not None
    config: MeshConfig = CONFIG.model_copy(
        update={"publish": str(home.folder), "reload": ["kill", "-HUP", str(home.process.pid)]}
    )
    return OnlineAuthority.open(ours.folder.root, config, PASSPHRASE)


def _tell(node: Machine, keeper: OnlineAuthority) -> None:
    """What the agent does with POST /nebula: bundle and certificate are written, Nebula reads them, the keeper remembers."""
    public = (node.folder / "node.pub").read_text()
    issued = keeper.issue(node.name, public, CONFIG.nodes.network_address + int(node.overlay[-1]), now=time.time())
    node.trust(keeper.bundle())
    (node.folder / "node.crt").write_text(issued.certificate_pem)
    node.reload()
    keeper.confirm(node.name, bundle=keeper.bundle(), fingerprint=issued.fingerprint)


def test_the_keepers_authority_rotates_and_revokes_under_traffic(made: tuple[Lab, OurAuthorities]) -> None:
    """Each step as a person and the keeper take it. Not one packet of a living node is lost, and the revoked one is out within ten seconds."""
    lab, ours = made
    home, gpu, other = (lab.machines[name] for name in ("home", "gpu", "other"))
    keeper = _keeper(lab, ours)
    for node in (gpu, other):
        home.reaches(node)
    with Pings(home, gpu) as pings, Pings(home, other) as doomed:
        administration.start_rotation(ours.folder, CONFIG, "online", PASSPHRASE, time.time())
        keeper.publish()  # home trusts the new one first
        lab.machines["one"].trust(keeper.bundle())
        lab.machines["one"].reload()
        for name in ("one", "home"):  # a person says so, or `mesh rotate confirm`
            keeper.confirm(name, bundle=keeper.bundle(), fingerprint=lab.machines[name].fingerprint())
        pings.flows(0.5)
        for node in (gpu, other):
            _tell(node, keeper)
        administration.sign_rotation(ours.folder, CONFIG, None, time.time())
        pings.flows(0.5)
        for node in (gpu, other):
            _tell(node, keeper)
        pings.flows(1)
        # Sooner than a person may, who has to let tunnels be made anew first: the harder case.
        administration.finish_rotation(ours.folder, time.time() + rotation.SETTLE)
        keeper.publish()
        pings.flows(5)
        assert pings.lost == []
        assert doomed.lost == []

        begin = time.monotonic()
        keeper.revoke(other.fingerprint(), time.time() + 86_400)
        keeper.publish()
        wait(lambda: doomed.silent > 2, "the revoked node to be silent")
        out = time.monotonic() - begin - doomed.silent
        pings.flows(0.5)
    print(
        f"{pings.answered} pings during rotation and revocation, lost: {len(pings.lost)}; the revoked node was out after {out:.1f} s"
    )
    assert out < 10
    assert pings.lost == []
