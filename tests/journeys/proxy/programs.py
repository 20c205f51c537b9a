"""Runs the real nginx and Caddy with the recipes that we ship, changed only where a machine's own names, ports and files stand."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from tests.journeys.harness import eventually

RECIPES = Path(__file__).parents[3] / "deploy" / "proxy"
NAME = "llm.example.com"
CLIENT = "127.0.0.2"
"""The client's address: another than the proxy's, which the gateway trusts."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy. `trust`: what a client must trust to speak with it."""

    port: int
    trust: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"https://{NAME}:{self.port}"

    def client(self, **options: object) -> httpx.Client:
        """A client that finds the public name on this machine, as the DNS would lead it there."""
        transport = _Here(verify=self.trust, local_address=CLIENT)
        return httpx.Client(base_url=self.url, transport=transport, timeout=60, **options)  # type: ignore[arg-type] # as given


class _Here(httpx.HTTPTransport):
    """Connects to this machine whatever the host is; TLS and Host keep the public name."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = NAME
        request.headers["host"] = NAME
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


def free_port() -> int:
    """A port that was free a moment ago: these programs cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"the recipe has no {old!r} any more"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def _run(command: list[str | Path], log: Path, port: int, environment: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)
    try:

        def listens() -> bool:
            assert process.poll() is None, log.read_text(errors="replace")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        eventually(listens, what=f"the proxy listens; its log:\n{log.read_text(errors='replace')}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextlib.contextmanager
def nginx(folder: Path, backend: int, *, read_timeout: str = "600s") -> Iterator[Proxy]:
    """nginx with our recipe before the gateway at port `backend`."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert(NAME)
    issued.cert_chain_pems[0].write_to_path(folder / "fullchain.pem")
    issued.private_key_pem.write_to_path(folder / "privkey.pem")
    port, plain = free_port(), free_port()
    site = _replaced(
        (RECIPES / "nginx.conf").read_text(),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "listen 80": f"listen 127.0.0.1:{plain}",
            "127.0.0.1:8080": f"127.0.0.1:{backend}",
            "/etc/letsencrypt/live/llm.example.com": str(folder),
            "proxy_read_timeout 600s": f"proxy_read_timeout {read_timeout}",
        },
    )
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole = f"pid {folder}/pid; daemon off; error_log stderr; worker_processes 1;\n"
    if os.geteuid() == 0:
        whole += "user root;\n"  # its workers must read what the test made
    whole += f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{site}\n}}\n"
    (folder / "nginx.conf").write_text(whole)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with _run([program, "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"], folder / "log", port):
        yield Proxy(port, trust)


@contextlib.contextmanager
def caddy(folder: Path, backend: int) -> Iterator[Proxy]:
    """Caddy with our recipe before the gateway at port `backend`; the certificate comes from its own authority instead of a public one."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed")
    folder.mkdir()
    port, plain = free_port(), free_port()
    site = _replaced(
        (RECIPES / "Caddyfile").read_text(),
        {
            "\nllm.example.com {": f"\nhttps://{NAME}:{port} {{\n\ttls internal\n\tbind 127.0.0.1",
            "127.0.0.1:8080": f"127.0.0.1:{backend}",
        },
    )
    options = f"{{\n\tadmin off\n\thttp_port {plain}\n\thttps_port {port}\n\tskip_install_trust\n\tstorage file_system {folder}/storage\n}}\n"
    (folder / "Caddyfile").write_text(options + site)
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command: list[str | Path] = [program, "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]
    with _run(command, folder / "log", port, environment):
        root = folder / "storage" / "pki" / "authorities" / "local" / "root.crt"
        eventually(root.exists, what="caddy made its authority")
        yield Proxy(port, ssl.create_default_context(cafile=str(root)))
