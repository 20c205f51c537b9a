/**
 * A stand-in for the gateway, for working on the page: the control API and the WebSocket of
 * docs/reference/control-api.md on made-up models, with a slow five-stage wake. In memory; no model, no network.
 *
 *   npm run mock [-- --port 4180 --speed 4]     then `npm run dev`, or open it for the built page.
 *
 * Words that steer it: "fail" (the wake fails), "budget" (it cannot be paid), "reclaim" (the machine is taken back
 * mid-answer), "interrupt" (the server restarts mid-answer), "long", "refuse".
 */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { WebSocketServer } from "ws";
import { ANSWER, BUDGET, LONG, MEMORY, STAGES, seedChats } from "./material.mjs";

const PAGE = join(dirname(fileURLToPath(import.meta.url)), "../../src/lamplighter/page");
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".woff2": "font/woff2",
  ".webmanifest": "application/manifest+json",
};
const CSP =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'";

const now = () => Date.now() / 1000;
const later = (ms) => new Promise((done) => setTimeout(done, ms));

/** Starts a mock; `speed` makes its wakes and answers faster. Resolves to `{ url, world, close }`. */
export async function startMock({ port = 0, speed = 1 } = {}) {
  const world = new World(speed);
  const server = createServer((request, response) => {
    handle(world, request, response).catch((error) =>
      reply(response, 500, problem("internal", String(error))),
    );
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    if (!world.signedIn) return socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
    sockets.handleUpgrade(request, socket, head, (ws) => world.connect(ws));
  });
  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    world,
    /** Cuts every line, as a lost network does. */
    drop() {
      for (const ws of sockets.clients) ws.terminate();
    },
    close() {
      world.stop();
      for (const ws of sockets.clients) ws.terminate();
      server.closeAllConnections();
      return new Promise((done) => server.close(done));
    },
  };
}

class World {
  signedIn = true;
  chats = new Map();
  messages = new Map();
  generations = new Map();
  requests = new Map();
  sockets = new Set();
  connections = 0;
  /** Answers stop after this many words, and wakes before this stage, until the number grows: for tests. */
  holdAfter = Number.POSITIVE_INFINITY;
  holdStage = Number.POSITIVE_INFINITY;
  answer = ANSWER;
  #next = 0;
  /** As in life, two servers never give the same id. */
  #tag = Math.random().toString(36).slice(2, 8);

  constructor(speed) {
    this.speed = speed;
    this.models = ["small", "llama-3.2-3b", "mistral", "qwen2.5-7b"].map(model);
    Object.assign(this.model("small"), {
      state: "awake",
      sleeping_at: now() + 250,
      note: "Tiny: its answers are weak. qwen2.5-1.5b fits this machine.",
    });
    Object.assign(this.model("llama-3.2-3b"), {
      pool: "spot",
      pool_kind: "aws",
      while_waking: "small",
      context: 131072,
      quote: quote(),
    });
    Object.assign(this.model("mistral"), {
      pool: "nas",
      pool_kind: "static",
      always_on: true,
      state: "awake",
    });
    Object.assign(this.model("qwen2.5-7b"), {
      pool: "spot",
      quote: quote(),
      state: "failed",
      failure: {
        reason: "no_capacity",
        message: "No g5.xlarge is free in eu-central-1.",
        next_step: "Wait a few minutes, or allow on-demand machines for this pool.",
        retry_at: null,
      },
    });
    seedChats(this);
  }

  id(kind) {
    this.#next += 1;
    return `${kind}_${this.#tag}${String(this.#next).padStart(5, "0")}`;
  }

  model(name) {
    return this.models.find((one) => one.name === name);
  }

  stop() {
    this.stopped = true;
  }

  connect(ws) {
    const tails = new Map();
    const peer = { tails, send: (frame) => ws.readyState === 1 && ws.send(JSON.stringify(frame)) };
    this.sockets.add(peer);
    this.connections += 1;
    ws.on("close", () => this.sockets.delete(peer));
    ws.on("message", (data) => this.heard(peer, JSON.parse(String(data))));
    peer.send({ type: "status", now: now(), models: this.models });
  }

  say(frame) {
    for (const peer of this.sockets) peer.send(frame);
  }

  status() {
    this.say({ type: "status", now: now(), models: this.models });
  }

