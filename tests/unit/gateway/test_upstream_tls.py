"""HTTPS towards engines: the right authority is enough, the wrong one is refused before anything is sent."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme

from lamplighter.config import ModelConfig
from lamplighter.core.endpoint import Endpoint
from lamplighter.engines.base import Health
from lamplighter.engines.openai import OpenAICompatible
from lamplighter.store import replicas
from tests.unit.gateway.harness import Rig, config_of, running

ANSWER = json.dumps(
    {"object": "list", "data": [{"id": "big"}], "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
)


class Engine:
    """Answers everything with the same JSON over TLS, and counts what it was asked."""

    def __init__(self, authority: trustme.CA, name: str = "127.0.0.1") -> None:
        self.asked = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        text = ANSWER.encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (len(text), text)
        )
        await writer.drain()
        writer.close()


async def _ask(rig: Rig, url: str, ca: str | None) -> int:
    replica = await rig.ready(url)
    await replicas.describe(rig.store, replica.id, term=rig.term, endpoint=Endpoint(url, None, ca))
    await rig.gateway.services.view.refresh()
    return (await rig.chat()).status_code


@pytest.mark.parametrize(
    ("trusted", "named"), [(True, True), (False, True), (True, False)], ids=["right", "unknown authority", "another name"]
)
async def test_engines_are_asked_over_https_with_an_authority_of_ones_own(tmp_path: Path, trusted: bool, named: bool) -> None:
    """Servers in one's own network have certificates that no public authority signed; anybody else's must not get the requests and the key."""
    authority = trustme.CA()
    engine = Engine(authority, "127.0.0.1" if named else "other.example")
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=engine.context)
    url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening, running(config_of(gateway={"retries": 0})) as rig:
        status = await _ask(rig, url, str(tmp_path / "ca.pem"))
        model = ModelConfig.model_validate({"engine": "openai", "pool": "x"})
        probe = await OpenAICompatible().probe(Endpoint(url, None, str(tmp_path / "ca.pem")), "big", model, timeout=5)
    if trusted and named:
        assert status == 200
        assert probe.health is Health.READY
    else:
        assert status >= 500
        assert probe.health is Health.DOWN
        assert engine.asked == 0


async def test_a_file_that_is_no_authority_is_an_error_in_words(tmp_path: Path) -> None:
    """A mistyped path would end the health checks, or every request, in a traceback."""
    (tmp_path / "ca.pem").write_text("nothing")
    endpoint = Endpoint("https://127.0.0.1:9", None, str(tmp_path / "ca.pem"))
    model = ModelConfig.model_validate({"engine": "openai", "pool": "x"})
    assert (await OpenAICompatible().probe(endpoint, "big", model, timeout=5)).health is Health.DOWN
