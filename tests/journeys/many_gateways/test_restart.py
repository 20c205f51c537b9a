"""Two gateways behind a load balancer, a keeper beside them: each is restarted in turn, and nobody who asks notices."""

from tests.journeys.many_gateways.cluster import Cluster, Load


def test_a_rolling_restart_loses_nothing(cluster: Cluster) -> None:
    """If this fails, every update of a team's installation breaks answers that people are reading."""
    cluster.keeper("keeper")
    gateways = [cluster.gateway("one"), cluster.gateway("two")]
    cluster.awake(*gateways)
    with Load(gateways) as load:
        load.more(20)
        for one in gateways:
            assert one.stop() == 0, one.text()[-2000:]
            load.more(15)
            one.start()
            cluster.awake(one)
            load.more(20)
    assert load.failures == []
    assert load.slowest < 15