  heard(peer, frame) {
    if (frame.type === "ping") peer.send({ type: "pong" });
    if (frame.type === "tail") this.tail(peer, frame.generation_id, frame.after);
    if (frame.type === "untail") peer.tails.delete(frame.generation_id);
    if (frame.type === "cancel") {
      const generation = this.generations.get(frame.generation_id);
      if (generation) generation.cancelled = true;
    }
    if (["start", "regenerate", "continue"].includes(frame.type)) this.ask(peer, frame);
  }

  tail(peer, id, after) {
    const generation = this.generations.get(id);
    if (!generation) {
      const error = { code: "not_found", message: "This generation is not known here.", next_step: null };
      return peer.send({ type: "error", client_request_id: null, generation_id: id, error });
    }
    peer.tails.set(id, true);
    for (const event of generation.events.filter((one) => one.seq > after)) peer.send(event);
  }

  ask(peer, frame) {
    if (frame.content?.includes("refuse")) {
      const error = {
        code: "queue_full",
        message: "100 requests wait for this model already.",
        next_step: "Try again in a minute.",
      };
      return peer.send({
        type: "error",
        client_request_id: frame.client_request_id,
        generation_id: null,
        error,
      });
    }
    const known = this.requests.get(frame.client_request_id);
    const started = known ?? this.begin(frame);
    this.requests.set(frame.client_request_id, started);
    peer.send({ type: "started", client_request_id: frame.client_request_id, ...started });
    this.tail(peer, started.generation_id, 0);
    if (!known) void this.run(this.generations.get(started.generation_id));
  }

  begin(frame) {
    const old = frame.message_id ? this.messages.get(frame.message_id) : null;
    const name = frame.model ?? old.model;
    let chat = this.chats.get(frame.chat_id);
    if (!chat) {
      chat = {
        id: this.id("cht"),
        title: frame.content.slice(0, 48),
        model: name,
        system: frame.system ?? null,
        created_at: now(),
      };
      this.chats.set(chat.id, chat);
    }
    chat.updated_at = now();
    const user = old
      ? null
      : this.add(chat, { parent_id: frame.parent_id, role: "user", content: frame.content });
    const parent = old ? old.parent_id : user.id;
    const message = this.add(chat, {
      parent_id: parent,
      role: "assistant",
      content: "",
      model: name,
      status: "streaming",
    });
    message.generation_id = this.id("gen");
    chat.active = message.id;
    const question = this.messages.get(parent)?.content ?? "";
    const kept = frame.type === "continue" ? old.content : "";
    this.generations.set(message.generation_id, {
      id: message.generation_id,
      chat,
      message,
      question,
      kept,
      events: [],
    });
    this.say({ type: "chat", chat });
    return {
      generation_id: message.generation_id,
      chat,
      user_message: user && this.view(user),
      message: this.view(message),
    };
  }

  add(chat, fields) {
    const message = {
      id: this.id("msg"),
      chat_id: chat.id,
      model: null,
      created_at: now(),
      status: "done",
      generation_id: null,
      error: null,
      usage: null,
      ...fields,
    };
    this.messages.set(message.id, message);
    return message;
  }

  view({ chat_id, ...message }) {
    const siblings = [...this.messages.values()].filter(
      (one) => one.chat_id === chat_id && one.parent_id === message.parent_id,
    );
    return { ...message, siblings: siblings.map((one) => one.id) };
  }

  emit(generation, kind, data) {
    const event = {
      type: "event",
      generation_id: generation.id,
      seq: generation.events.length + 1,
      kind,
      data,
    };
    generation.events.push(event);
    for (const peer of this.sockets) if (peer.tails.has(generation.id)) peer.send(event);
  }

  async run(generation) {
    const started = now();
    const woke = await this.wake(generation);
    if (woke === false) return;
    const { message } = generation;
    const text = generation.kept
      ? ` And that is the rest of it.`
      : generation.question.includes("long")
        ? LONG
        : this.answer;
    if (generation.kept) this.emit(generation, "delta", { text: generation.kept });
    message.content = generation.kept;
    const first = now();
    const words = text.match(/\s*\S+/g) ?? [];
    for (const [index, word] of words.entries()) {
      while (index >= this.holdAfter && !generation.cancelled && !this.stopped) await later(5);
      if (this.stopped) return;
      if (generation.cancelled) return this.finish(generation, "cancelled");
      if (generation.question.includes("reclaim") && index === 40) {
        const status = this.model(message.model);
        Object.assign(status, { state: "waking", sleeping_at: null });
        if ((await this.wake(generation, { again: true })) === false) return;
      }
      if (generation.question.includes("interrupt") && index > words.length / 3)
        return this.finish(generation, "interrupted");
      message.content += word;
      this.emit(generation, "delta", { text: word });
      await later(28 / this.speed);
    }
    const seconds = now() - first;
    message.usage = {
      prompt_tokens: 42,
      completion_tokens: words.length,
      ttft: first - started + 0.08,
      seconds,
      tokens_per_second: words.length / seconds,
      wake_seconds: woke,
      wake_cost: generation.cost ?? null,
    };
    this.emit(generation, "usage", message.usage);
    this.finish(generation, "done");
  }

