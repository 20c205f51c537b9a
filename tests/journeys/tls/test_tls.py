"""HTTPS without a proxy: the server's own certificate, its renewal under a running stream, and a command line that still finds its server."""

import contextlib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import trustme

from tests.journeys.harness import ADMIN_KEY, PROGRAM, Server, eventually

NAME = "llm.example.com"
CONFIG = """
server:
  public_url: https://llm.example.com
  tls: {{certificate: {folder}/tls.crt, key: {folder}/tls.key}}
models:
  slow: {{engine: fake, pool: cloud}}
pools:
  cloud: {{kind: fake, stages: {{boot: 100ms}}, tokens_per_second: 1}}
"""
QUESTION = {"model": "slow", "stream": True, "max_tokens": 30, "messages": [{"role": "user", "content": "Say something."}]}


class TlsServer(Server):
    """A server that is only reached with the right trust, by its public name."""

    trust: ssl.SSLContext

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()
        with contextlib.suppress(OSError, ValueError, httpx.HTTPError), self.http() as client:
            return client.get("/ready").status_code == 200
        return False

    def http(self, **options: Any) -> httpx.Client:
        client = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {ADMIN_KEY}", "host": NAME},
            timeout=60,
            transport=httpx.HTTPTransport(verify=self.trust),
            **options,
        )
        client.event_hooks = {"request": [_named]}
        return client


def _named(request: httpx.Request) -> None:
    request.extensions["sni_hostname"] = NAME


def issue(authority: trustme.CA, folder: Path) -> str:
    """A new certificate in the files; its serial number."""
    issued = authority.issue_cert(NAME)
    for name, text in (("tls.crt", issued.cert_chain_pems[0].bytes()), ("tls.key", issued.private_key_pem.bytes())):
        fresh = folder / f"{name}.new"
        fresh.write_bytes(text)
        fresh.replace(folder / name)
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number:X}"


@contextlib.contextmanager
def serving(folder: Path, authority: trustme.CA) -> Iterator[TlsServer]:
    server = TlsServer(folder / "data", CONFIG.format(folder=folder))
    server.trust = ssl.create_default_context()
    authority.configure_trust(server.trust)
    server.start()
    try:
        yield server
        server.idle()
        assert server.stop() == 0
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def serial(server: TlsServer) -> str:
    """Of the certificate that a new client is shown."""
    port = int(server.url.rsplit(":", 1)[1])
    import socket

    with socket.create_connection(("127.0.0.1", port), 10) as plain, server.trust.wrap_socket(plain, server_hostname=NAME) as tls:
        shown = tls.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"]).lstrip("0")


def cli(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words, "--data", server.data],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_renewed_certificate_needs_no_restart(tmp_path: Path) -> None:
    """Every renewal would cut the running answers, or be forgotten until the old certificate expires."""
    authority = trustme.CA()
    first = issue(authority, tmp_path)
    with serving(tmp_path, authority) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert serial(server) == first.lstrip("0")
        status = cli(server, "status")
        assert status.returncode == 0, (
            status.stderr
        )  # although its certificate is for another name, of an authority that nobody knows
        assert "slow" in status.stdout

        text: list[str] = []

        def stream() -> None:
            with server.http() as client, client.stream("POST", "/v1/chat/completions", json=QUESTION) as answer:
                text.extend(answer.iter_text())

        streaming = threading.Thread(target=stream)
        streaming.start()
        eventually(lambda: text, what="the stream begins")
        (tmp_path / "tls.key").write_text("broken")
        time.sleep(11)  # longer than two looks at the files
        assert serial(server) == first.lstrip("0")
        assert "certificate_not_reloaded" in server.text()
        second = issue(authority, tmp_path)
        eventually(lambda: serial(server) == second.lstrip("0"), what="the new certificate is shown")
        assert cli(server, "status").returncode == 0
        streaming.join(60)
        assert "".join(text).rstrip().endswith("data: [DONE]")

        with server.http() as client:
            assert client.get("/").headers["strict-transport-security"].startswith("max-age=")
            opened = client.post("/api/session", json={"key": ADMIN_KEY})
            assert "Secure" in opened.headers["set-cookie"]
            assert "server" not in opened.headers


def test_a_bad_certificate_is_one_clear_line(tmp_path: Path) -> None:
    """A server that should be encrypted would start without, or end in a traceback."""
    (tmp_path / "tls.crt").write_text("no PEM")
    (tmp_path / "tls.key").write_text("no PEM")
    server = TlsServer(tmp_path / "data", CONFIG.format(folder=tmp_path))
    server.start(ready=False)
    assert server.process is not None
    assert server.process.wait(60) != 0
    assert "server.tls" in server.text()
    assert "Traceback" not in server.text()


def test_the_command_line_trusts_no_other_certificate(tmp_path: Path) -> None:
    """Whoever takes the port after the server ended would be given the command line's key."""
    authority = trustme.CA()
    issue(authority, tmp_path)
    with serving(tmp_path, authority) as server:
        mine = (tmp_path / "tls.crt").read_bytes()
        (tmp_path / "tls.crt").write_bytes(authority.issue_cert(NAME).cert_chain_pems[0].bytes())  # of the same authority
        refused = cli(server, "status")
        assert refused.returncode != 0
        assert "certificate" in refused.stderr.lower()
        (tmp_path / "tls.crt").write_bytes(mine)
        assert cli(server, "status").returncode == 0
