"""The admin API on a port of its own: the public port has no admin's powers, the command line uses the other one without being told."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.journeys.harness import ADMIN_KEY, PROGRAM, Server, running

CONFIG = """
server:
  admin: {{port: 0, page: {page}}}
models:
  slow: {{engine: fake, pool: cloud}}
pools:
  cloud: {{kind: fake, stages: {{boot: 100ms}}}}
"""
KEY = {"authorization": f"Bearer {ADMIN_KEY}"}


class AdminServer(Server):
    """A server that is looked after by its admin port."""

    @property
    def admin_url(self) -> str:
        return str(json.loads((self.data / "run" / "server.json").read_text())["admin_url"])

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.admin_url, headers=KEY, timeout=60, **options)


@pytest.mark.parametrize("page", ["both", "admin"])
def test_admin_calls_have_a_port_of_their_own(tmp_path: Path, page: str) -> None:
    """An admin key that leaked could be used by everybody who reaches the public port."""
    server = AdminServer(tmp_path / "data", CONFIG.format(page=page))
    with running(server):
        admin_url = server.admin_url
        assert admin_url not in (None, server.url)
        with (
            httpx.Client(base_url=server.url, headers=KEY, timeout=60) as public,
            httpx.Client(base_url=admin_url, headers=KEY) as admin,
        ):
            question = {"model": "slow", "max_tokens": 2, "messages": [{"role": "user", "content": "Hello"}]}
            for client in (public, admin):
                assert client.post("/v1/chat/completions", json=question).status_code == 200
                assert client.get("/ready").status_code == 200
            for method, path in (
                ("POST", "/api/models/slow/sleep"),
                ("GET", "/api/keys"),
                ("GET", "/metrics"),
                ("POST", "/api/login-links"),
            ):
                refused = public.request(method, path)
                assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_port"), path
            assert admin.get("/api/keys").status_code == 200
            assert admin.get("/metrics").status_code == 200
            assert public.get("/", headers={"accept": "text/html"}).status_code == (403 if page == "admin" else 200)
            assert public.get("/api/status").status_code == (403 if page == "admin" else 200)
        for words in (["status"], ["keys", "list"], ["wake", "slow"]):
            done = subprocess.run(
                [PROGRAM, *words, "--data", server.data],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, done.stderr
        server_status = httpx.get(f"{admin_url}/api/status", headers=KEY).json()
        assert server_status["models"][0]["name"] == "slow"


def test_two_ports_that_are_one_are_refused(tmp_path: Path) -> None:
    """The server would start, and one of the two would silently not be there."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = CONFIG.format(page="both").replace("port: 0", f"port: {taken.getsockname()[1]}")
        server = Server(tmp_path / "data", config)
        server.start(ready=False)
        assert server.process is not None
        assert server.process.wait(60) != 0
        assert "already in use" in server.text()
