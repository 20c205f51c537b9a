"""HTTPS of our own: what clients are shown, and what happens when the files change under us."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
import trustme
import uvicorn
import uvloop

from lamplighter.config.security import TlsConfig
from lamplighter.core.errors import ConfigError
from lamplighter.gateway.server import configure
from lamplighter.gateway.tls import CHECK_SECONDS, Certificate, secure
from lamplighter.testing.clock import VirtualClock

AUTHORITY = trustme.CA()


def issue(folder: Path, name: str = "llm.example.com", authority: trustme.CA = AUTHORITY) -> TlsConfig:
    """A certificate for `name`, in place of whatever is there."""
    issued = authority.issue_cert(name)
    certificate, key = folder / "tls.crt", folder / "tls.key"
    for path, blobs in ((certificate, issued.cert_chain_pems), (key, [issued.private_key_pem])):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
        fresh.replace(path)
    return TlsConfig.model_validate({"certificate": str(certificate), "key": str(key)})


def trusting(minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, maximum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    context.minimum_version = minimum
    if maximum is not None:
        context.maximum_version = maximum
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def app(scope: dict[str, object], receive: object, send: object) -> None:
    assert callable(send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(certificate: Certificate) -> AsyncIterator[int]:
    """A server with our protocol on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(secure(configure(app, loop="none", lifespan="off", log_level="error"), certificate))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment] # signals are the test runner's
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


async def ask(
    port: int, name: str | None, context: ssl.SSLContext | None = None
) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as a client that knows the host as `name`; the name on the certificate, and the open connection."""
    context = context or trusting()
    if name is None:
        context.check_hostname = False
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    shown = writer.get_extra_info("peercert")["subjectAltName"][0][1]
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    await speak(reader, writer)
    return shown, reader, writer


async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"ok"), 5)).startswith(b"HTTP/1.1 200")


async def test_a_new_certificate_counts_for_new_connections_only(tmp_path: Path) -> None:
    """A renewed certificate would need a restart, or cut every stream that runs."""
    clock = VirtualClock()
    certificate = Certificate(issue(tmp_path), clock)
    async with serving(certificate) as port:
        shown, reader, writer = await ask(port, "llm.example.com")
        assert shown == "llm.example.com"
        issue(tmp_path, "new.example.com")
        certificate.look()  # still being written, perhaps
        assert (await ask(port, "llm.example.com"))[0] == "llm.example.com"
        certificate.look()
        assert (await ask(port, "new.example.com"))[0] == "new.example.com"
        assert (await ask(port, None))[0] == "new.example.com"  # a client that names no host
        await speak(reader, writer)
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(port, "llm.example.com")


async def test_a_broken_certificate_changes_nothing_and_is_said(tmp_path: Path) -> None:
    """Half a file, or a key of another certificate, would take HTTPS down at once or at the next restart."""
    certificate = Certificate(issue(tmp_path), VirtualClock())
    async with serving(certificate) as port:
        other = trustme.CA().issue_cert("x").private_key_pem.bytes()
        for name, broken in (("tls.crt", b"not PEM"), ("tls.key", other), ("tls.crt", b"")):
            (tmp_path / name).write_bytes(broken)
            with structlog.testing.capture_logs() as logged:
                for _ in range(4):
                    certificate.look()
            assert [line["event"] for line in logged] == ["certificate_not_reloaded"], name  # once, not at every look
            assert (await ask(port, "llm.example.com"))[0] == "llm.example.com"
        (tmp_path / "tls.key").unlink()
        certificate.look()
        certificate.look()
        assert (await ask(port, "llm.example.com"))[0] == "llm.example.com"
        issue(tmp_path, "new.example.com")
        certificate.look()
        certificate.look()
        assert (await ask(port, "new.example.com"))[0] == "new.example.com"


async def test_the_files_are_followed(tmp_path: Path) -> None:
    """Nobody would look at the files at all."""
    clock = VirtualClock()
    certificate = Certificate(issue(tmp_path), clock)
    following = asyncio.create_task(certificate.follow())
    async with serving(certificate) as port:
        issue(tmp_path, "new.example.com")
        await clock.advance(3 * CHECK_SECONDS)
        assert (await ask(port, "new.example.com"))[0] == "new.example.com"
    following.cancel()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it is old TLS that is tried
async def test_old_tls_is_refused(tmp_path: Path) -> None:
    """Versions with known weaknesses could be negotiated."""
    context = trusting(ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with serving(Certificate(issue(tmp_path), VirtualClock())) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(port, "llm.example.com", context)
        assert (await ask(port, "llm.example.com"))[0] == "llm.example.com"


async def test_plain_http_on_a_tls_port_ends_at_once(tmp_path: Path) -> None:
    """A client that forgot the `s` would hang."""
    async with serving(Certificate(issue(tmp_path), VirtualClock())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"200" not in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert (await ask(port, "llm.example.com"))[0] == "llm.example.com"


@pytest.mark.parametrize("broken", ["missing", "garbage", "foreign key", "passphrase"])
def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, broken: str) -> None:
    """The server would start without HTTPS, ask for a passphrase on a terminal that nobody sees, or end in a traceback."""
    config = issue(tmp_path)
    key = tmp_path / "tls.key"
    if broken == "missing":
        key.unlink()
    elif broken == "garbage":
        (tmp_path / "tls.crt").write_text("garbage")
    elif broken == "foreign key":
        key.write_bytes(AUTHORITY.issue_cert("y").private_key_pem.bytes())
    else:
        from cryptography.hazmat.primitives import serialization

        plain = serialization.load_pem_private_key(key.read_bytes(), None)
        locked = serialization.BestAvailableEncryption(b"secret")
        key.write_bytes(plain.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    with pytest.raises(ConfigError) as caught:
        Certificate(config, VirtualClock())
    assert caught.value.next_step


def test_it_works_on_the_loop_that_serves(tmp_path: Path) -> None:
    """The certificate could only be changed on asyncio's own loop, and `lamplighter up` runs on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_a_new_certificate_counts_for_new_connections_only(tmp_path))
