"""Calls to AWS for commands that a person waits for: one after the other, without an event loop. The rest is `client`'s: limits, errors, sessions.

Not for the keeper, whose calls must not block (`client.Aws.call`).
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

from lamplighter.core.clock import SystemClock
from lamplighter.core.errors import ProviderError
from lamplighter.providers.aws.client import Aws, AwsError, translate


@cache
def _aws(region: str) -> Aws:
    return Aws(region, SystemClock())


def forget_sessions() -> None:
    """Take credentials and endpoints anew from the environment at the next call; tests change them."""
    _aws.cache_clear()


def endpoint(service: str, region: str) -> str:
    """The URL where a service is asked. Raises ProviderError."""
    return str(_client(service, region, "connect").meta.endpoint_url)


def ask(service: str, region: str, operation: str, **arguments: Any) -> dict[str, Any]:
    """The answer of one API operation, named as AWS's library names it. Raises AwsError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer: dict[str, Any] = getattr(_client(service, region, operation), operation)(**arguments)
    except (BotoCoreError, ClientError) as error:
        raise translate(error, service, operation, region) from error
    return answer


def pages(service: str, region: str, operation: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """All pages of an operation that answers in pages. Raises AwsError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield from _client(service, region, operation).get_paginator(operation).paginate(**arguments)
    except (BotoCoreError, ClientError) as error:
        raise translate(error, service, operation, region) from error


def code_of(error: ProviderError) -> str:
    """AWS's own code of an error; empty when no answer came."""
    return error.aws_code if isinstance(error, AwsError) else ""


def _client(service: str, region: str, operation: str) -> Any:
    from botocore.exceptions import BotoCoreError

    try:
        return _aws(region).client(service)
    except BotoCoreError as error:
        raise translate(error, service, operation, region) from error


__all__ = ["ask", "code_of", "endpoint", "forget_sessions", "pages"]
