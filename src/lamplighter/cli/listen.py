"""The port: taken before anything else is done, so that a second start fails at once and in words. Also how the address reads as a URL."""

import errno
import ipaddress
import socket
import sys

from lamplighter.core.errors import AlreadyRunning, ConfigError

_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; `port` 0 lets the system choose. Raises AlreadyRunning (taken), ConfigError (never possible)."""
    return _listen(host, port, share=False)


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listeners on one port, among which the kernel divides the connections; where it does not (outside Linux), the same one each time.

    Whoever serves one may die: as long as the socket stays open here, what has connected waits for the next. Raises as `listen`.
    """
    first = listen(host, port)
    if not sys.platform.startswith("linux") or count == 1:
        return [first] * count
    port = int(first.getsockname()[1])
    first.close()  # it has shown that nobody else is there: sockets that share a port do not say so
    return [_listen(host, port, share=True) for _ in range(count)]


def _listen(host: str, port: int, *, share: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"the address {host!r} is not known: {error}", where="server.host", next_step="Write an address of this machine with --host."
        ) from error  # fmt: skip
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # `::` means everywhere, IPv4 included.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)  # two sockets may be bound to one port until one of them listens: only this claims it
    except OSError as error:
        listener.close()
        raise _refused(host, port, error) from error
    listener.setblocking(False)
    return listener


def _refused(host: str, port: int, error: OSError) -> AlreadyRunning | ConfigError:
    if error.errno == errno.EADDRINUSE:
        return AlreadyRunning(
            f"port {port} on {host} is already in use",
            next_step=f"Choose another: `lamplighter up --port {port + 1 if port < 65535 else 8080}`; `--port 0` takes a free one.",
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"port {port} may only be used by the administrator of this machine",
            where="server.port",
            next_step="Choose one above 1023 with --port.",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"{host} is not an address of this machine",
            where="server.host",
            next_step="Choose 127.0.0.1, or 0.0.0.0 for every address, with --host.",
        )
    return ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}", where="server.host")


def local_url(listener: socket.socket, *, tls: bool = False) -> str:
    """The URL by which programs of this machine reach the listener."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_unspecified:
        return f"{scheme}://127.0.0.1:{port}"
    return f"{scheme}://[{host}]:{port}" if address.version == 6 else f"{scheme}://{host}:{port}"


def is_public(listener: socket.socket) -> bool:
    """Whether other machines can reach the listener."""
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback
