"""Refuses to act on anything but a pretended AWS: the endpoint must be this machine (or a network namespace that we made), the keys dummies.

Everything that emulates or drives the emulated AWS asks here first. A test that reached a real account would start real machines.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

KEY = "emulated"
"""Access key and secret of whoever is a person here: nothing that AWS could ever have given out."""
REGION = "eu-central-1"
ACCOUNT = "123456789012"
_REAL_PREFIXES = ("AKIA", "ASIA")
_OUTSIDE = ("AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


class NotEmulatedError(RuntimeError):
    """Something points at what may be a real AWS account."""


_namespaces: set[str] = set()


def allow(address: str) -> None:
    """Also take `address`: of a network namespace that the caller made, with no way out of this machine."""
    _namespaces.add(address)


def check_address(host: str) -> None:
    """Raise NotEmulatedError unless `host` is a loopback address or one that was allowed."""
    try:
        inside = host in _namespaces or ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside:
        message = f"{host!r} is neither this machine's loopback nor a network namespace of a test."
        raise NotEmulatedError(message)


def check(environment: Mapping[str, str]) -> None:
    """Raise NotEmulatedError unless AWS's variables in `environment` lead to an emulator, with dummy keys and no way around them."""
    url = environment.get("AWS_ENDPOINT_URL")
    if not url:
        message = "AWS_ENDPOINT_URL is not set: this would reach the real AWS."
        raise NotEmulatedError(message)
    check_address(urlsplit(url).hostname or "")
    check_key(environment.get("AWS_ACCESS_KEY_ID", ""))
    if environment.get("AWS_SECRET_ACCESS_KEY") != KEY:
        message = f"AWS_SECRET_ACCESS_KEY is not the dummy {KEY!r}."
        raise NotEmulatedError(message)
    for name in environment:
        if name in _OUTSIDE or (name.startswith("AWS_ENDPOINT_URL_") and environment[name] != url):
            message = f"{name} is set: credentials or endpoints would come from outside of the emulator."
            raise NotEmulatedError(message)


def check_key(key: str) -> None:
    """Raise NotEmulatedError unless `key` is the dummy: a real one has no business here."""
    if key != KEY:
        kind = "looks like a real one" if key.startswith(_REAL_PREFIXES) else "is not the dummy"
        message = f"The access key {key[:4]}... {kind}; the emulator takes only {KEY!r}."
        raise NotEmulatedError(message)
