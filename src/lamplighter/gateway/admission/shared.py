"""Limits that several gateways share, in Redis: one script looks at all limits of a request and reserves all or nothing.

Each request under way holds a lease, which its gateway renews: what a killed gateway reserved is free again after `LEASE` seconds. Days and
months that Redis does not know come from the store. When Redis is gone, `Gone` is raised, at once while it is known to be gone; what to do
then is `gate`'s business.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from lamplighter.core.clock import Clock
from lamplighter.gateway.admission.counters import Calendar, Demand, Reading, Used
from lamplighter.gateway.admission.plans import Plan
from lamplighter.gateway.admission.scripts import ADMIT, RAISE, RENEW, SETTLE

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript

LEASE = 30.0
"""Seconds for which a reservation outlives the gateway that made it."""
_STATE_TTL = 3600
_CHUNK = 200
"""Leases that one call renews: Redis does nothing else meanwhile."""
_CONNECTIONS = 32

_log = structlog.get_logger(__name__)


class Gone(Exception):
    """Redis does not answer."""


class Missing(Exception):
    """Redis does not know what was used in a window: `seed` it, then try again."""


class Held(NamedTuple):
    """A request under way. `id`: of its lease."""

    id: str
    plan: Plan
    demand: Demand


class Shared:
    """The counts of one installation in Redis."""

    def __init__(self, url: str, installation: str, clock: Clock, calendar: Calendar, *, timeout: float) -> None:
        self._url = url
        self._prefix = f"lamplighter:{{{installation}}}:"  # the braces keep all keys in one slot of a cluster
        self._clock = clock
        self._calendar = calendar
        self._timeout = timeout
        self._redis: Redis | None = None
        self._scripts: dict[str, AsyncScript] = {}

    def _client(self) -> "Redis":
        if self._redis is None:
            from redis.asyncio import BlockingConnectionPool, Redis  # late: who has no Redis shall not pay for its library
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            pool = BlockingConnectionPool.from_url(
                self._url, max_connections=_CONNECTIONS, timeout=self._timeout, socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout, retry=Retry(NoBackoff(), 0), client_name="lamplighter",
            )  # fmt: skip
            self._redis = Redis(connection_pool=pool)
        return self._redis

    async def aclose(self) -> None:
        """Close every connection."""
        if self._redis is not None:
            redis, self._redis, self._scripts = self._redis, None, {}
            await redis.aclose()
            await redis.connection_pool.disconnect()

    async def _run(self, script: str, keys: Sequence[str], argument: Any) -> Any:
        from redis.exceptions import RedisError

        client = self._client()
        try:
            async with asyncio.timeout(self._timeout):
                known = self._scripts.get(script)
                if known is None:
                    known = self._scripts[script] = client.register_script(script)
                return await known(keys=keys, args=[json.dumps(argument, separators=(",", ":"))])
        except (RedisError, OSError, TimeoutError) as error:
            raise Gone(f"{type(error).__name__}: {error}".rstrip(": ")) from error

    async def ping(self) -> None:
        """Raises Gone."""
        await self._run("return 1", [], None)

    # -- requests

    async def admit(self, held: Held) -> tuple[bool, list[Reading]]:
        """Whether the request may go on, and the accounts as they were before it. It holds its lease then. Raises Gone, Missing."""
        self._calendar.look()
        keys: list[str] = []
        subjects = [self._subject(held, index, keys) for index in range(len(held.plan.limited))]
        answer = await self._run(ADMIT, keys, {"lease": LEASE, "ttl": _STATE_TTL, "subjects": subjects})
        if answer[0] == b"seed":
            raise Missing
        return answer[0] == b"ok", [_reading(subject, row) for subject, row in zip(subjects, answer[1:], strict=True)]

    def _subject(self, held: Held, index: int, keys: list[str]) -> dict[str, Any]:
        account, rules = held.plan.limited[index]
        base = self._prefix + account.name
        subject: dict[str, Any] = {
            "k": len(keys) + 1,
            "rpm": rules.requests,
            "tpm": rules.tokens,
            "parallel": rules.parallel,
            "need": rules.need(held.demand),
            "tokens": held.demand.tokens,
            "money": held.demand.money,
            "member": _member(held),
            "windows": [],
        }
        keys += [f"{base}:state", f"{base}:leases"]
        for position, limit in enumerate(rules.limits_of_windows):
            if limit is not None:
                keys.append(self._window(account.name, position))
                unit = "money" if position > 1 else "tokens"
                subject["windows"].append({"at": position, "k": len(keys), "unit": unit, "limit": limit})
        return subject

    def _window(self, name: str, position: int) -> str:
        """Key of what a subject used: day tokens, month tokens, day money, month money."""
        when = self._calendar.month if position % 2 else self._calendar.day
        return f"{self._prefix}{name}:{'money' if position > 1 else 'tokens'}:{when}"

    async def seed(self, plan: Plan, used: Mapping[str, Used], *, only_raise: bool = False) -> None:
        """Tell Redis what the store knows to be used, by account name. What Redis knows better stays. Raises Gone.

        `only_raise`: windows that Redis does not know stay unknown.
        """
        self._calendar.look()
        keys, values = [], []
        for account, rules in plan.limited:
            for position, limit in enumerate(rules.limits_of_windows):
                if limit is None:
                    continue
                ends = self._calendar.month_ends if position % 2 else self._calendar.day_ends
                keys.append(self._window(account.name, position))
                values.append([used[account.name][position], int(ends - self._clock.time()) + 86_400])
        if keys:
            await self._run(RAISE, keys, {"only": only_raise, "values": values})

    async def settle(self, over: Sequence[tuple[Held, int, int]]) -> None:
        """These requests are over, having used so many tokens and so much money. Their leases end.

        Raises Gone: then the leases end by themselves, and `seed` brings what is missing.
        """
        self._calendar.look()
        for start in range(0, len(over), _CHUNK):
            keys: list[str] = []
            items = []
            for held, tokens, money in over[start : start + _CHUNK]:
                subjects = [self._subject(held, index, keys) for index in range(len(held.plan.limited))]
                items.append({"subjects": subjects, "tokens": tokens, "money": money})
            await self._run(SETTLE, keys, {"items": items})

    async def renew(self, held: Sequence[Held]) -> None:
        """Keep these leases, and make those anew that Redis lost. Raises Gone."""
        for start in range(0, len(held), _CHUNK):
            keys: list[str] = []
            items = []
            for one in held[start : start + _CHUNK]:
                for account, _ in one.plan.limited:
                    base = self._prefix + account.name
                    items.append(
                        {"k": len(keys) + 1, "member": _member(one), "tokens": one.demand.tokens, "money": one.demand.money}
                    )
                    keys += [f"{base}:state", f"{base}:leases"]
            if items:
                await self._run(RENEW, keys, {"lease": LEASE, "ttl": _STATE_TTL, "items": items})


def _member(held: Held) -> str:
    """A lease carries what it reserved, so that whoever finds it expired can give that back."""
    return f"{held.id}|{held.demand.tokens}|{held.demand.money}"


def _reading(subject: Mapping[str, Any], row: Sequence[bytes]) -> Reading:
    used = [0, 0, 0, 0]
    for window, value in zip(subject["windows"], row[5:], strict=True):
        used[window["at"]] = int(value)
    return Reading(float(row[0]), float(row[1]), int(row[2]), int(row[3]), int(row[4]), *used)
