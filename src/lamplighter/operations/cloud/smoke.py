"""Proves a pool on a real account for a few cents: asleep -> one request -> every stage -> its first token -> asleep -> nothing runs any more.

Uses a Lamplighter that runs; what it cannot prove by itself it makes true: whatever happens, the pool's groups end at zero.
Not responsible for starting a Lamplighter, nor for asking a person (`cli.cloud_smoke`).
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from lamplighter import __version__
from lamplighter.core.errors import LamplighterError
from lamplighter.operations.client import Client
from lamplighter.operations.cloud.errors import CloudError, Refused, StillRunning
from lamplighter.operations.cloud.rates import Wake, wake_of
from lamplighter.operations.cloud.stacks import Stack
from lamplighter.providers.aws import account, inventory
from lamplighter.providers.aws.account import Identity
from lamplighter.providers.aws.inventory import Item

_POLL = 0.5
_LOOK_EVERY = 10.0
"""Seconds between two questions to AWS while the machine is awake."""
_HEARTBEAT = 15.0
_ASLEEP_LIMIT = 900.0
_QUESTION = "Answer with one word: are you awake?"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the proof may cost. `worst`: USD if everything goes wrong that the dead-men bound; `hourly`: of the dearest machine of the pool."""

    at_most: Decimal
    worst: Decimal
    hourly: Decimal


