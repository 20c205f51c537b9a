"""Limits and budgets on the real program: set as the guide says, seen as OpenAI's own client sees them, kept through a kill."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from tests.journeys.harness import ADMIN_KEY, PROGRAM, Server, eventually
from tests.journeys.many_gateways.cluster import TOKENS, Cluster, fake_engine
from tests.services import Postgres, Redis

CONFIG = """
models:
  m: {{engine: openai, pool: there, source: fake, price: {{prompt: 1 USD/Mtok, completion: 1 USD/Mtok}}}}
  free: {{engine: openai, pool: there, source: fake}}
pools: {{there: {{kind: static, url: "{engine}"}}}}
"""
SHARED = "store: {{url: env:DATABASE_URL}}\nredis: {{url: 'REDIS'}}\nserver: {{shutdown_grace: 20s}}\n"
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def engine() -> Iterator[str]:
    """A pretended engine, slow enough that eight requests are under way together."""
    with fake_engine(speed=40) as url:
        yield url


def keys(server: Server, *arguments: str) -> str:
    """`lamplighter keys ...` as a person types it; what it prints."""
    done = subprocess.run(
        [PROGRAM, "keys", *arguments, "--url", server.url, "--key", ADMIN_KEY],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def at_once(urls: list[str], key: str, count: int, **body: Any) -> list[httpx.Response]:
    """So many questions at the same moment, spread over the gateways."""
    answers: list[httpx.Response] = []
    together = threading.Barrier(count)

    def ask(url: str) -> None:
        with httpx.Client(timeout=60) as client:
            together.wait()
            answers.append(
                client.post(
                    f"{url}/v1/chat/completions",
                    json={"model": "m", "messages": HELLO, **body},
                    headers={"authorization": f"Bearer {key}"},
                )
            )

    threads = [threading.Thread(target=ask, args=(urls[index % len(urls)],)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def statuses(answers: list[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def refused(url: str, key: str, code: str) -> bool:
    """Whether a question is refused with `code`."""
    answer = at_once([url], key, 1)[0].json()
    return bool(answer.get("error", {}).get("code") == code)


def counts_by(server: Server, mode: str) -> bool:
    """Whether a gateway says that it counts limits in this way."""
    with server.http() as admin:
        return bool(admin.get("/api/limits").json()["mode"] == mode)


def test_a_budget_holds_at_once_and_through_a_kill(server: Callable[..., Server], engine: str) -> None:
    """If this fails, a family's budget is spent eight times in one second, or is whole again after a crash."""
    one = server(CONFIG.format(engine=engine)).start()
    try:
        one.until("awake", "m")
        key = keys(one, "create", "kid", "--budget", "0.00005 USD/month")  # fifty tokens: one answer of 24, and what it was asked
        answers = at_once([one.url], key, 8)
        assert statuses(answers) == [200] + [429] * 7, [answer.text for answer in answers]
        client = one.openai(api_key=key, max_retries=3)
        for _ in range(5):  # the rest of the budget, one after the other
            try:
                client.chat.completions.create(model="m", messages=HELLO)
            except openai.RateLimitError as error:
                spent = error
                break
        else:
            raise AssertionError("the budget has no end")
        assert spent.code == "insufficient_quota"
        began = time.monotonic()
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="m", messages=HELLO)
        assert time.monotonic() - began < 0.5 + 1.5  # not tried three times more with pauses in between
        assert client.chat.completions.create(model="free", messages=HELLO).usage.completion_tokens == TOKENS
        time.sleep(1.5)  # what was used is written once a second
        one.kill()
        one.start()
        one.until("awake", "m")
        with pytest.raises(openai.RateLimitError):
            one.openai(api_key=key).chat.completions.create(model="m", messages=HELLO)
        keys(one, "limit", "kid", "--budget", "1 USD/month", "--rpm", "2")
        answer = one.openai(api_key=key).chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        with one.http() as admin:
            [state] = [item for item in admin.get("/api/limits").json()["keys"] if item["name"] == "kid"]
        assert state["limits"] == {"requests_per_minute": 2, "budget_per_month": "1 USD"}
        assert state["used"]["tokens_this_month"] >= 2 * TOKENS
    finally:
        one.stop()


def test_a_rotated_key_and_an_expired_one(server: Callable[..., Server], engine: str) -> None:
    """If this fails, changing a secret interrupts whoever uses it, or an ended key still opens."""
    one = server(CONFIG.format(engine=engine)).start()
    try:
        old = keys(one, "create", "app", "--models", "free")
        new = keys(one, "rotate", "app")

        def code(key: str, model: str = "free") -> str:
            try:
                one.openai(api_key=key).chat.completions.create(model=model, messages=HELLO)
            except openai.APIStatusError as error:
                return str(error.code)
            return "ok"

        one.until("awake", "free")
        assert [code(old), code(new), code(new, "m")] == ["ok", "ok", "model_not_allowed"]
        newest = keys(one, "rotate", "app", "--grace", "0s")
        assert [code(old), code(new), code(newest)] == ["invalid_api_key", "invalid_api_key", "ok"]
        keys(one, "disable", "app")
        assert code(newest) == "api_key_disabled"
        keys(one, "enable", "app")
        keys(one, "expire", "app", "1s")
        eventually(lambda: code(newest) == "api_key_expired", what="the key has ended")
        assert json.loads(keys(one, "list", "--json"))["keys"][-1]["state"] == "expired"
    finally:
        one.stop()


@pytest.mark.timeout(240)
def test_gateways_share_limits_through_redis_and_live_without_it(
    postgres_server: Postgres, redis_server: Redis, engine: str, tmp_path: Any
) -> None:
    """If this fails, a second gateway doubles every budget, or a Redis that dies stops the service."""
    url = postgres_server.create("lamplighter")
    config = CONFIG + SHARED.replace("REDIS", redis_server.url)
    cluster = Cluster(postgres_server, tmp_path, engine, url, config)
    try:
        first, second = cluster.both("one"), cluster.gateway("two")
        for one in (first, second):
            one.until("awake", "m")
        urls = [first.url, second.url]
        key = keys(first, "create", "kid", "--budget", "0.00002 USD/month")  # twenty tokens: one answer passes it
        eventually(
            lambda: at_once([second.url], key, 1, model="nothing")[0].status_code == 404, what="the other gateway knows the key"
        )
        answers = at_once(urls, key, 8)
        assert statuses(answers) == [200] + [429] * 7, [answer.text for answer in answers]
        for address in urls:  # spent, and both know
            eventually(partial(refused, address, key, "insufficient_quota"), what="the budget is spent in every gateway")
        many = keys(first, "create", "many", "--parallel", "4")
        eventually(
            lambda: at_once([second.url], many, 1, model="nothing")[0].status_code == 404, what="the other gateway knows the key"
        )
        assert statuses(at_once(urls, many, 16)).count(200) == 4
        redis_server.kill()
        answers = at_once(urls, many, 16)
        assert set(statuses(answers)) == {200, 429}
        assert 2 <= statuses(answers).count(200) <= 8  # until each knows of the other, its half or the whole
        assert all(answer.elapsed.total_seconds() < 20 for answer in answers)
        assert counts_by(first, "degraded")
        assert first.text().count("limits_not_shared") == 1
        redis_server.start()
        for one in (first, second):
            eventually(partial(counts_by, one, "redis"), what="limits are shared again")
        assert statuses(at_once(urls, many, 16)).count(200) == 4
        assert at_once(urls, key, 1)[0].status_code == 429
    finally:
        cluster.end()
