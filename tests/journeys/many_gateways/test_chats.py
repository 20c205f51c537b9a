"""A chat whose page talks to one gateway while another one writes the answer."""

import json
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.journeys.harness import ADMIN_KEY, Server
from tests.journeys.many_gateways.cluster import Cluster, fake_engine


def _page(server: Server) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "/api/ws", additional_headers={"authorization": f"Bearer {ADMIN_KEY}"})


def _next(page: ClientConnection, kind: str) -> dict[str, Any]:
    """The next frame of this type."""
    while True:
        frame: dict[str, Any] = json.loads(page.recv(timeout=30))
        if frame["type"] == "error":
            raise AssertionError(frame)
        if frame["type"] == kind:
            return frame


def test_an_answer_is_followed_and_stopped_from_another_gateway(cluster: Cluster) -> None:
    """If this fails, a page that reconnects to another gateway sees an answer stand still, and its Stop button does nothing."""
    with fake_engine(speed=2) as slow:
        cluster.engine = slow
        cluster.keeper("keeper")
        one, two = cluster.gateway("one"), cluster.gateway("two")
        cluster.awake(one, two)
        with _page(one) as first, _page(two) as second:
            first.send(json.dumps({"type": "start", "client_request_id": "r1", "model": "m", "content": "Hello!"}))
            generation = _next(first, "started")["generation_id"]
            _next(second, "chat")  # the new chat appears in the other page by itself
            second.send(json.dumps({"type": "tail", "generation_id": generation, "after": 0}))
            text = ""
            while len(text.split()) < 3:
                event = _next(second, "event")
                text += event["data"].get("text", "") if event["kind"] == "delta" else ""
            second.send(json.dumps({"type": "cancel", "generation_id": generation}))
            for page in (first, second):
                while (event := _next(page, "event"))["kind"] != "done":
                    pass
                assert event["data"]["status"] == "cancelled"
                assert event["data"]["message"]["content"].startswith(text.strip()[:10])
