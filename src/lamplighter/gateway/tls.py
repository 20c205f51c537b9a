"""HTTPS with a certificate from files: read at the start, read again when they change, for the connections that come then.

Running connections keep what they began with; a new file that is broken is said in the log and changes nothing. Not responsible for getting
certificates, nor for TLS towards engines (`upstream`).
"""

import ssl
from pathlib import Path

import structlog
import uvicorn

from lamplighter.config.security import TlsConfig
from lamplighter.core.clock import Clock
from lamplighter.core.errors import ConfigError

CHECK_SECONDS = 5.0
"""How often the files are looked at; a change counts once it stayed the same for two looks, since the two files change one after the other."""

log = structlog.get_logger(__name__)

_Signature = tuple[tuple[int, int, int] | None, ...]


class Certificate:
    """The certificate of one process. `context` is for its listening sockets, for as long as they live. Raises ConfigError when made."""

    def __init__(self, config: TlsConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._loaded = self._signature()
        self._pending: _Signature | None = None
        self._current = _load(config)
        self.context = _load(config)
        # A context cannot be changed without a moment in which certificate and key do not belong together: each handshake takes the newest.
        self.context.sni_callback = self._choose

    @property
    def file(self) -> str:
        """The certificate's file, for programs of this machine that want to know whom they speak with."""
        return str(Path(self._config.certificate).absolute())

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        handshake.context = self._current

    async def follow(self) -> None:
        """Look at the files for ever."""
        while True:
            await self._clock.sleep(CHECK_SECONDS)
            self.look()

    def look(self) -> None:
        """Read the files anew if they changed and are at rest."""
        signature = self._signature()
        if signature == self._loaded:
            self._pending = None
        elif signature != self._pending:
            self._pending = signature
        else:
            self._pending, self._loaded = None, signature
            try:
                self._current = _load(self._config)
            except ConfigError as error:
                log.error(  # noqa: TRY400 - the sentence says it; a traceback would not help anybody
                    "certificate_not_reloaded", error=error.message, next_step="The one in use stays until the files are good."
                )
            else:
                log.info("certificate_reloaded", file=self._config.certificate)

    def _signature(self) -> _Signature:
        return tuple(_stat(Path(name)) for name in (self._config.certificate, self._config.key))


def secure(settings: uvicorn.Config, certificate: Certificate | None) -> uvicorn.Config:
    """uvicorn's `settings`, made to speak HTTPS with `certificate`; unchanged without one."""
    settings.load()
    if certificate is not None:
        settings.ssl = certificate.context
    return settings


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _load(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    for name, path in (("certificate", config.certificate), ("key", config.key)):
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise ConfigError(
                f"server.tls.{name}: {path} cannot be read: {error.strerror}", where=f"server.tls.{name}", next_step="Name a PEM file that this user may read."
            ) from error  # fmt: skip
    try:
        # Without a function for the passphrase, OpenSSL would ask for it on the terminal and wait.
        context.load_cert_chain(config.certificate, config.key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as error:
        detail = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        raise ConfigError(
            f"server.tls: {config.certificate} and {config.key} cannot be used: {detail}",
            where="server.tls",
            next_step="Both must be PEM and belong together; the key without a passphrase.",
        ) from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")
