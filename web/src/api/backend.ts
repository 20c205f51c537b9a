/**
 * Joins the link, the live store and the cache, and offers what a person can do with an answer.
 *
 * Not responsible for drawing. One backend per page; `navigate` is given by the router.
 */
import type { QueryClient } from "@tanstack/react-query";
import { strings } from "../strings";
import { drafts } from "./drafts";
import { live, liveGenerationOf, newId, type Pending, type Queued, useLive } from "./live";
import { cache } from "./queries";
import type { Generation } from "./reducer";
import { Link, type Listener, openWebSocket, type SocketLike } from "./socket";
import type { Chat, Message, StartedFrame } from "./types";

export interface Sending {
  chatId: string | null;
  view: string;
  parentId: string | null;
  content: string;
  model: string;
  system?: string | null;
}

export class Backend implements Listener {
  readonly link: Link;
  readonly #cache: ReturnType<typeof cache>;
  /** Set by the router; a new chat moves to its own address when the server has named it. */
  navigate: (path: string) => void = () => {};
  isAt: (path: string) => boolean = () => false;

  constructor(client: QueryClient, open: () => SocketLike = openWebSocket) {
    this.#cache = cache(client);
    this.link = new Link(useLive, this, open);
  }

  send(sending: Sending): void {
    this.link.request(
      {
        type: "start",
        client_request_id: newId(),
        chat_id: sending.chatId,
        parent_id: sending.parentId,
        content: sending.content,
        model: sending.model,
        params: {},
        ...(sending.chatId === null && sending.system ? { system: sending.system } : {}),
      },
      sending.view,
    );
  }

  regenerate(chatId: string, messageId: string, model: string): void {
    const request = {
      type: "regenerate",
      client_request_id: newId(),
      chat_id: chatId,
      message_id: messageId,
      model,
      params: {},
    } as const;
    this.link.request(request, chatId);
  }

  continue(chatId: string, messageId: string): void {
    const request = {
      type: "continue",
      client_request_id: newId(),
      chat_id: chatId,
      message_id: messageId,
    } as const;
    this.link.request(request, chatId);
  }

  /** The person does not want to wait for this model: stop waiting and let another answer the same question. */
  answerMeanwhile(generation: Generation, model: string): void {
    this.link.cancel(generation.id);
    this.regenerate(generation.chatId, generation.messageId, model);
  }

  stop(generation: Generation): void {
    this.link.cancel(generation.id);
  }

  /** Follows a message that the chat says is being written. */
  follow(chatId: string, message: Message): void {
    const known = message.generation_id === null ? undefined : live.get().generations[message.generation_id];
    if (message.status === "streaming" && known?.message) this.#cache.settled(chatId, known.message);
    else this.link.watch(chatId, message);
  }

  // -- Listener -----------------------------------------------------------------------------------------------

  started(frame: StartedFrame, pending: Pending | undefined): void {
    this.#cache.started(frame);
    const state = live.get();
    if (pending && pending.request.type === "start" && pending.request.chat_id === null) {
      const queued = state.queued[pending.view];
      if (queued) {
        live.queue(pending.view, null);
        live.queue(frame.chat.id, queued);
      }
      drafts.move(pending.view, frame.chat.id);
      if (pending.view === state.draftView && this.isAt("/")) this.navigate(`/c/${frame.chat.id}`);
    }
  }

  done(generation: Generation): void {
    const { message } = generation;
    if (message) {
      this.#cache.settled(generation.chatId, message);
      if (this.isAt(`/c/${generation.chatId}`)) live.announce(strings.announce[message.status] ?? "");
      this.#queuedAfter(generation.chatId, message);
    }
    // The row shows the generation until the cache has told it of the settled message.
    setTimeout(() => this.link.forgetSettled(generation.id), 500);
  }

  lost(generation: Generation): void {
    void this.#cache.stale(generation.chatId);
  }

  chat(chat: Chat): void {
    const known = this.#cache.branch(chat.id);
    const ours = liveGenerationOf(live.get(), chat.id) !== undefined;
    this.#cache.chat(chat);
    if (known && !ours && chat.updated_at > known.chat.updated_at) void this.#cache.stale(chat.id);
  }

  chatDeleted(chatId: string): void {
    this.#cache.removeChat(chatId);
    if (this.isAt(`/c/${chatId}`)) this.navigate("/");
  }

  reopened(): void {
    this.#cache.allStale();
  }

  refused(): void {
    void this.#cache.recheckSession();
  }

  /** What was written meanwhile goes out now; after a failure it returns to the composer, for the person to decide. */
  #queuedAfter(chatId: string, message: Message): void {
    const queued: Queued | undefined = live.get().queued[chatId];
    if (!queued) return;
    live.queue(chatId, null);
    if (message.status === "done" || message.status === "cancelled") {
      this.send({ chatId, view: chatId, parentId: message.id, content: queued.content, model: queued.model });
    } else {
      drafts.giveBack(chatId, queued.content);
    }
  }
}