@dataclass
class Transcript:
    """What was seen, in order. Times are Unix seconds; `lines` are for people."""

    stack: Stack
    pool: str
    model: str
    identity: Identity
    price: Wake
    terms: Terms
    began: float
    lines: list[tuple[float, str]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    machines: dict[str, Item] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    first_token: float | None = None
    answer: str = ""
    proven: bool = False
    failure: str = ""

    @property
    def cost(self) -> Decimal:
        """USD, estimated from when each machine was launched to when AWS no longer showed it running."""
        total = Decimal(0)
        for name, item in self.machines.items():
            end = self.ended.get(name, self.lines[-1][0] if self.lines else self.began)
            seconds = max(60.0, end - (item.since or self.began))
            total += self.terms.hourly * Decimal(seconds) / 3600
        return total

    @property
    def worked(self) -> bool:
        """A token came, and nothing is left."""
        return self.first_token is not None and self.proven and not self.failure


def terms(stack: Stack, pool: str, at_most: Decimal) -> tuple[Terms, Wake]:
    """Refuse what could cost more than `at_most` USD even if every dead-man has to do its work. Raises Refused."""
    settings = stack.pools[pool]
    price = wake_of(stack.region, pool, settings)
    if price.dearest is None:
        raise Refused(
            f"no price is known of pool {pool}'s machines, so {at_most} USD cannot be promised",
            next_step="Try again when AWS can be asked.",
        )
    seconds = max(float(settings.boot_deadline), float(settings.lease)) + float(settings.drain) + _ASLEEP_LIMIT
    worst = price.dearest * Decimal(seconds) / 3600
    if worst > at_most:
        raise Refused(
            f"if everything goes wrong this costs up to {worst:.2f} USD ({price.dearest:.3f} USD/h for {seconds / 60:.0f} minutes), "
            f"more than --at-most {at_most} USD",
            next_step=f"Write --at-most '{worst + Decimal('0.01'):.2f} USD', or a shorter boot_deadline.",
        )
    return Terms(at_most, worst, price.dearest), price


class Prover:
    """One run. `client`: of the Lamplighter that keeps the pool; `told` takes each line as it comes."""

    def __init__(
        self,
        client: Client,
        transcript: Transcript,
        installation: str,
        told: Callable[[str], None],
        *,
        pause: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._seen = transcript
        self._installation = installation
        self._told = told
        self._pause = pause
        self._now = now
        self._looked = 0.0
        self._said = ""
        self._enough = threading.Event()
        self._asking: threading.Thread | None = None

    def run(self) -> Transcript:
        """Everything. The transcript says whether it worked; raises only KeyboardInterrupt, and CloudError when it could not even begin."""
        if running := self._machines():
            raise CloudError(
                f"{running[0].id} already runs for pool {self._seen.pool}: a proof begins with nothing",
                next_step="Let it sleep first: `lamplighter sleep MODEL --wait`.",
            )
        self._say(f"Nothing runs for pool {self._seen.pool}. Prices now: {self._seen.price.text}.")
        try:
            with self._made_sure():
                self._ask_for_a_token()
                self._sleep()
        except LamplighterError as error:
            self._seen.failure = error.message
            self._say(f"FAILED: {error.message}")
        return self._seen

    def _ask_for_a_token(self) -> None:
        settings = self._seen.stack.pools[self._seen.pool]
        outcome: dict[str, Any] = {}
        thread = self._asking = threading.Thread(target=self._request, args=(outcome,), daemon=True)
        thread.start()
        self._say(f"Asked {self._seen.model} one question; the request is held while it wakes.")
        deadline = self._now() + float(settings.boot_deadline) + 60
        while thread.is_alive() and "first" not in outcome:
            self._follow()
            if self._now() > deadline:
                raise CloudError(f"no token within the pool's boot deadline of {settings.boot_deadline}")
            self._pause(_POLL)
        thread.join(60)
        self._follow(always=True)
        if "error" in outcome:
            raise CloudError(f"the request failed: {outcome['error']}")
        if "first" not in outcome:
            raise CloudError("the answer ended without a token")
        self._seen.first_token, self._seen.answer = outcome["first"], outcome.get("text", "")
        for stage in self._seen.stages:  # whoever is awake is not asked about its wake any more
            if stage["started_at"] and not stage["ended_at"]:
                stage["ended_at"] = outcome["first"]
        self._say(f"First token after {outcome['first'] - self._seen.began:.1f} s. It said: {self._seen.answer.strip()[:80]!r}")

    def _request(self, outcome: dict[str, Any]) -> None:
        body = {
            "model": self._seen.model, "stream": True, "max_tokens": 8,
            "messages": [{"role": "user", "content": _QUESTION}],
        }  # fmt: skip
        try:
            with self._client.open_stream("/v1/chat/completions", body) as answer:
                for text in _pieces(line for line in answer.iter_lines() if not self._over()):
                    outcome.setdefault("first", self._now())
                    outcome["text"] = outcome.get("text", "") + text
        except LamplighterError as error:
            outcome["error"] = error.message

    def _over(self) -> bool:
        """Heartbeats come every few seconds: whoever has had enough leaves at the next one, and is no reason to wake any more."""
        if self._enough.is_set():
            raise CloudError("given up")
        return False

    def _give_up(self) -> None:
        """Ask no more: a request that is held would wake the next machine."""
        self._enough.set()
        with contextlib.suppress(LamplighterError):
            self._client.post(f"/api/models/{quote(self._seen.model, safe='')}/sleep")
        if self._asking is not None:
            self._asking.join(_HEARTBEAT)

    def _follow(self, *, always: bool = False) -> None:
        """Write down each stage as it begins, and each machine as AWS shows it."""
        status = self._client.get("/api/status")
        model = next((one for one in status["models"] if one["name"] == self._seen.model), None)
        wake = (model or {}).get("wake")
        if wake:
            self._seen.stages = wake["stages"]
            current = next((one for one in wake["stages"] if one["started_at"] and not one["ended_at"]), None)
            text = (
                f"{current['name']}: {current['detail']}" if current and current["detail"] else current["name"] if current else ""
            )
            if text and text != self._said:
                self._say(f"stage {text}")
                self._said = text
        if always or self._now() - self._looked >= _LOOK_EVERY:
            self._looked = self._now()
            for item in self._machines():
                if item.id not in self._seen.machines:
                    self._say(f"AWS shows {item.id}: {item.detail}, {item.state}")
                self._seen.machines[item.id] = item

    def _sleep(self) -> None:
        self._client.post(f"/api/models/{quote(self._seen.model, safe='')}/sleep")
        self._say("Told to sleep.")
        deadline = self._now() + _ASLEEP_LIMIT
        while True:
            status = self._client.get("/api/status")
            state = next((one["state"] for one in status["models"] if one["name"] == self._seen.model), "gone")
            if state in ("asleep", "failed", "gone"):
                self._say(f"The model is {state}.")
                return
            if self._now() > deadline:
                raise CloudError(f"the model is still {state} after {_ASLEEP_LIMIT:.0f} s")
            self._pause(_POLL)

    @contextmanager
    def _made_sure(self) -> Iterator[None]:
        """However it ends, also by Ctrl-C: AWS shows no machine of the pool running, or a person is told so."""
        clean = False
        try:
            yield
            clean = True
        finally:
            if not clean:
                self._give_up()
                groups = [self._seen.stack.group(self._seen.pool, market) for market in ("spot", "on-demand")]
                account.set_to_zero(self._seen.stack.region, groups)
                self._say("Its groups are set to zero by hand.")
            self._prove(hard=not clean)

    def _prove(self, *, hard: bool) -> None:
        deadline = self._now() + _ASLEEP_LIMIT
        while running := self._machines():
            for item in running:
                self._seen.machines.setdefault(item.id, item)
            if hard:
                account.terminate(self._seen.stack.region, [item.id for item in running if item.runs])
            if self._now() > deadline:
                raise StillRunning(
                    f"AWS still shows {', '.join(item.id for item in running)}",
                    next_step="`lamplighter cloud orphans --end`, or the EC2 console: it costs until it ends.",
                )
            self._pause(_POLL * 4)
        for name in self._seen.machines:
            self._seen.ended.setdefault(name, self._now())
        self._seen.proven = True
        self._say("AWS shows no machine of the pool any more.")

    def _machines(self) -> list[Item]:
        found = inventory.running(self._seen.stack.region, self._installation)
        here = [item for item in found if item.stack == self._seen.stack.name and item.pool == self._seen.pool]
        return [item for item in here if not inventory.is_builder(item)]

    def _say(self, text: str) -> None:
        at = self._now()
        self._seen.lines.append((at, text))
        self._told(f"{at - self._seen.began:7.1f} s  {text}")


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """The texts of a streamed chat completion. Raises CloudError for an error event."""
    import json

    for line in lines:
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise CloudError(str(event["error"].get("message", event["error"])))
        for choice in event.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                yield str(text)


def markdown(seen: Transcript) -> str:
    """The transcript as a dated document. It says itself what it proves."""
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seen.began))
    where = (
        "an EMULATED AWS: this proves nothing of AWS itself"
        if seen.identity.emulated
        else f"AWS, account …{seen.identity.account[-4:]}"
    )
    machines = ", ".join(item.detail for item in seen.machines.values()) or "none was seen"
    verdict = "It worked." if seen.worked else f"It did NOT work: {seen.failure or 'no token came, or something is left'}."
    stages = [
        f"| {one['name']} | {one['ended_at'] - one['started_at']:.1f} |"
        for one in seen.stages
        if one["started_at"] and one["ended_at"]
    ]
    lines = [f"{at - seen.began:7.1f} s  {text}" for at, text in seen.lines]
    token = f"{seen.first_token - seen.began:.1f} s" if seen.first_token is not None else "never"
    return "\n".join(
        [
            f"# Smoke run of {day}", "",
            f"Made by `lamplighter cloud smoke` {__version__} on {where}, {seen.stack.region}. {verdict}", "",
            "| what | seen |", "|---|---|",
            f"| pool and model | {seen.pool}, {seen.model} |",
            f"| machine | {machines} |",
            f"| price | {seen.price.text} |",
            f"| first token | {token} |",
            f"| gone, as AWS says | {'yes' if seen.proven else 'NOT PROVEN'} |",
            f"| cost, estimated at the dearest rate of the pool | {seen.cost:.3f} USD, allowed were {seen.terms.at_most} USD |", "",
            "| stage | seconds |", "|---|---|", *(stages or ["| none was seen | |"]), "",
            "```text", *lines, "```", "",
        ]
    )  # fmt: skip


__all__ = ["Prover", "Terms", "Transcript", "markdown", "terms"]