  /** Seconds it took, null when the model was up, false when the generation is over. */
  async wake(generation, { again = false } = {}) {
    const status = this.model(generation.message.model);
    if (status.state === "awake") return null;
    const priced = status.quote !== null;
    const wake = {
      id: this.id("wak"),
      started_at: now(),
      cost: null,
      eta: { p50: 14 / this.speed, p90: 22 / this.speed },
      stages: STAGES.map(([name]) => ({
        name,
        started_at: null,
        ended_at: null,
        progress: null,
        detail: null,
      })),
    };
    Object.assign(status, { state: "waking", failure: null, wake });
    for (const [index, [, seconds, progress, detail]] of STAGES.entries()) {
      const stage = wake.stages[index];
      Object.assign(stage, { started_at: now(), detail });
      for (let step = 0; step < 10; step += 1) {
        if (progress) stage.progress = step / 10;
        this.status();
        this.emit(generation, "wake", structuredClone(wake));
        await later((seconds * 100) / this.speed);
        while (index >= this.holdStage && !generation.cancelled && !this.stopped) await later(5);
        if (this.stopped) return false;
        if (generation.cancelled) {
          Object.assign(status, { state: "asleep", wake: null });
          this.status();
          this.finish(generation, "cancelled");
          return false;
        }
      }
      if (generation.question.includes("budget")) return this.fail(generation, status, BUDGET);
      if (generation.question.includes("fail") && index === 2) return this.fail(generation, status, MEMORY);
      if (priced && index === 0) {
        const { hourly, currency } = status.quote;
        wake.cost = { hourly, currency, basis: "spot g5.xlarge, eu-central-1b", since: now() };
      }
      Object.assign(stage, { ended_at: now(), progress: progress ? 1 : null });
    }
    const seconds = now() - wake.started_at;
    Object.assign(status, {
      state: "awake",
      wake: null,
      last_wake: { seconds, at: now() },
      sleeping_at: now() + 600,
    });
    this.status();
    if (again) return seconds;
    generation.cost = wake.cost && {
      amount: (((now() - wake.cost.since) / 3600) * Number(wake.cost.hourly)).toFixed(6),
      currency: wake.cost.currency,
    };
    this.emit(generation, "wake", { woke_in: seconds, cost: generation.cost });
    return seconds;
  }

  fail(generation, status, error) {
    Object.assign(status, {
      state: "failed",
      wake: null,
      failure: { reason: error.code, retry_at: null, ...error },
    });
    this.status();
    this.emit(generation, "error", error);
    generation.message.error = error;
    this.finish(generation, "error");
    return false;
  }

  finish(generation, status) {
    Object.assign(generation.message, { status, generation_id: null });
    this.emit(generation, "done", { status, message: this.view(generation.message) });
  }

  /** The active branch: from the active message down to its newest leaf, up to its root. */
  branch(chat) {
    const all = [...this.messages.values()].filter((one) => one.chat_id === chat.id);
    let leaf = this.messages.get(chat.active) ?? all.at(-1);
    for (let child = leaf; child; child = all.findLast((one) => one.parent_id === child.id)) leaf = child;
    const path = [];
    for (let one = leaf; one; one = this.messages.get(one.parent_id)) path.unshift(one);
    return path;
  }
}

function model(name) {
  return {
    name,
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
    capabilities: ["chat", "completions"],
    context: 4096,
    note: null,
    wake: null,
    failure: null,
    last_wake: null,
    quote: null,
  };
}

function quote() {
  return {
    hourly: "0.4631",
    least: "0.1274",
    currency: "USD",
    basis: "spot g5.xlarge",
    source: "AWS spot price history",
    at: now(),
  };
}

function problem(code, message) {
  return { error: { message, type: "invalid_request_error", code, param: null, next_step: null } };
}

function reply(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(body === undefined ? "" : JSON.stringify(body));
}

