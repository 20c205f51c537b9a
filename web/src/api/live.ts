/**
 * The one store for what moves by itself: the connection, the models' states, the answers being written.
 *
 * Not responsible for server data that is asked for (queries.ts), nor for talking to the socket (socket.ts, the
 * only writer of `connection`, `models`, `generations` and `pending`).
 */
import { create } from "zustand";
import { type Generation, isLive } from "./reducer";
import type { ApiError, GenerationRequest, ModelStatus } from "./types";

/** A request that the server has not answered with `started` yet. It is sent again after every reconnect. */
export interface Pending {
  request: GenerationRequest;
  /** Where it was asked: a chat id, or the key of the new-chat view. */
  view: string;
  at: number;
  /** Refused: shown beside the person's text, which is kept. */
  error: ApiError | null;
}

/** A message written while an answer was still coming; sent when that answer is done. */
export interface Queued {
  content: string;
  model: string;
}

export type Connection = "connecting" | "open" | "reconnecting" | "closed";

export interface LiveState {
  connection: Connection;
  /** When the connection was last lost (local ms), so that a blink is not shown. */
  lostAt: number | null;
  /** Seconds to add to the browser's clock to get the server's. */
  skew: number;
  models: ModelStatus[] | null;
  generations: Record<string, Generation>;
  pending: Record<string, Pending>;
  queued: Record<string, Queued>;
  /** Identifies the present new-chat view; a fresh one for each new chat. */
  draftView: string;
  /** What the polite live region says. */
  announcement: string;
}

/** Unguessable enough for an idempotency key; `crypto.randomUUID` is absent on plain http from another machine. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function initialLive(): LiveState {
  return {
    connection: "connecting",
    lostAt: null,
    skew: 0,
    models: null,
    generations: {},
    pending: {},
    queued: {},
    draftView: newId(),
    announcement: "",
  };
}

export const useLive = create<LiveState>()(initialLive);

export const live = {
  get: useLive.getState,
  set: useLive.setState,
  /** Says something once to a screen reader. */
  announce(text: string): void {
    useLive.setState({ announcement: text });
  },
  queue(view: string, message: Queued | null): void {
    useLive.setState((state) => {
      const { [view]: _, ...rest } = state.queued;
      return { queued: message === null ? rest : { ...rest, [view]: message } };
    });
  },
  /** Begins a fresh new-chat view. */
  newDraft(): void {
    useLive.setState({ draftView: newId() });
  },
  dropPending(clientRequestId: string): void {
    useLive.setState((state) => {
      const { [clientRequestId]: _, ...pending } = state.pending;
      return { pending };
    });
  },
};

/** The answer being written in this chat, if any. */
export function liveGenerationOf(state: LiveState, chatId: string | null): Generation | undefined {
  if (chatId === null) return undefined;
  // The newest: a Stop may still be on its way to the one before.
  return Object.values(state.generations).findLast((one) => one.chatId === chatId && isLive(one));
}

export function modelNamed(state: LiveState, name: string | null): ModelStatus | undefined {
  return state.models?.find((model) => model.name === name);
}

/** The server's time in Unix seconds, by the browser's clock and the measured skew. */
export function serverNow(skew: number, localMs: number = Date.now()): number {
  return localMs / 1000 + skew;
}
