"""Under which names we may be asked, and whose word on the client's address counts.

A web page can make its own host name point at this machine (DNS rebinding) and then ask us as if it were ours; the Host header betrays it.
A proxy hides the client's address; the headers in which it tells it can be written by anybody. Not responsible for who may ask: keys say that.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from lamplighter.config import ServerConfig

_REMEMBERED = 4096
"""Addresses whose standing is kept in memory."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Hosts:
    """The names under which one gateway may be asked.

    `strict`: the configuration lists them, so every request is checked. Otherwise only what arrives on loopback without a key is: a page
    that rebound its name knows no key, and on loopback there are things that need none.
    """

    def __init__(self, server: ServerConfig) -> None:
        self.strict = server.allowed_hosts is not None
        allowed = set(server.allowed_hosts or ())
        if server.public_url is not None and (own := urlsplit(server.public_url).hostname):
            allowed.add(own.lower())
        self._any = "*" in allowed
        self._endings = tuple(name[1:] for name in allowed if name.startswith("*."))
        self._names = frozenset(name for name in allowed if not name.startswith("*")) | {"localhost"}
        self._known: dict[bytes, bool] = {}

    def admits(self, host: bytes | None) -> bool:
        """Whether a request with this Host header may be answered. Without one it is no browser's."""
        if host is None or self._any:
            return True
        known = self._known.get(host)
        if known is None:
            known = self._judge(host)
            if len(self._known) < _REMEMBERED:
                self._known[host] = known
        return known

    def _judge(self, host: bytes) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if name in self._names or name.endswith(".localhost") or (self._endings and name.endswith(self._endings)):
            return True
        return _address(name) is not None  # nobody can make an address point elsewhere


def host_name(host: bytes) -> str | None:
    """The name or address in a Host header, in lower case, without port and brackets; None when it is no such header."""
    try:
        text = host.decode("ascii").strip().lower()
    except UnicodeDecodeError:
        return None
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            return None
        port = port[1:]
    else:
        name, _, port = text.partition(":")
    if port and not port.isdigit():
        return None
    return name.removesuffix(".") or None


def on_loopback(address: str | None) -> bool:
    """Whether this address is only reachable from this machine."""
    parsed = _address(address or "")
    return parsed is not None and parsed.is_loopback


class Proxies:
    """Whose `X-Forwarded-*` headers count. With no networks: nobody's."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: str | None) -> bool:
        """Whether this peer speaks for others."""
        if address is None or not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            parsed = _address(address)
            known = parsed is not None and any(parsed in network for network in self._networks)
            if len(self._known) < _REMEMBERED:
                self._known[address] = known
        return known

    def client(self, peer: str | None, forwarded: Iterable[bytes]) -> str | None:
        """The client's address: the peer's own, unless that is a trusted proxy; then the last in `X-Forwarded-For` that no trusted proxy has.

        What stands before it may have been written by the client itself.
        """
        if not self.trusts(peer):
            return peer
        found = peer
        for part in reversed(b",".join(forwarded).split(b",")):
            text = _plain(part)
            if text is None:
                break
            found = text
            if not self.trusts(text):
                break
        return found


def _plain(part: bytes) -> str | None:
    """One entry of X-Forwarded-For as a normal address, without the port that some proxies add; None when it is none."""
    text = part.decode("latin-1").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    parsed = _address(text)
    return str(parsed) if parsed is not None else None


def _address(text: str) -> Address | None:
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
