"""A change with two gateways and two keepers on one PostgreSQL: both send each conversation to the same side, and a dead keeper is followed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.harness import Server, eventually
from tests.journeys.invariants import assert_quiet
from tests.journeys.many_gateways.cluster import Cluster
from tests.journeys.switch.crowd import Crowd, Engines
from tests.journeys.switch.test_switch import shown, switch
from tests.services import Postgres

CONFIG = """
models: {{chat: {{engine: openai, pool: old}}, better: {{engine: openai, pool: new, source: chat}}}}
pools: {{old: {{kind: static, url: "{engine}"}}, new: {{kind: static, url: "OTHER"}}}}
store: {{url: env:DATABASE_URL}}
keeper: {{interval: 500ms}}
"""


@pytest.fixture
def cluster(postgres_server: Postgres, tmp_path: Path) -> Iterator[Cluster]:
    """Nothing runs yet but PostgreSQL and two engines."""
    with Engines() as engines:
        old, new = (engines.new(model="chat", tokens_per_second=2000) for _ in range(2))
        made = Cluster(
            postgres_server, tmp_path, old.url, postgres_server.create("lamplighter"), config=CONFIG.replace("OTHER", new.url)
        )
        try:
            yield made
        finally:
            made.end()


def target(server: Server, what: str) -> str:
    with server.http() as client:
        body = {"model": "chat", "messages": [{"role": "user", "content": what}]}
        return client.post("/v1/chat/completions", json=body).raise_for_status().headers["lamplighter-model"]


def test_two_gateways_agree_and_a_dead_keeper_is_followed(cluster: Cluster) -> None:
    """A chat would jump between two models with each gateway that it meets, or a keeper's death would leave a change half done."""
    first = cluster.keeper("k1")
    gateways = [cluster.gateway("g1"), cluster.gateway("g2")]
    for one in gateways:
        one.until("awake", "chat")
        one.until("awake", "better")
    with Crowd(gateways[0].url, "chat", people=2).asking() as here, Crowd(gateways[1].url, "chat", people=2).asking() as there:
        eventually(lambda: min(here.answered["chat"], there.answered["chat"]) > 20, what="both answer")
        switch(gateways[0], "chat", "--to", "better", "--steps", "50%", "--every", "25s", "--settle", "3s", "--samples", "10")
        eventually(lambda: shown(gateways[1])["rollout"]["phase"] == "serving", what="the canary serves")
        eventually(lambda: min(here.answered["better"], there.answered["better"]) > 5, what="both send a part there")
        conversations = [f"Conversation {number}" for number in range(12)]
        sides = [[target(one, what) for what in conversations] for one in gateways]
        assert sides[0] == sides[1]
        assert set(sides[0]) == {"chat", "better"}
        cluster.keeper("k2")
        first.kill()
        eventually(
            lambda: shown(gateways[1])["rollout"]["phase"] == "promoted", what="the second keeper promotes it", timeout=120
        )
        before = there.answered["better"]
        eventually(lambda: there.answered["better"] > before + 20, what="everything is on the new one")
    assert here.wrong == there.wrong == []
    seen = [event["to_phase"] for event in shown(gateways[0])["rollout"]["events"]]
    assert seen == ["waking", "checking", "serving", "serving", "promoted"]
    assert [target(one, what) for one in gateways for what in conversations] == ["better"] * 24
    for one in gateways:
        assert_quiet(one)
