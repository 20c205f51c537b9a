"""Where an engine answers. Shared by providers (who make it), engines (who probe it) and the gateway (which routes to it)."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An engine's base URL (`http://host:port[/prefix]`, no trailing slash, without `/v1`) and its bearer key, if it wants one.

    `ca`: PEM file with the authorities that its certificate may come from, beside those that the system trusts.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    ca: str | None = None
