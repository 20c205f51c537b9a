"""Authorities rotate, nodes are revoked, lighthouses die, machines move: under traffic, in real namespaces, with the files that we render."""

import time
from ipaddress import IPv4Address

import pytest

from lamplighter.mesh import sight
from tests.mesh_lab import Authority, Lab, Machine, Pings
from tests.mesh_lab.lab import wait


@pytest.fixture(autouse=True)
def together(lab: Lab) -> None:
    """Home and both cloud nodes have tunnels, as they have in ordinary life."""
    home = lab.machines["home"]
    for name in ("gpu", "other"):
        home.reaches(lab.machines[name])


def test_the_authority_rotates_without_losing_a_packet(lab: Lab) -> None:
    """Append the new authority everywhere, sign the same keys anew, drop the old one: an answer that streams meanwhile must not tear."""
    old = lab.signer.certificate()
    new = Authority("next")
    everybody = lab.machines.values()
    with Pings(lab.machines["home"], lab.machines["gpu"]) as pings:
        for machine in everybody:
            machine.trust(old + new.certificate())
        lab.reload()
        pings.flows(1)
        for machine in everybody:  # one after the other, as people do: each pair works while only one of the two has changed
            machine.certify(new)
            machine.reload()
            pings.flows(0.2)
        # What was signed by the old authority is still in each other's tunnels: they must shake hands again before it goes.
        pings.flows(2)
        for machine in everybody:
            machine.trust(new.certificate())
        lab.reload()
        pings.flows(5)
    print(f"{pings.answered} pings during the rotation, lost: {len(pings.lost)}")
    assert pings.answered > 150
    assert pings.lost == []
    lab.trusts(new)


def test_a_revoked_node_is_out_within_ten_seconds_and_nobody_else_notices(lab: Lab) -> None:
    """A node whose key leaked must not keep the tunnel that it has, and cutting it off must not cost another conversation."""
    home, gpu, other = (lab.machines[name] for name in ("home", "gpu", "other"))
    with Pings(home, other) as doomed, Pings(home, gpu) as bystander:
        begin = time.monotonic()
        for machine in lab.machines.values():
            if machine is not other:
                machine.block(other.fingerprint())
        wait(lambda: doomed.silent > 2, "the revoked node to be silent")
        out = time.monotonic() - begin - doomed.silent
        bystander.flows(1)
    print(f"the last packet of the revoked node came {out:.1f} s after the revocation")
    assert out < 10
    assert bystander.lost == []
    other.stop()
    other.start()
    assert not home.pings(other, wait=2), "it came back with the same certificate"
    other.stop()
    other.certify(lab.signer)  # a new certificate lets it in again, and the tests after this one need it
    other.start()
    home.reaches(other)


def test_both_lighthouses_die_and_live_tunnels_go_on(lab: Lab) -> None:
    """A lighthouse is a signpost, not a bridge: its death must not be felt by those who have found each other."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    with Pings(home, gpu) as pings:
        for name in ("one", "two"):
            lab.machines[name].stop(kill=True)
        pings.flows(2)
        for name in ("one", "two"):
            lab.machines[name].start()
        pings.flows(1)
    assert pings.lost == []
    home.reaches(lab.machines["one"])


def test_a_node_is_found_while_one_of_two_lighthouses_is_down(lab: Lab) -> None:
    """With one lighthouse alone, a node that starts in its absence is invisible; the second one is there for exactly that."""
    laptop, gpu, home, one = (lab.machines[name] for name in ("laptop", "gpu", "home", "one"))
    one.stop(kill=True)
    try:
        for machine in (gpu, laptop):
            machine.stop()
            machine.start()
        assert home.reaches(gpu) < 10
        assert laptop.reaches(home) < 10
    finally:
        one.start()


def test_a_replaced_node_is_found_at_its_new_address(lab: Lab) -> None:
    """It died without a word, so home still sends to where it was. A held request must not wait long for the one that took its place."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    gpu.stop(kill=True)
    gpu.move("10.99.0.77")
    gpu.start()
    took = home.reaches(gpu)
    print(f"a node that died without a word was found at its new address after {took:.1f} s")
    assert took < 25


def test_a_cut_line_heals_by_itself(lab: Lab) -> None:
    """The house's internet goes for some seconds: nobody may have to restart anything."""
    home, gpu = lab.machines["home"], lab.machines["gpu"]
    home.cut()
    assert not home.pings(gpu)
    time.sleep(2)
    home.restore()
    took = home.reaches(gpu)
    print(f"after a cut of 3 s the line healed in {took:.2f} s")
    assert took < 10


def test_two_that_cannot_talk_directly_are_relayed(lab: Lab) -> None:
    """Behind two strict routers no direct path opens: then a lighthouse carries the packets, slower but at all."""
    laptop, home = lab.machines["laptop"], lab.machines["home"]
    for here, there in ((laptop, home), (home, laptop)):
        _refuse(here, there)
    laptop.stop()
    home.stop()
    try:
        home.start()
        laptop.start()
        took = laptop.reaches(home)
        print(f"a relayed tunnel was there after {took:.2f} s")
        assert took < 15
        assert sight.way(laptop.log(), IPv4Address(home.overlay)) == "relayed"
    finally:
        for machine in (laptop, home):
            machine.run("nft", "flush", "ruleset")


def _refuse(here: Machine, there: Machine) -> None:
    rules = f"table inet lab {{ chain in {{ type filter hook input priority 0; ip saddr {there.underlay} drop; }}; }}"
    here.run("nft", "-f", "-", input=rules)