async function handle(world, request, response) {
  const url = new URL(request.url, "http://mock");
  if (!url.pathname.startsWith("/api/")) return page(url.pathname, response);
  let raw = "";
  for await (const chunk of request) raw += chunk;
  const body = raw ? JSON.parse(raw) : {};
  const route = `${request.method} ${url.pathname.replace(/^(\/api\/(?:chats|models))\/[^/]+/, "$1/:id")}`;
  const id = decodeURIComponent(url.pathname.split("/")[3] ?? "");
  if (route === "POST /api/session") {
    world.signedIn = body.key === "lk-mock" || body.login_token === "mock";
    if (!world.signedIn) return reply(response, 401, problem("invalid_key", "This key is not known here."));
  }
  if (!world.signedIn) return reply(response, 401, problem("unauthenticated", "Sign in first."));
  const routes = {
    "POST /api/session": () => session(),
    "GET /api/session": () => session(),
    "DELETE /api/session": () => {
      world.signedIn = false;
    },
    "GET /api/catalogue": () => ({
      models: [],
      machine: { memory_bytes: 8e9, cores: 4 },
      suggested: "qwen2.5-1.5b",
    }),
    "POST /api/keys": () => ({ id: "key_1", name: body.name, key: "lk-mock-000000000000000000000000" }),
    "GET /api/chats": () => listChats(world, url.searchParams),
    "POST /api/models": () => addModel(world, body.catalogue),
    "POST /api/models/:id/wake": () => setState(world, id, "awake", now() + (body.keep ?? 600)),
    "POST /api/models/:id/sleep": () => setState(world, id, "asleep", null),
  };
  if (routes[route]) {
    const answer = routes[route]();
    return reply(response, answer === undefined ? 204 : 200, answer);
  }
  const chat = world.chats.get(id);
  if (!route.includes("/api/chats/:id") || !chat)
    return reply(response, 404, problem("not_found", "Not found."));
  if (request.method === "GET") return reply(response, 200, readBranch(world, chat, url.searchParams));
  if (request.method === "DELETE") {
    world.chats.delete(id);
    world.say({ type: "chat_deleted", chat_id: id });
    return reply(response, 204);
  }
  Object.assign(chat, body);
  reply(response, 200, chat);
}

function session() {
  return { principal: { id: "prn_1", name: "admin" }, admin: true, version: "0.1.0" };
}

function listChats(world, search) {
  const q = search.get("q")?.toLowerCase();
  const before = Number(search.get("before") ?? Number.POSITIVE_INFINITY);
  const limit = Number(search.get("limit") ?? 50);
  const all = [...world.chats.values()]
    .filter((chat) => (!q || chat.title.toLowerCase().includes(q)) && chat.updated_at < before)
    .sort((a, b) => b.updated_at - a.updated_at);
  const chats = all.slice(0, limit);
  return { chats, next: all.length > limit ? String(chats.at(-1).updated_at) : null };
}

function readBranch(world, chat, search) {
  const path = world.branch(chat);
  const limit = Number(search.get("limit") ?? 200);
  const before = search.get("before");
  const end = before ? path.findIndex((one) => one.id === before) : path.length;
  const from = Math.max(0, end - limit);
  return { chat, messages: path.slice(from, end).map((one) => world.view(one)), more: from > 0 };
}

function addModel(world, name) {
  const added = model(name);
  world.models.push(added);
  world.status();
  return added;
}

function setState(world, name, state, sleeping_at) {
  const status = world.model(name);
  Object.assign(status, { state, sleeping_at, failure: null });
  world.status();
  return status;
}

async function page(path, response) {
  const wanted = normalize(path).replace(/^\/+/, "");
  const file = extname(wanted) ? wanted : "index.html";
  try {
    const body = await readFile(join(PAGE, file));
    response.writeHead(200, {
      "content-type": TYPES[extname(file)] ?? "application/octet-stream",
      "content-security-policy": CSP,
    });
    response.end(body);
  } catch {
    reply(response, 404, problem("not_found", "Not here. Was the page built?"));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const option = (name, otherwise) => {
    const at = process.argv.indexOf(`--${name}`);
    return at === -1 ? otherwise : Number(process.argv[at + 1]);
  };
  const mock = await startMock({ port: option("port", 4180), speed: option("speed", 1) });
  console.log(`Lamplighter's page on made-up models: ${mock.url}  (key: lk-mock)`);
}
