import { describe, expect, it } from "vitest";
import { withChat, withOlder, withRefreshed, withSettled, withStarted } from "../../src/api/branch";
import type { Branch } from "../../src/api/types";
import { aChat, aMessage, aStarted } from "../fixtures";

const ids = (branch: Branch | undefined) => branch?.messages.map((message) => message.id);
const branchOf = (...names: string[]): Branch => ({
  chat: aChat(),
  messages: names.map((id, index) => aMessage({ id, parent_id: names[index - 1] ?? null })),
  more: false,
});

describe("a started generation", () => {
  it("appends question and answer", () => {
    /** What one sends would not appear. */
    const frame = aStarted({ user_message: aMessage({ id: "msg_u", parent_id: "b" }) });
    expect(ids(withStarted(branchOf("a", "b"), frame))).toEqual(["a", "b", "msg_u", "msg_a"]);
  });

  it("leaves the old branch when a question was edited", () => {
    /** The edited question would appear below the answers it replaces. */
    const frame = aStarted({ user_message: aMessage({ id: "msg_u", parent_id: "b" }) });
    expect(ids(withStarted(branchOf("a", "b", "c", "d"), frame))).toEqual(["a", "b", "msg_u", "msg_a"]);
  });

  it("replaces the answer when it was asked again", () => {
    /** Both versions would be shown, one after the other. */
    const message = aMessage({ id: "b2", parent_id: "a", role: "assistant" });
    expect(ids(withStarted(branchOf("a", "b"), aStarted({ user_message: null, message })))).toEqual([
      "a",
      "b2",
    ]);
  });

  it("begins a chat that was not known", () => {
    /** A new chat would open empty. */
    expect(ids(withStarted(undefined, aStarted()))).toEqual(["msg_u", "msg_a"]);
  });
});

it("settles a message without forgetting its siblings", () => {
  /** The < 2 / 2 > under a new version would disappear when it is done. */
  const branch = branchOf("a", "b");
  const streaming = { ...branch, messages: branch.messages.map((one) => ({ ...one, siblings: ["b", "c"] })) };
  const settled = withSettled(streaming, aMessage({ id: "b", content: "Done", siblings: ["b"] }));
  expect(settled?.messages[1]).toMatchObject({ content: "Done", siblings: ["b", "c"] });
});

describe("pages of a long chat", () => {
  it("keeps older messages when the newest page comes again", () => {
    /** Reading far up in a long chat, a reconnect would throw one back to its end. */
    const old = branchOf("a", "b", "c", "d");
    const fresh = { ...branchOf("c", "d", "e"), more: true };
    expect(ids(withRefreshed(old, fresh))).toEqual(["a", "b", "c", "d", "e"]);
  });

  it("takes the fresh page when the branches differ", () => {
    /** Switching to another version would mix two conversations. */
    expect(ids(withRefreshed(branchOf("a", "b"), { ...branchOf("x", "y"), more: true }))).toEqual(["x", "y"]);
  });

  it("puts older messages above, once", () => {
    /** Scrolling up fast would show messages twice. */
    expect(ids(withOlder(branchOf("b", "c"), branchOf("a", "b")))).toEqual(["a", "b", "c"]);
  });
});

it("moves a changed chat to its place", () => {
  /** The chat one just wrote in would stay at the bottom of the list. */
  const [one, two] = [aChat({ id: "1", updated_at: 10 }), aChat({ id: "2", updated_at: 5 })];
  const pages = withChat([{ chats: [one, two], next: null }], { ...two, updated_at: 20 }, true);
  expect(pages[0]?.chats.map((chat) => chat.id)).toEqual(["2", "1"]);
});

it("does not put an unknown chat into search results", () => {
  /** A search would show chats that do not match. */
  expect(withChat([{ chats: [], next: null }], aChat(), false)[0]?.chats).toEqual([]);
});
