/**
 * Complete values of the contract's shapes, to be changed where a test cares.
 */
import type { Chat, Message, ModelStatus, Quote, Running, StartedFrame, Wake } from "../src/api/types";

export function aModel(change: Partial<ModelStatus> = {}): ModelStatus {
  return {
    name: "small",
    engine: "llamacpp",
    pool: "here",
    pool_kind: "process",
    source: "bundled",
    state: "asleep",
    always_on: false,
    in_flight: 0,
    queued: 0,
    sleeping_at: null,
    while_waking: null,
    capabilities: ["chat"],
    context: 2048,
    note: null,
    wake: null,
    failure: null,
    last_wake: null,
    quote: null,
    ...change,
  };
}

/** Began at 1000; the first stage took 2 s, the second is at work, the third is to come. */
export function aWake(change: Partial<Wake> = {}): Wake {
  const stage = { progress: null, detail: null };
  return {
    id: "wak_1",
    started_at: 1000,
    stages: [
      { ...stage, name: "capacity", started_at: 1000, ended_at: 1002 },
      { ...stage, name: "pull", started_at: 1002, ended_at: null, progress: 0.4, detail: "1.9 GB" },
      { ...stage, name: "load", started_at: null, ended_at: null },
    ],
    eta: { p50: 10, p90: 20 },
    cost: null,
    ...change,
  };
}

export const QUOTE: Quote = {
  hourly: "0.2104",
  least: "0.0531",
  currency: "USD",
  basis: "spot g4dn.xlarge",
  source: "AWS spot price history",
  at: 900,
};

/** Bills since 1000. */
export const RUNNING: Running = {
  hourly: "0.2104",
  currency: "USD",
  basis: "spot g4dn.xlarge, eu-central-1a",
  since: 1000,
};

export function aChat(change: Partial<Chat> = {}): Chat {
  return {
    id: "cht_1",
    title: "A chat",
    model: "small",
    system: null,
    created_at: 1,
    updated_at: 1,
    ...change,
  };
}

export function aMessage(change: Partial<Message> = {}): Message {
  const message: Message = {
    id: "msg_1",
    parent_id: null,
    role: "user",
    content: "Hello",
    model: null,
    created_at: 1,
    status: "done",
    generation_id: null,
    error: null,
    usage: null,
    siblings: [],
    ...change,
  };
  return { ...message, siblings: change.siblings ?? [message.id] };
}

export function aStarted(change: Partial<StartedFrame> = {}): StartedFrame {
  return {
    type: "started",
    client_request_id: "req_1",
    generation_id: "gen_1",
    chat: aChat(),
    user_message: aMessage({ id: "msg_u" }),
    message: aMessage({
      id: "msg_a",
      parent_id: "msg_u",
      role: "assistant",
      content: "",
      model: "small",
      status: "streaming",
      generation_id: "gen_1",
    }),
    ...change,
  };
}
