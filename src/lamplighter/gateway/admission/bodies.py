"""How much memory the bodies of requests may take in one gateway: reserved before they are read, given back when they are gone."""

from lamplighter.core.errors import RequestError


class Bodies:
    """Counts bytes. Pair each `reserve` with one `release` of the same size."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def reserve(self, size: int) -> None:
        """Room for `size` bytes. Raises RequestError 503 when there is none; a single body always finds room in an idle gateway."""
        if self.used and self.used + size > self.limit:
            raise RequestError(
                "The gateway holds as many request bodies as it may.",
                status=503,
                type="service_unavailable",
                code="gateway_full",
                next_step="Ask again in a moment; gateway.max_body_memory is the limit.",
                retry_after=1,
                headers=(("connection", "close"),),
            )
        self.used += size

    def release(self, size: int) -> None:
        """The bytes are gone."""
        self.used -= size
