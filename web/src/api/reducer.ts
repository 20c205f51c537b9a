/**
 * What the page knows of one generation, and how each event changes it: pure, so that resuming can be tested.
 *
 * Not responsible for sockets or timing. The rules: seq runs 1, 2, 3 without gaps; what was seen is dropped; a gap
 * means that frames were lost, and the caller must tail again after `seq`.
 */
import type {
  Amount,
  ApiError,
  GenerationEvent,
  Message,
  MessageStatus,
  SnapshotFrame,
  Usage,
  Wake,
} from "./types";

export interface Generation {
  id: string;
  chatId: string;
  messageId: string;
  model: string;
  /** The last seq applied; 0 before the first. */
  seq: number;
  text: string;
  /** A reasoning model's thoughts: shown while it thinks, not part of the answer and not kept. */
  thinking: string;
  wake: Wake | null;
  /** What the machine had cost by then, once the wake is over. */
  wakeCost: Amount | null;
  /** Seconds the wake took, once it is over. */
  wokeIn: number | null;
  usage: Usage | null;
  error: ApiError | null;
  status: MessageStatus;
  /** The settled message, once done. */
  message: Message | null;
  /** The person pressed Stop; shown at once, true when the server's `done` arrives. */
  stopping: boolean;
}

export function newGeneration(
  of: Pick<Generation, "id" | "chatId" | "messageId"> & { model: string | null },
): Generation {
  return {
    id: of.id,
    chatId: of.chatId,
    messageId: of.messageId,
    model: of.model ?? "",
    seq: 0,
    text: "",
    thinking: "",
    wake: null,
    wakeCost: null,
    wokeIn: null,
    usage: null,
    error: null,
    status: "streaming",
    message: null,
    stopping: false,
  };
}

export function isLive(generation: Generation): boolean {
  return generation.status === "streaming";
}

/** `applied`: changed. `seen`: a duplicate, dropped. `gap`: events are missing, tail again. */
export type Outcome = "applied" | "seen" | "gap";

/**
 * `force`: take the event over a gap, when asking again has brought nothing that would fill it.
 *
 * An ending is taken over any gap: after a crash its seq is far above the last one written, and it carries all.
 */
export function applyEvent(
  generation: Generation,
  event: GenerationEvent,
  force = false,
): [Generation, Outcome] {
  if (event.seq <= generation.seq) return [generation, "seen"];
  const ending = event.kind === "done" || event.kind === "error";
  if (event.seq > generation.seq + 1 && !ending && !force) return [generation, "gap"];
  const next = { ...generation, seq: event.seq };
  switch (event.kind) {
    case "wake":
      return [
        "woke_in" in event.data
          ? { ...next, wokeIn: event.data.woke_in, wakeCost: event.data.cost ?? null }
          : { ...next, wake: event.data, wokeIn: null },
        "applied",
      ];
    case "delta":
      return [resumed({ ...next, text: generation.text + event.data.text }), "applied"];
    case "thinking":
      return [resumed({ ...next, thinking: generation.thinking + event.data.text }), "applied"];
    case "usage":
      return [{ ...next, usage: event.data }, "applied"];
    case "error":
      return [{ ...next, error: event.data }, "applied"];
    case "done":
      return [
        { ...next, status: event.data.status, message: event.data.message, stopping: false },
        "applied",
      ];
    default:
      // A newer server may send kinds this page does not know: count them, or every later event is a gap.
      return [next, "applied"];
  }
}

/** Whether another machine is woken to go on with what is written already: the one that wrote it is gone. */
export function isWakingAgain(generation: Generation): boolean {
  return generation.text !== "" && generation.wake !== null && generation.wokeIn === null;
}

/** Words come again: the wake in the middle of the answer is over, which no event says. */
function resumed(generation: Generation): Generation {
  return isWakingAgain(generation) ? { ...generation, wake: null } : generation;
}

/** The log was trimmed: the text so far replaces ours, unless we are already ahead of it. */
export function applySnapshot(generation: Generation, snapshot: SnapshotFrame): Generation {
  if (snapshot.seq <= generation.seq) return generation;
  return { ...generation, seq: snapshot.seq, text: snapshot.text };
}
