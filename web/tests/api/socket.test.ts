import { beforeEach, describe, expect, it, vi } from "vitest";
import { live, useLive } from "../../src/api/live";
import { FLUSH_MS, Link, type Listener, SILENCE_MS, type SocketLike } from "../../src/api/socket";
import type { ClientFrame, GenerationRequest, ServerFrame } from "../../src/api/types";
import { aMessage, aModel, aStarted } from "../fixtures";

class FakeSocket implements SocketLike {
  static all: FakeSocket[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: (() => void) | null = null;
  sent: ClientFrame[] = [];
  closed = false;
  constructor() {
    FakeSocket.all.push(this);
  }
  send(data: string) {
    this.sent.push(JSON.parse(data));
  }
  close() {
    this.closed = true;
  }
  says(frame: ServerFrame) {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
  sentOf(type: ClientFrame["type"]) {
    return this.sent.filter((frame) => frame.type === type);
  }
}

const request: GenerationRequest = {
  type: "start",
  client_request_id: "req_1",
  chat_id: null,
  parent_id: null,
  content: "Hello",
  model: "small",
  params: {},
};
const listener = {
  started: vi.fn(),
  done: vi.fn(),
  lost: vi.fn(),
  chat: vi.fn(),
  chatDeleted: vi.fn(),
  reopened: vi.fn(),
  refused: vi.fn(),
} satisfies Listener;

let link: Link;
const current = () => {
  const socket = FakeSocket.all.at(-1);
  if (!socket) throw new Error("no socket was opened");
  return socket;
};
const open = () => {
  current().onopen?.();
  return current();
};
const drop = () => current().onclose?.();
const event = (seq: number, text: string): ServerFrame => ({
  type: "event",
  generation_id: "gen_1",
  seq,
  kind: "delta",
  data: { text },
});
const text = () => live.get().generations.gen_1?.text;

/** A link with an answer of which "One " was seen. */
function answering() {
  link.start();
  const socket = open();
  link.request(request, "view");
  socket.says(aStarted());
  socket.says(event(1, "One "));
  return socket;
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.clearAllMocks();
  FakeSocket.all = [];
  link?.stop();
  link = new Link(useLive, listener, () => new FakeSocket());
  vi.spyOn(document, "visibilityState", "get").mockReturnValue("visible");
});

describe("resuming", () => {
  it("tails a live answer after its last seq", async () => {
    /** A dropped connection would lose the rest of the answer, or show its beginning twice. */
    answering();
    drop();
    expect(live.get().connection).toBe("reconnecting");
    await vi.advanceTimersByTimeAsync(1_000);
    const socket = open();
    expect(socket.sentOf("tail")).toEqual([{ type: "tail", generation_id: "gen_1", after: 1 }]);
    socket.says(event(1, "One "));
    socket.says(event(2, "two"));
    await vi.advanceTimersByTimeAsync(FLUSH_MS);
    expect(text()).toBe("One two");
    expect(live.get().connection).toBe("open");
    expect(listener.reopened).toHaveBeenCalledOnce();
  });

  it("repeats an unanswered request under the same id", async () => {
    /** A question asked in a tunnel would vanish; under a new id it would run twice. */
    link.start();
    link.request(request, "view");
    expect(current().sent).toEqual([]);
    expect(open().sent).toEqual([request]);
    drop();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(open().sent).toEqual([request]);
    current().says(aStarted());
    drop();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(open().sentOf("start")).toEqual([]);
  });

  it("tails again when a frame is missing", async () => {
    /** Words lost on the way would never come back. */
    const socket = answering();
    socket.says(event(4, "four"));
    await vi.advanceTimersByTimeAsync(FLUSH_MS);
    expect(text()).toBe("One ");
    expect(socket.sentOf("tail")).toEqual([{ type: "tail", generation_id: "gen_1", after: 1 }]);
  });

  it("goes on when what is missing does not exist", async () => {
    /** A hole in the server's log would make page and server ask and answer for ever. */
    const socket = answering();
    socket.says(event(4, "four"));
    await vi.advanceTimersByTimeAsync(FLUSH_MS);
    socket.says(event(4, "four"));
    await vi.advanceTimersByTimeAsync(FLUSH_MS);
    expect(text()).toBe("One four");
    expect(socket.sentOf("tail")).toHaveLength(1);
  });

  it("refuses by itself what the server would hang up on", () => {
    /** A pasted book would close the line, be sent again, and close it again, for ever. */
    link.start();
    const socket = open();
    link.request({ ...request, content: "x".repeat(300_000) }, "view");
    expect(socket.sent).toEqual([]);
    expect(live.get().pending.req_1?.error?.code).toBe("too_long");
  });

  it("does not trust an old socket when the tab comes back", async () => {
    /** A phone kills sockets silently: readyState says open and nothing ever arrives. */
    const before = answering();
    await vi.advanceTimersByTimeAsync(10_000);
    document.dispatchEvent(new Event("visibilitychange"));
    expect(before.closed).toBe(true);
    expect(FakeSocket.all).toHaveLength(2);
    expect(open().sentOf("tail")).toHaveLength(1);
  });

  it("keeps a socket that has just spoken when the tab comes back", () => {
    /** Every switch between tabs would cost a reconnect. */
    answering();
    document.dispatchEvent(new Event("visibilitychange"));
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("connects at once when the network is back", async () => {
    /** After a train tunnel a person would wait for the longest backoff. */
    link.start();
    for (let round = 0; round < 6; round += 1) {
      drop();
      await vi.advanceTimersByTimeAsync(20_000);
    }
    drop();
    const before = FakeSocket.all.length;
    window.dispatchEvent(new Event("online"));
    expect(FakeSocket.all).toHaveLength(before + 1);
  });

  it("gives up a line that fell silent", async () => {
    /** A half-open connection would look fine and stand still for ever. */
    link.start();
    const socket = open();
    await vi.advanceTimersByTimeAsync(SILENCE_MS - 1_000);
    socket.says({ type: "ping" });
    await vi.advanceTimersByTimeAsync(SILENCE_MS - 1_000);
    expect(socket.closed).toBe(false);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(socket.closed).toBe(true);
  });

  it("asks whether the session is good when it is refused", async () => {
    /** An expired session would look like a network fault, for ever. */
    link.start();
    drop();
    expect(listener.refused).toHaveBeenCalledOnce();
  });

  it("says Stop again after a reconnect", async () => {
    /** A Stop pressed while offline would be forgotten and the GPU would go on. */
    answering();
    drop();
    link.cancel("gen_1");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(open().sentOf("cancel")).toEqual([{ type: "cancel", generation_id: "gen_1" }]);
  });

  it("lets go of an answer that the server does not know", () => {
    /** After a restore of the server a row would wait for ever. */
    answering().says({
      type: "error",
      client_request_id: null,
      generation_id: "gen_1",
      error: { code: "not_found", message: "gone" },
    });
    expect(live.get().generations.gen_1).toBeUndefined();
    expect(listener.lost).toHaveBeenCalledOnce();
  });
});

describe("streaming", () => {
  it("shows deltas together, the first at once", async () => {
    /** A redraw per token makes long answers stutter; a held first token makes them feel slow. */
    const socket = answering();
    expect(text()).toBe("One ");
    socket.says(event(2, "two "));
    socket.says(event(3, "three"));
    expect(text()).toBe("One ");
    await vi.advanceTimersByTimeAsync(FLUSH_MS);
    expect(text()).toBe("One two three");
  });

  it("hands over the settled answer with everything before it", () => {
    /** The last words would be missing from a finished answer. */
    const socket = answering();
    const message = aMessage({ id: "msg_a", role: "assistant", content: "One two" });
    socket.says(event(2, "two"));
    socket.says({
      type: "event",
      generation_id: "gen_1",
      seq: 3,
      kind: "done",
      data: { status: "done", message },
    });
    expect(listener.done).toHaveBeenCalledOnce();
    expect(listener.done.mock.calls[0]?.[0]).toMatchObject({ text: "One two", status: "done", message });
  });

  it("follows an answer found in a chat, once", () => {
    /** Reloading the page mid-answer would show an answer that never moves. */
    link.start();
    const socket = open();
    const message = aMessage({ status: "streaming", generation_id: "gen_9", role: "assistant" });
    link.watch("cht_1", message);
    link.watch("cht_1", message);
    expect(socket.sentOf("tail")).toEqual([{ type: "tail", generation_id: "gen_9", after: 0 }]);
  });
});

describe("news", () => {
  it("keeps a refused request with its reason, and repeats it as a new one", () => {
    /** The typed text would be lost with the refusal, or the retry refused as a repeat. */
    link.start();
    const socket = open();
    link.request(request, "view");
    const error = { code: "queue_full", message: "Full." };
    socket.says({ type: "error", client_request_id: "req_1", generation_id: null, error });
    expect(live.get().pending.req_1?.error).toEqual(error);
    link.retry("req_1");
    const [, again] = socket.sentOf("start") as GenerationRequest[];
    expect(again).toMatchObject({ content: "Hello" });
    expect(again?.client_request_id).not.toBe("req_1");
    expect(Object.keys(live.get().pending)).toEqual([again?.client_request_id]);
  });

  it("takes the server's clock with the models' states", () => {
    /** With a wrong clock on the phone "sleeping in 4:10" would count from nonsense. */
    vi.setSystemTime(1_000_000);
    link.start();
    open().says({ type: "status", now: 1_060, models: [aModel()] });
    expect(live.get().models).toHaveLength(1);
    expect(live.get().skew).toBe(60);
  });

  it("survives frames it does not understand", () => {
    /** One odd frame would end all live updates. */
    link.start();
    const socket = open();
    socket.onmessage?.({ data: "{" });
    socket.says({ type: "from_the_future" } as unknown as ServerFrame);
    socket.says({ type: "status", models: [aModel()] });
    expect(live.get().models).toHaveLength(1);
  });
});
