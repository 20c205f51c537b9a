/**
 * The control API's shapes, exactly as `docs/reference/control-api.md` states them.
 *
 * Responsible for types only; nothing here runs. Times are Unix seconds of the server, durations are seconds.
 */

export interface ApiError {
  code: string;
  message: string;
  next_step?: string | null;
}

export interface Session {
  principal: { id: string; name: string };
  admin: boolean;
  version: string;
}

export interface Stage {
  name: string;
  started_at: number | null;
  ended_at: number | null;
  /** 0..1, or null when the stage cannot tell how far it is. */
  progress: number | null;
  detail: string | null;
}

export interface Eta {
  p50: number;
  p90: number;
}

/** What a running machine costs: so far = hours since `since` times `hourly`. Amounts are exact decimals, as text. */
export interface Running {
  hourly: string;
  currency: string;
  /** For people, such as `spot g4dn.xlarge, eu-central-1a`. */
  basis: string;
  since: number;
}

/** What the next wake would cost: an estimate. `least`: if nobody asks a second time. */
export interface Quote {
  hourly: string;
  least: string;
  currency: string;
  basis: string;
  /** Where the price is from, for people. */
  source: string;
  at: number;
}

export interface Amount {
  amount: string;
  currency: string;
}

export interface Wake {
  id: string;
  started_at: number;
  /** All stages in order, those to come included. */
  stages: Stage[];
  /** Seconds of the whole wake, from past wakes; null before the first. */
  eta: Eta | null;
  /** Null before there is a machine, and where machines cost nothing. */
  cost?: Running | null;
}

export type ModelState = "asleep" | "waking" | "awake" | "draining" | "failed";

export interface Failure {
  reason: string;
  message: string;
  next_step: string | null;
  retry_at: number | null;
}

export interface ModelStatus {
  name: string;
  engine: string;
  pool: string;
  pool_kind: string;
  source: string;
  state: ModelState;
  always_on: boolean;
  in_flight: number;
  queued: number;
  sleeping_at: number | null;
  /** The end of the hours that keep it awake now (`keep_warm`). */
  warm_until?: number | null;
  while_waking: string | null;
  capabilities: string[];
  context: number | null;
  note: string | null;
  wake: Wake | null;
  failure: Failure | null;
  last_wake: { seconds: number; at: number } | null;
  /** What the next wake would cost; null when nobody knows, or it costs nothing. */
  quote?: Quote | null;
  /** Who answers for its name, when that was changed; `of`: the model whose other revision this is. */
  switch?: {
    target: string | null;
    candidate: string | null;
    weight: number | null;
    phase: string | null;
    of: string | null;
  } | null;
}

export interface Catalogue {
  suggested: string | null;
}

export interface Chat {
  id: string;
  title: string;
  model: string;
  system: string | null;
  created_at: number;
  updated_at: number;
}

export type MessageStatus = "streaming" | "done" | "cancelled" | "interrupted" | "error";

export interface Usage {
  prompt_tokens: number | null;
  completion_tokens: number | null;
  ttft: number | null;
  seconds: number | null;
  tokens_per_second: number | null;
  wake_seconds: number | null;
  /** What the machine had cost when the wake was over: an estimate. */
  wake_cost?: Amount | null;
}

export interface Message {
  id: string;
  parent_id: string | null;
  role: "user" | "assistant";
  content: string;
  model: string | null;
  created_at: number;
  status: MessageStatus;
  generation_id: string | null;
  error: ApiError | null;
  usage: Usage | null;
  /** Ids of the messages with the same parent, this one included, oldest first. */
  siblings: string[];
}

export interface ChatPage {
  chats: Chat[];
  next: string | null;
}

export interface Branch {
  chat: Chat;
  /** The active branch, oldest first; older ones exist when `more`. */
  messages: Message[];
  more: boolean;
}

export interface Params {
  temperature?: number;
  max_tokens?: number;
  top_p?: number;
}

// What the page says over the WebSocket.
export interface StartRequest {
  type: "start";
  client_request_id: string;
  chat_id: string | null;
  parent_id: string | null;
  content: string;
  model: string;
  params: Params;
  system?: string;
}
export interface RegenerateRequest {
  type: "regenerate";
  client_request_id: string;
  chat_id: string;
  message_id: string;
  model: string;
  params: Params;
}
export interface ContinueRequest {
  type: "continue";
  client_request_id: string;
  chat_id: string;
  message_id: string;
}
/** What makes a generation; safe to repeat, because the server knows the `client_request_id`. */
export type GenerationRequest = StartRequest | RegenerateRequest | ContinueRequest;
export type ClientFrame =
  | GenerationRequest
  | { type: "tail"; generation_id: string; after: number }
  | { type: "untail"; generation_id: string }
  | { type: "cancel"; generation_id: string }
  | { type: "ping" };

// What the server says.
export type GenerationEvent = { generation_id: string; seq: number } & (
  | { kind: "wake"; data: Wake | { woke_in: number; cost?: Amount | null } }
  | { kind: "delta"; data: { text: string } }
  | { kind: "thinking"; data: { text: string } }
  | { kind: "usage"; data: Usage }
  | { kind: "error"; data: ApiError }
  | { kind: "done"; data: { status: Exclude<MessageStatus, "streaming">; message: Message } }
);
export type EventFrame = { type: "event" } & GenerationEvent;
export interface SnapshotFrame {
  type: "snapshot";
  generation_id: string;
  seq: number;
  text: string;
}
export interface StartedFrame {
  type: "started";
  client_request_id: string;
  generation_id: string;
  chat: Chat;
  user_message: Message | null;
  message: Message;
}
export interface ErrorFrame {
  type: "error";
  client_request_id: string | null;
  generation_id: string | null;
  error: ApiError;
}
export type ServerFrame =
  | EventFrame
  | SnapshotFrame
  | StartedFrame
  | ErrorFrame
  | { type: "status"; now?: number; models: ModelStatus[] }
  | { type: "chat"; chat: Chat }
  | { type: "chat_deleted"; chat_id: string }
  | { type: "pong" }
  | { type: "ping" };
