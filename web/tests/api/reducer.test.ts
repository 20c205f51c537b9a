import { describe, expect, it } from "vitest";
import { applyEvent, applySnapshot, isWakingAgain, newGeneration } from "../../src/api/reducer";
import type { GenerationEvent } from "../../src/api/types";
import { aMessage, aWake, RUNNING } from "../fixtures";

const fresh = () => newGeneration({ id: "gen_1", chatId: "cht_1", messageId: "msg_a", model: "small" });
const delta = (seq: number, text: string): GenerationEvent => ({
  generation_id: "gen_1",
  seq,
  kind: "delta",
  data: { text },
});

describe("an answer's events", () => {
  it("adds up deltas", () => {
    /** Words would be missing or doubled in every answer. */
    let [state] = applyEvent(fresh(), delta(1, "One "));
    [state] = applyEvent(state, delta(2, "two"));
    expect(state.text).toBe("One two");
    expect(state.seq).toBe(2);
  });

  it("drops what was seen", () => {
    /** After a reconnect the replayed words would appear twice. */
    const [once] = applyEvent(fresh(), delta(1, "One "));
    const [again, outcome] = applyEvent(once, delta(1, "One "));
    expect(outcome).toBe("seen");
    expect(again).toBe(once);
  });

  it("refuses a gap instead of joining the ends", () => {
    /** A lost frame would silently remove words from the middle of an answer. */
    const [once] = applyEvent(fresh(), delta(1, "One "));
    const [after, outcome] = applyEvent(once, delta(3, "three"));
    expect(outcome).toBe("gap");
    expect(after.text).toBe("One ");
  });

  it("takes an ending over any gap", () => {
    /** After a crash of the server an interrupted answer would stay "streaming" for ever. */
    const message = aMessage({ id: "msg_a", status: "interrupted", content: "One" });
    const [state, outcome] = applyEvent(fresh(), {
      generation_id: "gen_1",
      seq: 1_000_000,
      kind: "done",
      data: { status: "interrupted", message },
    });
    expect([state.status, outcome]).toEqual(["interrupted", "applied"]);
  });

  it("keeps thoughts apart from the answer", () => {
    /** A reasoning model's musings would be copied and kept as its answer. */
    const [state] = applyEvent(fresh(), {
      generation_id: "gen_1",
      seq: 1,
      kind: "thinking",
      data: { text: "Hm." },
    });
    expect([state.thinking, state.text]).toEqual(["Hm.", ""]);
  });

  it("counts kinds it does not know", () => {
    /** A newer server would freeze an older page: every later event would look like a gap. */
    const unknown = {
      generation_id: "gen_1",
      seq: 1,
      kind: "reasoning",
      data: {},
    } as unknown as GenerationEvent;
    const [state, outcome] = applyEvent(fresh(), unknown);
    expect([state.seq, outcome]).toEqual([1, "applied"]);
  });

  it("follows a wake to its end", () => {
    /** The wake card would stay open over the finished wake, or forget how long it took. */
    const wake = aWake();
    let [state] = applyEvent(fresh(), { generation_id: "gen_1", seq: 1, kind: "wake", data: wake });
    expect(state.wake).toEqual(wake);
    [state] = applyEvent(state, { generation_id: "gen_1", seq: 2, kind: "wake", data: { woke_in: 1.4 } });
    expect(state.wokeIn).toBe(1.4);
  });

  it("remembers what the wake cost", () => {
    /** "woke in 94 s" would hide the price until the bill. */
    const event = { generation_id: "gen_1", kind: "wake" } as const;
    let [state] = applyEvent(fresh(), { ...event, seq: 1, data: aWake({ cost: RUNNING }) });
    [state] = applyEvent(state, {
      ...event,
      seq: 2,
      data: { woke_in: 94, cost: { amount: "0.005494", currency: "USD" } },
    });
    expect(state.wakeCost).toEqual({ amount: "0.005494", currency: "USD" });
    [state] = applyEvent(fresh(), { ...event, seq: 1, data: { woke_in: 1.4 } });
    expect(state.wakeCost).toBeNull();
  });

  it("knows a wake in the middle of an answer, and its end", () => {
    /** A machine that is taken back would look like an answer that hangs; or the card would stay over the rest of it. */
    let [state] = applyEvent(fresh(), { generation_id: "gen_1", seq: 1, kind: "wake", data: aWake() });
    expect(isWakingAgain(state)).toBe(false);
    [state] = applyEvent(state, { generation_id: "gen_1", seq: 2, kind: "wake", data: { woke_in: 1.4 } });
    [state] = applyEvent(state, delta(3, "One "));
    expect(isWakingAgain(state)).toBe(false);
    [state] = applyEvent(state, {
      generation_id: "gen_1",
      seq: 4,
      kind: "wake",
      data: aWake({ id: "wak_2" }),
    });
    expect(isWakingAgain(state)).toBe(true);
    [state] = applyEvent(state, delta(5, "two"));
    expect([isWakingAgain(state), state.text]).toEqual([false, "One two"]);
  });

  it("ends with the settled message", () => {
    /** The Stop button would stay on a finished answer. */
    const message = aMessage({ id: "msg_a", role: "assistant", content: "One" });
    const [state] = applyEvent(
      { ...fresh(), stopping: true },
      { generation_id: "gen_1", seq: 1, kind: "done", data: { status: "cancelled", message } },
    );
    expect(state).toMatchObject({ status: "cancelled", stopping: false, message });
  });
});

describe("a snapshot", () => {
  const snapshot = { type: "snapshot", generation_id: "gen_1", seq: 40, text: "All of it" } as const;

  it("replaces the text and moves on", () => {
    /** When the server trimmed its log, a page opened late would show half an answer. */
    const [state] = applyEvent(fresh(), delta(1, "All"));
    const after = applySnapshot(state, snapshot);
    expect([after.text, after.seq]).toEqual(["All of it", 40]);
    expect(applyEvent(after, delta(41, "!"))[0].text).toBe("All of it!");
  });

  it("never goes back", () => {
    /** A late snapshot would take words away from an answer that is further on. */
    const ahead = { ...fresh(), seq: 50, text: "All of it and more" };
    expect(applySnapshot(ahead, snapshot)).toBe(ahead);
  });
});
