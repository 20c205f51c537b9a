"""A newcomer with a browser: the link from the terminal, a question, an answer; and what happens when things are interrupted."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.journeys.browser import chromium
from tests.journeys.harness import Server, eventually, running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

REAL = "models: {small: {engine: llamacpp, pool: here, source: bundled, context: 512}}\npools: {here: {kind: process, sleep_after: 4s}}\n"
SLOW = """
models:
  big: {engine: fake, pool: cloud}
pools:
  cloud: {kind: fake, sleep_after: 5m, tokens_per_second: 15, stages: {capacity: 2s, boot: 1s, mesh: 1s, pull: 1s, load: 1s}}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def _open(browser: Browser, lamplighter: Server, **options: Any) -> Page:
    """A fresh visitor who follows the one-time link; the page must not log errors."""
    page = browser.new_context(**options).new_page()
    page.goto(f"{lamplighter.url}/#login={lamplighter.login_token()}")
    expect(page.get_by_role("textbox", name="Message")).to_be_visible(timeout=15_000)
    assert "login" not in page.url, "the token must not stay in the address bar"
    return page


def _ask(page: Page, text: str) -> None:
    box = page.get_by_role("textbox", name="Message")
    box.fill(text)
    box.press("Enter")


def _answer(page: Page) -> str:
    row = page.get_by_role("article").filter(has=page.get_by_role("heading", name=re.compile("Answered by")))
    return row.last.inner_text()


@pytest.mark.model
def test_the_first_visit(server: Callable[..., Server], browser: Browser) -> None:
    """A newcomer would not get a first answer without a manual step."""
    with running(server(REAL)) as lamplighter:
        page = _open(browser, lamplighter)
        _ask(page, "Name three colours.")
        expect(page.get_by_role("button", name="Copy").first).to_be_visible(timeout=30_000)
        eventually(lambda: "tok/s" in page.content(), what="the reply's footer shows its speed")
        expect(page).to_have_url(re.compile(r"/c/cht_"))
        assert len(_answer(page)) > 3
        # The open page neither wakes the model nor keeps it awake.
        lamplighter.until("asleep")
        page.reload()
        expect(page.get_by_text("Name three colours.").first).to_be_visible()
        assert lamplighter.starts() == 1


def test_the_wake_card_and_stop(server: Callable[..., Server], browser: Browser) -> None:
    """A person would look at nothing for minutes while a machine boots, and could not stop it."""
    with running(server(SLOW)) as lamplighter:
        page = _open(browser, lamplighter, viewport={"width": 390, "height": 844}, color_scheme="dark")
        _ask(page, "Tell me a story.")
        for stage in (
            "Finding a machine",
            "Starting the machine",
            "Joining the network",
            "Fetching the model",
            "Loading the model",
        ):
            expect(page.get_by_text(stage).first).to_be_visible(timeout=15_000)  # future stages are shown from the first moment
        expect(page.get_by_text(re.compile("woke in", re.IGNORECASE)).first).to_be_visible(timeout=30_000)
        eventually(lambda: lamplighter.model("big")["in_flight"] == 1, what="it answers")
        page.get_by_role("button", name="Stop").click()
        eventually(lambda: lamplighter.model("big")["in_flight"] == 0, what="Stop reached the engine")
        expect(page.get_by_text("Stopped").first).to_be_visible()


def test_the_price_is_shown_before_and_during_a_wake_and_kept_after_it(server: Callable[..., Server], browser: Browser) -> None:
    """A person would wake a machine that costs money without having been told."""
    priced = SLOW.replace("kind: fake,", "kind: fake, price: 360 USD/hour, budget: 60 USD/month,")
    with running(server(priced)) as lamplighter:
        page = _open(browser, lamplighter, viewport={"width": 390, "height": 844})
        expect(page.get_by_text(re.compile(r"^big is asleep · waking costs about 360.00 USD/h, at least"))).to_be_visible()
        _ask(page, "Tell me a story.")
        expect(page.get_by_text(re.compile(r"360.00 USD/h · [\d.]+ USD so far")).first).to_be_visible(timeout=15_000)
        woke = page.get_by_text(re.compile(r"woke in [\d.]+ s, [\d.]+ USD"))
        expect(woke.first).to_be_visible(timeout=30_000)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("Stopped").first).to_be_visible()
        page.reload()
        expect(woke.first).to_be_visible()
        (pool,) = lamplighter.status()["pools"]
        assert pool["budget"]["limit"] == "60"


def test_a_wake_that_the_budget_cannot_pay_is_refused_with_what_is_left(server: Callable[..., Server], browser: Browser) -> None:
    """A person would press Enter again and again, or the money would be spent all the same."""
    priced = SLOW.replace("kind: fake,", "kind: fake, price: 360 USD/hour, budget: 1 USD/month,")
    with running(server(priced)) as lamplighter:
        page = _open(browser, lamplighter)
        _ask(page, "Tell me a story.")
        expect(page.get_by_text("Budget does not allow it").first).to_be_visible(timeout=15_000)
        expect(page.get_by_text(re.compile(r"1.00 USD is left")).first).to_be_visible()
        expect(page.get_by_text("Raise the budget, or wait for its next period.").first).to_be_visible()
        assert lamplighter.model("big")["state"] == "failed"


def test_a_restart_loses_nothing(server: Callable[..., Server], browser: Browser) -> None:
    """Chats would be gone after an upgrade, or a half answer would pretend to be whole."""
    lamplighter = server(SLOW).start()
    port = lamplighter.url.rpartition(":")[2]
    page = _open(browser, lamplighter)
    _ask(page, "Tell me a very long story.")
    expect(page.get_by_text(re.compile("woke in", re.IGNORECASE)).first).to_be_visible(timeout=30_000)
    eventually(lambda: len(_answer(page)) > 40, what="some text has come")
    lamplighter.kill()
    lamplighter.arguments = ("--port", port)  # the last --port wins: the page's address stays
    with running(lamplighter):
        expect(page.get_by_role("button", name="Continue")).to_be_visible(timeout=30_000)
        assert len(_answer(page)) > 20, "the partial text is kept"
        page.reload()
        expect(page.get_by_text("Tell me a very long story.").first).to_be_visible()


def test_a_stranger_sees_only_the_sign_in(server: Callable[..., Server], browser: Browser) -> None:
    """Anybody on the network could read the chats; or a used link would open the page again."""
    with running(server(SLOW)) as lamplighter:
        token = lamplighter.login_token()
        _open(browser, lamplighter)
        for address in (lamplighter.url, f"{lamplighter.url}/#login={token}"):
            page = browser.new_context().new_page()
            page.goto(address)
            expect(page.get_by_role("button", name="Sign in")).to_be_visible()
            expect(page.get_by_role("textbox", name="Message")).to_have_count(0)
