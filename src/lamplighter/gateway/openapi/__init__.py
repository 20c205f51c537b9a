"""The OpenAPI document of everything that is served, and the page of docs made from it. Only described here, never served from here."""

from functools import cache
from typing import Any


@cache
def openapi_document() -> dict[str, Any]:
    """The document; made when it is first asked for, since it needs what nothing else needs."""
    from lamplighter.gateway.control.app import described
    from lamplighter.gateway.openapi.document import document

    return document(described())
