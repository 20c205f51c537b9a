"""Several keepers: one leads, another takes over when it dies, and one that was frozen finds out that it leads no more."""

import signal
import time

from tests.journeys.harness import eventually
from tests.journeys.many_gateways.cluster import Cluster, KeeperServer, Load


def _leader(*keepers: KeeperServer) -> KeeperServer:
    leading = [one for one in keepers if one.leads()]
    assert len(leading) == 1, "exactly one keeper leads"
    return leading[0]


def test_another_keeper_takes_over_within_seconds(cluster: Cluster) -> None:
    """If this fails, the death of one machine leaves nobody to wake models, or to end them, until a person comes."""
    keepers = (cluster.keeper("first"), cluster.keeper("second"))
    eventually(lambda: any(one.leads() for one in keepers), what="a keeper leads")
    gateway = cluster.gateway("gateway")
    cluster.awake(gateway)
    dying = _leader(*keepers)
    (left,) = (one for one in keepers if one is not dying)
    with Load([gateway], people=2) as load:
        load.more(4)
        before, began = cluster.term(), time.monotonic()
        dying.kill()
        eventually(left.leads, what="the other keeper leads")
        took = time.monotonic() - began
        load.more(4)
    assert took <= 13, f"the takeover took {took:.1f} s"  # a lease of 10 s, a try each second, and a busy machine
    assert cluster.term() == before + 1
    assert load.failures == []
    began = time.monotonic()
    third = cluster.keeper("third")
    assert left.stop() == 0
    eventually(third.leads, what="the third leads at once when its predecessor ends in order")
    assert time.monotonic() - began < 12


def test_a_frozen_leader_steps_down(cluster: Cluster) -> None:
    """If this fails, a keeper that comes back from a long pause acts beside its successor for ever: everything twice."""
    keepers = (cluster.keeper("first"), cluster.keeper("second"))
    eventually(lambda: any(one.leads() for one in keepers), what="a keeper leads")
    gateway = cluster.gateway("gateway")
    cluster.awake(gateway)
    frozen = _leader(*keepers)
    (other,) = (one for one in keepers if one is not frozen)
    assert frozen.process is not None
    frozen.process.send_signal(signal.SIGSTOP)
    eventually(other.leads, what="the other keeper leads")
    frozen.process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    eventually(lambda: [one.leads() for one in keepers].count(True) == 1, what="one of them leads")
    assert _leader(*keepers) is other
    assert time.monotonic() - began < 30
    term = cluster.term()
    time.sleep(3)
    assert (cluster.term(), _leader(*keepers)) == (term, other)
    assert gateway.model("m")["state"] == "awake"


def test_a_gateway_and_a_keeper_share_a_machine(cluster: Cluster) -> None:
    """If this fails, the halves cannot be restarted one by one on the machine that most people have: the only one."""
    keeper = cluster.keeper("shared")
    gateway = cluster.gateway("shared")
    cluster.awake(gateway)
    second = cluster._new(KeeperServer, "shared", "--only", "keeper").start(ready=False)
    assert second.process is not None
    assert second.process.wait(60) == 4  # the folder has a keeper already
    assert "already runs with the data folder" in gateway.text()
    assert gateway.stop() == 0
    assert keeper.leads()
    gateway.start()
    cluster.awake(gateway)
