"""What containers wrote, and the kubelet's HTTPS port from which an API server fetches it. The certificate is made at the start and signed by nobody."""

import datetime as dt
import ipaddress
import ssl
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lamplighter.testing.http import Exchange, HttpServer
from lamplighter.testing.kubernetes.times import now_text

_HOST = "127.0.0.1"


class LogServer:
    """Logs of one node's containers, by namespace, pod and container: of this run and of the one before."""

    def __init__(self) -> None:
        self.host = _HOST
        self._server: HttpServer | None = None
        self._now: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        self._before: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        self._waiting: dict[tuple[str, str, str], str] = {}

    @property
    def port(self) -> int:
        """Where it listens; the kubelet's usual port before it does."""
        return self._server.port if self._server is not None else 10250

    async def start(self) -> None:
        """Listen."""
        self._server = HttpServer(self._answer, host=self.host, tls=_context())
        await self._server.start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.stop()

    def write(self, key: tuple[str, str, str], *lines: str) -> None:
        """A container wrote lines."""
        self._now.setdefault(key, []).extend((now_text(micro=True), line) for line in lines)

    def waits(self, key: tuple[str, str, str], why: str | None) -> None:
        """A container has not started, for a reason; None: it has."""
        if why is None:
            self._waiting.pop(key, None)
        else:
            self._waiting[key] = why

    def ended(self, key: tuple[str, str, str]) -> None:
        """A container ended: what it wrote is the run before's now."""
        self._before[key] = self._now.pop(key, [])

    def last(self, key: tuple[str, str, str], most: int = 2048) -> str:
        """The end of what a container wrote, as `terminationMessagePolicy: FallbackToLogsOnError` takes it."""
        return "\n".join(line for _, line in self._now.get(key, []))[-most:]

    async def _answer(self, exchange: Exchange) -> None:
        parts = exchange.request.path.strip("/").split("/")
        if len(parts) != 4 or parts[0] != "containerLogs":
            exchange.answer(404, b"404 page not found\n", "text/plain")
            return
        key = (parts[1], parts[2], parts[3])
        query = dict(parse_qsl(exchange.request.target.partition("?")[2]))
        previous = query.get("previous") in ("true", "1")
        if previous and key not in self._before:
            message = f'previous terminated container "{parts[3]}" in pod "{parts[2]}" not found'
            exchange.answer(400, message.encode(), "text/plain")
            return
        lines = self._before[key] if previous else self._now.get(key, self._before.get(key))
        if lines is None or (not previous and key in self._waiting and key not in self._before):
            why = self._waiting.get(key, "ContainerCreating")
            exchange.answer(400, f'container "{parts[3]}" in pod "{parts[2]}" is waiting to start: {why}'.encode(), "text/plain")
            return
        if "tailLines" in query:
            tail = int(query["tailLines"])
            lines = lines[-tail:] if tail else []
        shown = [f"{at} {line}" if query.get("timestamps") in ("true", "1") else line for at, line in lines]
        body = "".join(f"{line}\n" for line in shown).encode()
        exchange.answer(200, body[: int(query.get("limitBytes", len(body)))], "text/plain")


def _context() -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pretended-kubelet")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_HOST))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kubelet.pem"
        file.touch(mode=0o600)
        file.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context


__all__ = ["LogServer"]
