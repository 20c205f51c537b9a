/**
 * The page's HTTP calls: one function per route, errors as one class.
 *
 * Not responsible for caching (queries.ts) or live streams (socket.ts). The session travels in an HttpOnly cookie
 * that scripts cannot read; every changing request carries `X-Lamplighter: 1` against forged requests.
 */
import { strings } from "../strings";
import type { ApiError, Branch, Catalogue, Chat, ChatPage, ModelStatus, Session } from "./types";

/** A refused or failed request. `status` is 0 when the server could not be reached. */
export class RequestError extends Error {
  readonly status: number;
  readonly code: string;
  readonly nextStep: string | null;

  constructor(status: number, error: ApiError) {
    super(error.message);
    this.name = "RequestError";
    this.status = status;
    this.code = error.code;
    this.nextStep = error.next_step ?? null;
  }
}

type Method = "GET" | "POST" | "PATCH" | "DELETE";

let onUnauthorized: () => void = () => {};

/** Says what happens when any request finds that the session is gone. */
export function whenUnauthorized(handler: () => void): void {
  onUnauthorized = handler;
}

function isApiError(value: unknown): value is ApiError {
  return (
    typeof value === "object" && value !== null && "message" in value && typeof value.message === "string"
  );
}

async function errorOf(response: Response): Promise<RequestError> {
  const body: unknown = await response.json().catch(() => null);
  const inner = typeof body === "object" && body !== null && "error" in body ? body.error : null;
  return new RequestError(
    response.status,
    isApiError(inner) ? inner : { code: "http_error", message: strings.errors.status(response.status) },
  );
}

async function call<T>(method: Method, path: string, body?: unknown): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (method !== "GET") headers["x-lamplighter"] = "1";
  if (body !== undefined) headers["content-type"] = "application/json";
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      credentials: "same-origin",
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    throw new RequestError(0, { code: "unreachable", message: strings.errors.unreachable });
  }
  if (!response.ok) {
    const error = await errorOf(response);
    // A wrong key on the sign-in card is an answer, not a lost session.
    if (response.status === 401 && !(method === "POST" && path === "/api/session")) onUnauthorized();
    throw error;
  }
  // Reads of the answer are typed by the contract; a 204 has none.
  return (response.status === 204 ? undefined : await response.json()) as T;
}

const segment = encodeURIComponent;

export const http = {
  session: () => call<Session>("GET", "/api/session"),
  signIn: (credential: { login_token: string } | { key: string }) =>
    call<Session>("POST", "/api/session", credential),
  signOut: () => call<void>("DELETE", "/api/session"),
  catalogue: () => call<Catalogue>("GET", "/api/catalogue"),
  addModel: (catalogue: string) => call<ModelStatus>("POST", "/api/models", { catalogue }),
  wake: (model: string, keep?: number) =>
    call<ModelStatus>("POST", `/api/models/${segment(model)}/wake`, keep === undefined ? {} : { keep }),
  sleep: (model: string) => call<ModelStatus>("POST", `/api/models/${segment(model)}/sleep`, {}),
  /** A key of the same principal: its chats are this person's chats, its use theirs. */
  createKey: (name: string, principal: string) =>
    call<{ key: string }>("POST", "/api/keys", { name, admin: false, principal }),
  chats: (query: { before?: string | undefined; q?: string | undefined }) => {
    const search = new URLSearchParams({ limit: "50" });
    if (query.before) search.set("before", query.before);
    if (query.q) search.set("q", query.q);
    return call<ChatPage>("GET", `/api/chats?${search}`);
  },
  branch: (chatId: string, limit: number, before?: string) => {
    const search = new URLSearchParams({ limit: String(limit) });
    if (before) search.set("before", before);
    return call<Branch>("GET", `/api/chats/${segment(chatId)}?${search}`);
  },
  updateChat: (
    chatId: string,
    change: { title?: string; model?: string; system?: string | null; active?: string },
  ) => call<Chat>("PATCH", `/api/chats/${segment(chatId)}`, change),
  deleteChat: (chatId: string) => call<void>("DELETE", `/api/chats/${segment(chatId)}`),
  exportUrl: (chatId: string, format: "markdown" | "json") =>
    `/api/chats/${segment(chatId)}/export?format=${format}`,
};
