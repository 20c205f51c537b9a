"""`lamplighter up --workers`: several processes on one port behave as one server that is hard to kill."""

import re
import signal

import psutil

from tests.journeys.harness import Server, eventually
from tests.journeys.many_gateways.cluster import Cluster, Load


def _children(server: Server) -> list[psutil.Process]:
    assert server.process is not None
    return psutil.Process(server.process.pid).children()


def _metrics(server: Server) -> str:
    with server.http() as client:
        return client.get("/metrics").raise_for_status().text


def test_workers_are_one_server(cluster: Cluster) -> None:
    """If this fails, a second core makes an installation that forgets, miscounts, or does not end."""
    server = cluster.both("data", "--workers", "3")
    cluster.awake(server)
    with Load([server], people=6) as load:
        load.more(40)
    assert load.failures == []
    answered = re.findall(r'lamplighter_requests_total\{worker="(\d)",.*status="2xx"\} ([0-9.]+)', _metrics(server))
    assert sum(float(count) for _, count in answered) == load.done
    assert len([worker for worker, count in answered if float(count)]) >= 2, answered
    assert 'lamplighter_keeper_leads{worker="keeper"} 1.0' in _metrics(server)
    assert re.findall(r'"event":"request".*"worker":"(\d)"', server.text())
    before = _children(server)
    assert len(before) == 4
    assert server.stop() == 0
    assert not any(one.is_running() for one in before)


def test_a_worker_that_dies_is_replaced(cluster: Cluster) -> None:
    """If this fails, one crash costs a core until somebody restarts everything, or takes the other workers along."""
    server = cluster.both("data", "--workers", "2")
    cluster.awake(server)
    before = {one.pid for one in _children(server)}
    victim = next(one for one in _children(server) if 'worker="1"' in _metrics(server))
    victim.kill()
    eventually(lambda: len({one.pid for one in _children(server)} - before) == 1, what="a new worker is there")
    eventually(lambda: len(re.findall(r"lamplighter_worker_up\{.*\} 1", _metrics(server))) == 3, what="everybody answers")
    with Load([server], people=4) as load:
        load.more(12)
    assert load.failures == []


def test_nothing_outlives_the_parent(cluster: Cluster) -> None:
    """If this fails, `kill -9` of the parent leaves gateways that hold the port and the folder, and that nobody can stop."""
    server = cluster.both("data", "--workers", "2")
    children = _children(server)
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    eventually(lambda: not any(one.is_running() for one in children), what="the workers end by themselves")
    server.start()
    cluster.awake(server)
