"""A person's chats over HTTP: listed, searched, paged, changed, exported, deleted; and nobody else's."""

import json
import time

import httpx
from sqlalchemy import insert

from lamplighter.core.ids import new_id
from lamplighter.store.tables import chats, messages
from tests.unit.gateway.chat.stage import Stage, stage


async def make_chat(one: Stage, *contents: str, title: str = "A chat", at: float = 1_000.0, mine: bool = True) -> str:
    """A chat whose messages follow one another, question first."""
    identity, parent = new_id("cht"), None
    async with one.store.write() as connection:
        await connection.execute(
            insert(chats).values(
                id=identity, principal_id=(one.identity if mine else one.other).principal_id, title=title, model="quick",
                created_at=at, updated_at=at,
            )
        )  # fmt: skip
        rows = []
        for index, content in enumerate(contents):
            message = {
                "id": new_id("msg"), "chat_id": identity, "parent_id": parent, "role": "assistant" if index % 2 else "user",
                "content": content, "status": "done", "created_at": at + index, "model": "quick" if index % 2 else None,
            }  # fmt: skip
            rows.append(message)
            parent = message["id"]
        if rows:
            await connection.execute(insert(messages), rows)
        await connection.execute(chats.update().where(chats.c.id == identity).values(leaf_id=parent))
    return identity


def titles(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [chat["title"] for chat in response.json()["chats"]]


async def test_chats_are_listed_newest_first_in_pages() -> None:
    """If this fails, old chats cannot be reached, or appear twice."""
    async with stage() as one, one.client() as client:
        for number in range(7):
            await make_chat(one, title=f"chat {number}", at=1_000.0 + number // 2)  # pairs with the same time
        await make_chat(one, title="not mine", mine=False)
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            response = await client.get("/api/chats", params={"limit": 3, **({"before": cursor} if cursor else {})})
            seen += titles(response)
            cursor = response.json()["next"]
        assert sorted(seen) == [f"chat {number}" for number in range(7)]
        assert seen[0] == "chat 6"
        assert len(seen) == len(set(seen))


async def test_search_finds_titles_and_words_and_nothing_by_wildcards() -> None:
    """If this fails, people cannot find what they talked about."""
    async with stage() as one, one.client() as client:
        await make_chat(one, "How do I prune roses?", "In spring.", title="Garden")
        await make_chat(one, "100% sure_thing", title="Odds")
        await make_chat(one, "ROSES again", title="Secret", mine=False)
        assert titles(await client.get("/api/chats", params={"q": "GARD"})) == ["Garden"]
        assert titles(await client.get("/api/chats", params={"q": "roses"})) == ["Garden"]
        assert titles(await client.get("/api/chats", params={"q": "0% sure_"})) == ["Odds"]
        assert titles(await client.get("/api/chats", params={"q": "%"})) == ["Odds"]
        assert titles(await client.get("/api/chats", params={"q": "a_d"})) == []
        assert titles(await client.get("/api/chats", params={"q": "'; DROP TABLE chats; --"})) == []
        assert len(titles(await client.get("/api/chats", params={"q": "   "}))) == 2


async def test_a_chat_is_changed() -> None:
    """If this fails, renaming or the system prompt are lost."""
    async with stage() as one, one.client() as client:
        chat = await make_chat(one, "q", "a")
        for change in ({"title": "New name"}, {"model": "slow"}, {"system": "Be kind."}):
            changed = (await client.patch(f"/api/chats/{chat}", json=change)).json()
            assert changed.items() >= change.items()
        assert (await client.patch(f"/api/chats/{chat}", json={"system": None})).json()["system"] is None
        assert (await client.patch(f"/api/chats/{chat}", json={})).json()["title"] == "New name"
        for bad in ({"title": ""}, {"title": None}, {"model": None}, {"title": "x" * 201}, {"owner": "bob"}):
            assert (await client.patch(f"/api/chats/{chat}", json=bad)).status_code == 400
        assert (await client.patch(f"/api/chats/{chat}", json={"active": "msg_none"})).status_code == 404


async def test_nobody_else_can_see_that_a_chat_exists() -> None:
    """If this fails, people on one gateway read each other's conversations."""
    async with stage() as one, one.client() as client, one.client(key=one.other_key) as other:
        chat = await make_chat(one, "private", "very")
        foreign = [
            await other.get(f"/api/chats/{chat}"),
            await other.patch(f"/api/chats/{chat}", json={"title": "mine"}),
            await other.delete(f"/api/chats/{chat}"),
            await other.get(f"/api/chats/{chat}/export"),
        ]
        unknown = await other.get("/api/chats/cht_none")
        assert [(r.status_code, r.json()) for r in foreign] == [(404, unknown.json())] * 4
        assert titles(await other.get("/api/chats", params={"q": "private"})) == []
        assert titles(await client.get("/api/chats")) == ["A chat"]


async def test_a_chat_of_two_thousand_messages_opens_at_once_and_pages() -> None:
    """If this fails, long chats lag or cannot be opened, and cannot be deleted."""
    async with stage() as one, one.client() as client:
        chat = await make_chat(one, *[f"message {number}" for number in range(2_000)])
        begun = time.perf_counter()
        page = (await client.get(f"/api/chats/{chat}")).json()
        assert time.perf_counter() - begun < 1.0
        assert [m["content"] for m in page["messages"]] == [f"message {number}" for number in range(1_800, 2_000)]
        assert page["more"]
        seen = page["messages"]
        while page["more"]:
            page = (await client.get(f"/api/chats/{chat}", params={"before": seen[0]["id"], "limit": 500})).json()
            seen = page["messages"] + seen
        assert [m["content"] for m in seen] == [f"message {number}" for number in range(2_000)]
        assert all(m["siblings"] == [m["id"]] for m in seen)
        assert (await client.delete(f"/api/chats/{chat}")).status_code == 204
        assert (await client.get(f"/api/chats/{chat}")).status_code == 404
        assert (await client.delete(f"/api/chats/{chat}")).status_code == 404


async def test_export() -> None:
    """If this fails, people cannot take their conversations with them."""
    async with stage() as one, one.client() as client:
        chat = await make_chat(one, "What is 2+2?", "**4**", title="Sums & Söhne/../x")
        await client.patch(f"/api/chats/{chat}", json={"system": "Be exact."})
        plain = await client.get(f"/api/chats/{chat}/export")
        assert plain.headers["content-type"] == "text/markdown; charset=utf-8"
        disposition = plain.headers["content-disposition"]
        assert disposition.startswith('attachment; filename="Sums---S-hne----x.md"; filename*=UTF-8')
        assert "%2F" not in disposition
        assert plain.text.startswith("# Sums & Söhne/../x\n")
        for piece in ("## System prompt\n\nBe exact.", "## You\n\nWhat is 2+2?", "## quick\n\n**4**"):
            assert piece in plain.text
        whole = json.loads((await client.get(f"/api/chats/{chat}/export", params={"format": "json"})).text)
        assert [m["content"] for m in whole["messages"]] == ["What is 2+2?", "**4**"]
        assert whole["chat"]["system"] == "Be exact."
        assert (await client.get(f"/api/chats/{chat}/export", params={"format": "pdf"})).status_code == 400
