/**
 * The link to the server: one WebSocket that always comes back, and the resume protocol on top of it.
 *
 * A connection is a read-only tail: losing it loses nothing. After every (re)connect the link repeats the requests
 * that were not answered (the server knows their `client_request_id`), tails every answer being written after its
 * last seq, and repeats a Stop. Not responsible for what is on the screen, nor for the cache of chats: `Listener`.
 */
import { strings } from "../strings";
import { type LiveState, newId, type Pending } from "./live";
import { applyEvent, applySnapshot, type Generation, isLive, newGeneration } from "./reducer";
import type {
  Chat,
  ClientFrame,
  ErrorFrame,
  EventFrame,
  GenerationRequest,
  Message,
  ServerFrame,
  SnapshotFrame,
  StartedFrame,
} from "./types";

/** Deltas are shown together this often: fast enough to look continuous, slow enough to leave the CPU alone. */
export const FLUSH_MS = 60;
/** The server pings after 20 s of silence; two missed pings mean a dead line that nobody closed. */
export const SILENCE_MS = 45_000;
/** A socket that was silent this long when the tab comes back is not trusted, whatever its readyState says. */
export const STALE_MS = 5_000;
/** The server takes frames up to 256 KB. */
const MAX_FRAME_BYTES = 256_000;
/** How long an attempt may take to open before it is abandoned. */
export const OPEN_MS = 10_000;
const BACKOFF_MS = [300, 800, 1_500, 3_000, 6_000, 12_000] as const;

/** The part of WebSocket that the link uses; tests bring their own. */
export interface SocketLike {
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: (() => void) | null;
  send(data: string): void;
  close(): void;
}

export interface Listener {
  started(frame: StartedFrame, pending: Pending | undefined): void;
  done(generation: Generation): void;
  /** The server does not know this generation: what the chat holds is the truth now. */
  lost(generation: Generation): void;
  chat(chat: Chat): void;
  chatDeleted(chatId: string): void;
  /** Open again after a loss: what changed meanwhile was not heard. */
  reopened(): void;
  /** The server refused or did not answer: is the session still good? */
  refused(): void;
}

interface Store {
  getState(): LiveState;
  setState(change: Partial<LiveState> | ((state: LiveState) => Partial<LiveState>)): void;
}

export class Link {
  readonly #store: Store;
  readonly #listener: Listener;
  readonly #open: () => SocketLike;
  #socket: SocketLike | null = null;
  #ready = false;
  #everOpen = false;
  #attempt = 0;
  #heardAt = 0;
  #retry: ReturnType<typeof setTimeout> | null = null;
  #watchdog: ReturnType<typeof setTimeout> | null = null;
  #flushTimer: ReturnType<typeof setTimeout> | null = null;
  #flushedAt = 0;
  #buffer: (EventFrame | SnapshotFrame)[] = [];
  #wanted = false;
  /** The seq at which a missing event was asked for, by generation: what is still missing then does not exist. */
  #askedAt = new Map<string, number>();

  constructor(store: Store, listener: Listener, open: () => SocketLike) {
    this.#store = store;
    this.#listener = listener;
    this.#open = open;
  }

