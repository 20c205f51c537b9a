"""Settings of who may reach the gateway, and how: origins, host names, proxies, TLS, the port of the admin API.

Not responsible for keys and limits, nor for what is done with these settings: that is the gateway's.
"""

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lamplighter.config.section import Section
from lamplighter.config.types import Span, SpanOrNever
from lamplighter.core.units import Duration

_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[?[0-9a-f:]+\]?")


def _origin(value: str) -> str:
    lowered = value.lower().rstrip("/")
    if value != "*" and not _ORIGIN.fullmatch(lowered):
        raise ValueError(
            f"{value!r} is no origin; write scheme and host, as https://app.example.com or http://localhost:3000, or *"
        )
    return lowered


def _host(value: str) -> str:
    lowered = value.lower()
    if value != "*" and not _HOST.fullmatch(lowered):
        raise ValueError(f"{value!r} is no host name; write it without scheme and port, as llm.example.com or *.example.com")
    return lowered.strip("[]")


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"{value!r} is neither an address nor a network; write 10.0.0.7 or 10.0.0.0/8") from None


Origin = Annotated[str, AfterValidator(_origin)]
HostName = Annotated[str, AfterValidator(_host)]
Network = Annotated[str, AfterValidator(_network)]


class CorsConfig(Section):
    """Which web pages of other origins may call the inference routes. The control API is never among what they may call."""

    origins: list[Origin] = Field(
        [],
        description="Origins whose pages may call `/v1` and the Ollama API from a browser, as `https://app.example.com`; "
        "`*`: every page. A page still needs a key. Cookies never count across origins.",
    )
    max_age: Span = Field(Duration(600), description="How long a browser may remember the answer to a preflight request.")


class TlsConfig(Section):
    """The certificate with which the gateway speaks HTTPS itself."""

    certificate: str = Field(
        min_length=1, description="PEM file: the certificate, followed by those that lead to its authority (a full chain)."
    )
    key: str = Field(min_length=1, description="PEM file: the certificate's private key, without a passphrase.")
    hsts: SpanOrNever = Field(
        Duration(180 * 86400),
        description="For how long browsers shall use nothing but HTTPS with this host name; never said to `localhost` or an address. "
        "`never`: it is not said at all.",
    )


class AdminConfig(Section):
    """A port of its own for whoever administers; the public port then refuses what needs an admin key."""

    host: str = Field("127.0.0.1", min_length=1, description="Address of the admin port.")
    port: int = Field(ge=0, le=65535, description="The admin port; 0 takes a free one.")
    page: Literal["public", "admin", "both"] = Field(
        "both",
        description="Where the chat page is. On the public port it works without admin's powers; `admin`: the public port has no page "
        "and no control API at all.",
    )
