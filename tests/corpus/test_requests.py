"""The corpus of requests against a real gateway on a real socket: one request is one question to one engine, or none, and nobody hears another's answer."""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lamplighter.testing.engine import FakeEngine
from tests.corpus.wire import Answer, Heard, NotHttp, answers, exchange
from tests.unit.gateway.harness import KEY, Rig, question, running

CASES: list[dict[str, str]] = yaml.safe_load(Path(__file__).with_name("requests.yaml").read_text(encoding="utf-8"))
AT_ONCE = 12


@dataclass(frozen=True, slots=True)
class Family:
    """Routes that share their code. `asks`: whether a good request reaches an engine. `reads`: whether the body is waited for."""

    target: str
    status: int
    asks: bool
    reads: bool = True

    def body(self, name: str) -> bytes:
        return _question(name) if self.asks else json.dumps({"key": KEY}).encode()


FAMILIES = {
    "inference": Family("/v1/chat/completions", 200, asks=True),
    "ollama": Family("/api/chat", 200, asks=True),
    "control": Family("/api/session", 200, asks=False),
    "page": Family("/", 405, asks=False, reads=False),
    "unknown": Family("/v1/nothing", 404, asks=False, reads=False),
    "operations": Family("/health", 405, asks=False, reads=False),
}


def _question(mark: str) -> bytes:
    """A question that can be told from others at the engine."""
    return json.dumps({**question(), "messages": [{"role": "user", "content": mark}]}).encode()


def second(name: str) -> bytes:
    """A request that must not exist unless the case says so."""
    body = _question(f"second {name}")
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer %b\r\nx-request-id: smuggled\r\ncontent-length: %d\r\n\r\n%b" % (
        KEY.encode(), len(body), body,
    )  # fmt: skip


def filled(text: str, family: Family, name: str) -> bytes:
    """The bytes of a case for one family."""
    body = family.body(name)
    request = (
        f"POST {family.target} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\nx-request-id: corpus\r\n"
    )
    parts = {
        b"{REQUEST}": request.encode(),
        b"{TARGET}": family.target.encode(),
        b"{KEY}": KEY.encode(),
        b"{BODY}": body,
        b"{LEN}": b"%d" % len(body),
        b"{HEX}": b"%x" % len(body),
        b"{SECOND}": second(name),
        b"{SECONDLEN}": b"%d" % len(second(name)),
    }
    data = text.encode("latin-1")
    for mark, value in parts.items():
        data = data.replace(mark, value)
    return data


def judge(case: dict[str, str], family: Family, heard: Heard, asked: Counter[str]) -> str | None:
    """What is wrong, or None."""
    name, expect = case["name"], case["expect"]
    try:
        found = answers(heard.data)
    except NotHttp as error:
        return f"the answer is not HTTP: {error}"
    said = [answer.status for answer in found]
    own, other = asked[name], asked[f"second {name}"]
    if expect != "both" and (other or any(_smuggled(answer) for answer in found)):
        return f"the second request was seen: {said}, {other} times by the engine"
    wanted = int(family.asks)
    if expect == "refused":
        if own:
            return f"the engine was asked {own} times"
        if len(said) > 1 or any(status < 400 for status in said):
            return f"answered {said}"
        return None if heard.closed else "the connection stays open"
    if expect == "body":
        return (
            None
            if said in ([400], [422], [family.status]) and not own and (said[0] >= 400)
            else f"answered {said}, asked {own} times"
        )
    if expect == "silence":
        if family.reads and (said or own):
            return f"answered {said}, asked {own} times, though half is missing"
        return None
    statuses = [family.status, 200] if expect == "both" else [family.status]
    if said != statuses:
        return f"answered {said} instead of {statuses}: {heard.data[-300:]!r}"
    if own != wanted or (expect == "both" and other != 1):
        return f"the engine was asked {own} and {other} times"
    if family.asks and found[0].headers.get("x-request-id") == "smuggled":
        return "the answers are mixed up"
    if expect == "both" and found[1].headers.get("x-request-id") != "smuggled":
        return "the second answer is not that of the second request"
    if expect == "closed" and not heard.closed:
        return "the connection stays open"
    return None


def _smuggled(answer: Answer) -> bool:
    return b"smuggled" in answer.raw


async def run(rig: Rig, engine: FakeEngine, family: Family, case: dict[str, str]) -> str | None:
    """One case, and a good request of somebody else after it."""
    packets = [filled(case[part], family, case["name"]) for part in ("send", "then") if part in case]
    # What must close closes by itself; where nothing is to come, a moment of it is enough.
    silence = {"refused": 15.0, "closed": 15.0, "silence": 0.6}.get(case["expect"], 2.5)
    heard = await exchange(rig.port, *packets, silence=silence)
    mark = f"after-{random.getrandbits(40):x}"
    after = await rig.client.get("/v1/models", headers={"x-request-id": mark})
    if after.status_code != 200 or after.headers["x-request-id"] != mark:
        return f"the next client got {after.status_code}, {dict(after.headers)}"
    return judge(case, family, heard, Counter(str(body["messages"][-1]["content"]) for body in list(engine.bodies)))


@pytest.mark.parametrize("name", FAMILIES)
async def test_the_corpus(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody could hide a request from a proxy in front of us, be answered in another's place, or take the gateway down."""
    family = FAMILIES[name]
    wrong: dict[str, str] = {}
    async with FakeEngine(tokens=1) as engine, running() as rig:
        await rig.ready(engine.url)
        if name == "ollama" and (await rig.client.get("/api/version")).status_code != 200:
            pytest.skip("this gateway has no Ollama API")
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(case: dict[str, str]) -> None:
            async with gate:
                if problem := await run(rig, engine, family, case):
                    wrong[case["name"]] = problem

        await asyncio.gather(*map(one, CASES))
        await rig.until_idle()
    assert not wrong, "\n".join(f"{case}: {problem}" for case, problem in wrong.items())
    assert "Traceback" not in caplog.text, caplog.text[-3000:]


def test_every_case_says_what_it_is_for() -> None:
    """A corpus that nobody understands is one that nobody keeps."""
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names) > 60
    for case in CASES:
        assert set(case) <= {"name", "why", "send", "then", "expect"}, case
        assert case["expect"] in {"refused", "one", "both", "closed", "silence", "body"}, case
        assert case["why"].endswith("."), case


def test_the_judge_sees_what_is_wrong() -> None:
    """The corpus would pass whatever the gateway does."""
    family = FAMILIES["inference"]
    fine = b"HTTP/1.1 200 OK\r\nx-request-id: corpus\r\ncontent-length: 2\r\n\r\n{}"
    other = fine.replace(b"corpus", b"smuggled")
    bad = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"

    def says(expect: str, data: bytes, *, closed: bool = True, own: int = 1, other: int = 0) -> str | None:
        return judge({"name": "x", "expect": expect}, family, Heard(data, closed), Counter({"x": own, "second x": other}))

    assert says("one", fine) is None
    assert says("both", fine + other, other=1) is None
    assert says("refused", bad, own=0) is None
    assert says("one", fine + other)
    assert says("one", fine, own=2)
    assert says("one", fine, other=1)
    assert says("both", other + fine, other=1)
    assert says("closed", fine, closed=False)
    assert says("refused", bad, closed=False, own=0)
    assert says("refused", fine, own=0)
    assert says("refused", bad + bad, own=0)
    assert says("refused", bad)
    assert says("silence", bad, own=0)
    assert says("one", fine + b"\r\n")