  /** Starts and keeps a connection until `stop`. */
  start(): void {
    if (this.#wanted) return;
    this.#wanted = true;
    addEventListener("online", this.#wake);
    addEventListener("pageshow", this.#onShow);
    document.addEventListener("visibilitychange", this.#onShow);
    this.#connect();
  }

  stop(): void {
    this.#wanted = false;
    removeEventListener("online", this.#wake);
    removeEventListener("pageshow", this.#onShow);
    document.removeEventListener("visibilitychange", this.#onShow);
    this.#drop();
    this.#store.setState({ connection: "closed" });
  }

  /** Asks for a generation. Kept and repeated until the server answers; returns its client_request_id. */
  request(request: GenerationRequest, view: string): string {
    const id = request.client_request_id;
    const size = new TextEncoder().encode(JSON.stringify(request)).length;
    // The server closes the line on a larger frame; sent again after every reconnect it would close it for ever.
    const error = size > MAX_FRAME_BYTES ? { code: "too_long", ...strings.errors.tooLong } : null;
    this.#store.setState((state) => ({
      pending: { ...state.pending, [id]: { request, view, at: Date.now(), error } },
    }));
    if (error === null) this.#send(request);
    return id;
  }

  /** Asks again for what was refused. */
  retry(clientRequestId: string): void {
    const pending = this.#store.getState().pending[clientRequestId];
    if (!pending) return;
    this.#store.setState((state) => {
      const { [clientRequestId]: _, ...rest } = state.pending;
      return { pending: rest };
    });
    this.request({ ...pending.request, client_request_id: newId() }, pending.view);
  }

  /** Follows an answer that is being written, from its beginning unless it is followed already. */
  watch(chatId: string, message: Message): void {
    const id = message.generation_id;
    if (id === null || message.status !== "streaming" || this.#store.getState().generations[id]) return;
    this.#put(newGeneration({ id, chatId, messageId: message.id, model: message.model }));
    this.#send({ type: "tail", generation_id: id, after: 0 });
  }

  cancel(generationId: string): void {
    const generation = this.#store.getState().generations[generationId];
    if (!generation || !isLive(generation)) return;
    this.#put({ ...generation, stopping: true });
    this.#send({ type: "cancel", generation_id: generationId });
  }

  /** Forgets a settled answer: its message lives in the chat from now on. */
  forgetSettled(generationId: string): void {
    const generation = this.#store.getState().generations[generationId];
    if (generation && !isLive(generation)) this.#forget(generationId);
  }

  #forget(generationId: string): void {
    this.#store.setState((state) => {
      const { [generationId]: _, ...generations } = state.generations;
      return { generations };
    });
  }

  // -- connection ---------------------------------------------------------------------------------------------

  readonly #wake = (): void => {
    if (!this.#wanted) return;
    this.#attempt = 0;
    this.#lose();
    this.#connect();
  };

  readonly #onShow = (): void => {
    if (document.visibilityState === "hidden") return;
    if (this.#ready && Date.now() - this.#heardAt < STALE_MS) return;
    this.#wake();
  };

  #connect(): void {
    this.#drop();
    if (!this.#wanted) return;
    const socket = this.#open();
    this.#socket = socket;
    socket.onopen = () => {
      if (this.#socket === socket) this.#opened();
    };
    socket.onmessage = (event) => {
      if (this.#socket === socket && typeof event.data === "string") this.#heard(event.data);
    };
    socket.onclose = () => {
      if (this.#socket === socket) this.#closed();
    };
    this.#watchdog = setTimeout(() => this.#closed(), OPEN_MS);
  }

  #opened(): void {
    const again = this.#everOpen;
    this.#ready = true;
    this.#everOpen = true;
    this.#attempt = 0;
    this.#listen();
    this.#store.setState({ connection: "open", lostAt: null });
    const { pending, generations } = this.#store.getState();
    for (const one of Object.values(pending)) if (one.error === null) this.#send(one.request);
    for (const one of Object.values(generations)) {
      if (!isLive(one)) continue;
      this.#send({ type: "tail", generation_id: one.id, after: one.seq });
      if (one.stopping) this.#send({ type: "cancel", generation_id: one.id });
    }
    if (again) this.#listener.reopened();
  }

  #closed(): void {
    const refused = !this.#ready;
    this.#lose();
    this.#drop();
    if (!this.#wanted) return;
    const base = BACKOFF_MS[Math.min(this.#attempt, BACKOFF_MS.length - 1)] ?? 12_000;
    this.#attempt += 1;
    // Spread, so that a restarted server is not met by every tab at once.
    this.#retry = setTimeout(() => this.#connect(), base * (0.75 + Math.random() / 2));
    if (refused) this.#listener.refused();
  }

  #lose(): void {
    this.#flush();
    this.#store.setState((state) => ({
      connection: this.#everOpen ? "reconnecting" : "connecting",
      lostAt: state.lostAt ?? Date.now(),
    }));
  }

