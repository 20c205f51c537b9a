"""What those who ask are told: refusals in OpenAI's shape, and how much is left, as OpenAI's `x-ratelimit-*` headers. Pure."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from lamplighter.core.errors import RequestError
from lamplighter.costs import amount_of
from lamplighter.gateway.admission.counters import Counts, Demand
from lamplighter.gateway.admission.rules import Refused, Rules, whole_seconds
from lamplighter.gateway.wire import Headers

MOST_RETRY_AFTER = 60
"""Seconds: clients' libraries give up when they are told to wait longer."""
QUOTA_RETRY_AFTER = 3600
"""Seconds, for a day's or month's limit. Its true end is in the error; a client that obeys this header must not sleep for weeks."""

_UNITS = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "parallel": "requests at the same time",
    "tokens_per_day": "tokens a day",
    "tokens_per_month": "tokens a month",
    "budget_per_day": "a day",
    "budget_per_month": "a month",
}


class LimitReached(RequestError):
    """A limit or budget refuses a request. `limit`: the setting's name; `resets_at`: Unix seconds at which there is room again."""

    def __init__(self, message: str, *, limit: str, resets_at: float, **more: Any) -> None:
        super().__init__(message, status=429, **more)
        self.limit = limit
        self.resets_at = resets_at

    def body(self) -> dict[str, Any]:
        body = super().body()
        body["error"]["limit"] = self.limit
        body["error"]["resets_at"] = round(self.resets_at, 3)
        return body


def limit_reached(
    refused: Refused, whose: str, *, now: float, window_ends: float, currency: str | None, headers: Headers
) -> LimitReached:
    """The error for `refused`. `whose`: the subject in words; `now`, `window_ends`: Unix seconds."""
    shown = tuple((name.decode(), value.decode()) for name, value in headers)
    most = str(amount_of(refused.most, currency or "")).strip() if refused.limit.startswith("budget") else f"{refused.most:,}"
    sentence = f"{whose} may use {most} {_UNITS[refused.limit]}"
    if refused.wait is None:
        ends = dt.datetime.fromtimestamp(window_ends, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        return LimitReached(
            f"{sentence}, and they are used up. It begins anew at {ends}.",
            limit=refused.limit,
            resets_at=window_ends,
            type="insufficient_quota",
            code="insufficient_quota",
            next_step="Wait until then, or ask whoever runs this Lamplighter for more: `lamplighter keys limit`.",
            retry_after=min(QUOTA_RETRY_AFTER, whole_seconds(window_ends - now)),
            headers=(*shown, ("x-should-retry", "false")),
        )
    after = min(MOST_RETRY_AFTER, whole_seconds(refused.wait))
    if refused.reserved:
        message = f"{sentence}. What is left is reserved for requests that are under way."
        step = "Ask again when one of them is over, or send `max_tokens`: without it a request reserves all that the model could write."
    else:
        message = f"{sentence}. Try again in {_span(refused.wait)}."
        step = "Slow down, or ask whoever runs this Lamplighter for more."
    return LimitReached(
        message,
        limit=refused.limit,
        resets_at=now + refused.wait,
        type="tokens" if "token" in refused.limit or refused.reserved else "requests",
        code="rate_limit_exceeded",
        next_step=step,
        retry_after=after,
        headers=shown,
    )


def forbidden(message: str, code: str) -> RequestError:
    """For a key that may not."""
    return RequestError(
        message,
        status=403,
        type="permission_error",
        code=code,
        param="model" if code == "model_not_allowed" else None,
        next_step="Use another key, or ask whoever runs this Lamplighter.",
    )


def gateway_full(most: int) -> RequestError:
    """For one more than the gateway takes in."""
    return RequestError(
        f"The gateway has {most} requests in hand, as many as it may.",
        status=503,
        type="service_unavailable",
        code="gateway_full",
        next_step="Ask again in a moment; gateway.max_parallel is the limit.",
        retry_after=1,
    )


def left(rules: Sequence[Rules], counts: Sequence[Counts], taken: Demand | None = None) -> Headers:
    """`x-ratelimit-*`: of each kind the limit of which the least is left. `taken`: a request that the counts do not know of yet."""
    requests = tokens = 0  # the limits
    requests_full = tokens_full = requests_rest = tokens_rest = 0.0
    for index, rule in enumerate(rules):
        one = counts[index]
        if limit := rule.requests:
            full = one.requests if taken is None else one.requests + 1
            if not requests or limit - full < requests_rest:
                requests, requests_full, requests_rest = limit, full, limit - full
        if limit := rule.tokens:
            full = one.tokens if taken is None else one.tokens + rule.need(taken)
            if not tokens or limit - full < tokens_rest:
                tokens, tokens_full, tokens_rest = limit, full, limit - full
    headers: Headers = []
    if requests:
        headers = [
            (b"x-ratelimit-limit-requests", b"%d" % requests),
            (b"x-ratelimit-remaining-requests", b"%d" % (requests_rest + 1e-6) if requests_rest > 0 else b"0"),
            (b"x-ratelimit-reset-requests", _reset(requests_full, requests)),
        ]
    if tokens:
        headers += [
            (b"x-ratelimit-limit-tokens", b"%d" % tokens),
            (b"x-ratelimit-remaining-tokens", b"%d" % (tokens_rest + 1e-6) if tokens_rest > 0 else b"0"),
            (b"x-ratelimit-reset-tokens", _reset(tokens_full, tokens)),
        ]
    return headers


def _reset(full: float, limit: int) -> bytes:
    """When a bucket that is so `full`, of a `limit` a minute, is empty."""
    seconds = full * 60 / limit
    return b"%dms" % round(seconds * 1000) if seconds < 1 else _span(seconds).encode()


def _span(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