  #drop(): void {
    for (const timer of [this.#retry, this.#watchdog]) if (timer !== null) clearTimeout(timer);
    this.#retry = null;
    this.#watchdog = null;
    this.#ready = false;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #listen(): void {
    this.#heardAt = Date.now();
    if (this.#watchdog !== null) clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#closed(), SILENCE_MS);
  }

  /** Nothing is queued here: what matters is in `pending` and `generations`, and is said again when open. */
  #send(frame: ClientFrame): void {
    if (this.#ready) this.#socket?.send(JSON.stringify(frame));
  }

  // -- frames -------------------------------------------------------------------------------------------------

  #heard(data: string): void {
    this.#listen();
    let frame: ServerFrame;
    try {
      frame = JSON.parse(data) as ServerFrame;
    } catch {
      return;
    }
    switch (frame.type) {
      case "event":
      case "snapshot":
        this.#take(frame);
        break;
      case "started":
        this.#started(frame);
        break;
      case "error":
        this.#refusedFrame(frame);
        break;
      case "status":
        this.#store.setState({
          models: frame.models,
          ...(frame.now === undefined ? {} : { skew: frame.now - Date.now() / 1000 }),
        });
        break;
      case "chat":
        this.#listener.chat(frame.chat);
        break;
      case "chat_deleted":
        this.#listener.chatDeleted(frame.chat_id);
        break;
      default:
        // ping and pong only say that the line is alive.
        break;
    }
  }

  #started(frame: StartedFrame): void {
    const pending = this.#store.getState().pending[frame.client_request_id];
    this.#store.setState((state) => {
      const { [frame.client_request_id]: _, ...rest } = state.pending;
      const generations =
        frame.generation_id in state.generations
          ? state.generations
          : {
              ...state.generations,
              [frame.generation_id]: newGeneration({
                id: frame.generation_id,
                chatId: frame.chat.id,
                messageId: frame.message.id,
                model: frame.message.model,
              }),
            };
      return { pending: rest, generations };
    });
    this.#listener.started(frame, pending);
  }

  #refusedFrame(frame: ErrorFrame): void {
    const { pending, generations } = this.#store.getState();
    const asked = frame.client_request_id === null ? undefined : pending[frame.client_request_id];
    if (asked && frame.client_request_id !== null) {
      const id = frame.client_request_id;
      this.#store.setState({ pending: { ...pending, [id]: { ...asked, error: frame.error } } });
      return;
    }
    const generation = frame.generation_id === null ? undefined : generations[frame.generation_id];
    if (generation && isLive(generation)) {
      this.#forget(generation.id);
      this.#listener.lost(generation);
    }
  }

  #take(frame: EventFrame | SnapshotFrame): void {
    this.#buffer.push(frame);
    const quiet = Date.now() - this.#flushedAt >= FLUSH_MS;
    const urgent = frame.type === "snapshot" || frame.kind !== "delta";
    if (urgent || quiet) this.#flush();
    else this.#flushTimer ??= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  #flush(): void {
    if (this.#flushTimer !== null) clearTimeout(this.#flushTimer);
    this.#flushTimer = null;
    if (this.#buffer.length === 0) return;
    const frames = this.#buffer;
    this.#buffer = [];
    this.#flushedAt = Date.now();
    const generations = { ...this.#store.getState().generations };
    const behind = new Set<string>();
    const finished = new Set<string>();
    for (const frame of frames) {
      const known = generations[frame.generation_id];
      if (!known) continue;
      if (frame.type === "snapshot") {
        generations[known.id] = applySnapshot(known, frame);
        continue;
      }
      const askedBefore = !behind.has(known.id) && this.#askedAt.get(known.id) === known.seq;
      const [next, outcome] = applyEvent(known, frame, askedBefore);
      generations[known.id] = next;
      if (outcome === "gap") behind.add(known.id);
      else if (outcome === "applied" && frame.kind === "done") finished.add(known.id);
    }
    this.#store.setState({ generations });
    for (const id of behind) {
      const generation = generations[id];
      if (!generation || !isLive(generation)) continue;
      this.#askedAt.set(id, generation.seq);
      this.#send({ type: "tail", generation_id: id, after: generation.seq });
    }
    for (const id of finished) {
      const generation = generations[id];
      this.#askedAt.delete(id);
      if (generation) this.#listener.done(generation);
    }
  }

  #put(generation: Generation): void {
    this.#store.setState((state) => ({ generations: { ...state.generations, [generation.id]: generation } }));
  }
}

export function openWebSocket(): SocketLike {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(`${scheme}//${location.host}/api/ws`) as SocketLike;
}
