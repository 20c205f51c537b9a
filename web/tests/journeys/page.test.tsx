/**
 * The whole page against the mock server over real sockets: what a person does, from signing in to a restart.
 *
 * The mock runs fast; nothing here waits for a fixed time.
 */
import { QueryClientProvider } from "@tanstack/react-query";
import { render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { WebSocket as NodeSocket } from "ws";
import { type Mock, startMock } from "../../mock/server.mjs";
import { App } from "../../src/App";
import { newQueryClient } from "../../src/api/queries";
import { markdownReady } from "../../src/chat/markdown/Markdown";

const PATIENCE = { timeout: 15_000 };
vi.setConfig({ testTimeout: 60_000 });
const realFetch = globalThis.fetch;
let mock: Mock;

beforeEach(async () => {
  await markdownReady();
  mock = await startMock({ speed: 40 });
  history.replaceState(null, "", "/");
  vi.stubGlobal("fetch", (path: string, init?: RequestInit) => realFetch(mock.url + path, init));
  // jsdom's own WebSocket and this runner's events do not know each other.
  vi.stubGlobal(
    "WebSocket",
    class extends NodeSocket {
      constructor() {
        super(`${mock.url.replace("http", "ws")}/api/ws`);
        this.on("error", () => {});
      }
    },
  );
});

afterEach(() => mock.close());

function open() {
  render(
    <QueryClientProvider client={newQueryClient()}>
      <App loginFailed={false} />
    </QueryClientProvider>,
  );
}
const composer = () => screen.findByRole("textbox", { name: "Message" }, PATIENCE);
async function ask(text: string) {
  await userEvent.type(await composer(), `${text}{Enter}`);
}
async function choose(model: string) {
  await screen.findAllByText(/^Sleeping in/, {}, PATIENCE);
  await userEvent.click(screen.getByRole("button", { name: /^Choose a model/ }));
  await userEvent.click(
    within(screen.getByRole("dialog")).getByRole("button", { name: new RegExp(`^${model}`) }),
  );
}

it("answers the first question and puts the chat at the top of the list", async () => {
  /** The first thing anybody does here would not work. */
  open();
  await ask("What is a spot instance?");
  expect(await screen.findByText(/tok\/s/, {}, PATIENCE)).toBeTruthy();
  expect(screen.getByRole("columnheader", { name: "On-demand" })).toBeTruthy();
  expect(location.pathname).toMatch(/^\/c\/cht_/);
  const chats = within(screen.getByRole("navigation")).getAllByRole("link");
  expect(chats[0]?.textContent).toBe("What is a spot instance?");
  expect(screen.getByText("Answer complete.")).toBeTruthy();
});

it("shows the wake, then the answer and how long the wake took", async () => {
  /** A cold model would look like a broken page. */
  open();
  await choose("llama");
  await ask("Wake up");
  expect(await screen.findByText("Waking llama-3.2-3b", {}, PATIENCE)).toBeTruthy();
  expect(screen.getByText("Loading the model")).toBeTruthy();
  expect(await screen.findByText(/woke in/, {}, PATIENCE)).toBeTruthy();
  expect(screen.queryByText("Waking llama-3.2-3b")).toBeNull();
});

it("loses nothing when the line drops in the middle of an answer", async () => {
  /** A phone that changes from Wi-Fi to mobile would cut every answer. */
  mock.world.speed = 2;
  open();
  await ask("What is a spot instance?");
  await screen.findByText("spot instance", { selector: "strong" }, PATIENCE);
  mock.drop();
  mock.world.speed = 40;
  expect(await screen.findByText(/tok\/s/, {}, PATIENCE)).toBeTruthy();
  expect(mock.world.connections).toBeGreaterThan(1);
  const article = screen.getAllByRole("article").at(-1);
  expect(article?.textContent).toContain(
    "notice. An on-demand instance costs more and stays until you stop it.",
  );
  expect(article?.textContent?.match(/spare capacity/g)).toHaveLength(1);
});

it("stops, and goes on from there", async () => {
  /** Stop would burn the GPU to the end, or throw away what was written. */
  mock.world.speed = 2;
  open();
  await ask("What is a spot instance?");
  await screen.findByText("spot instance", { selector: "strong" }, PATIENCE);
  await userEvent.keyboard("{Escape}");
  expect(await screen.findByText("Stopped.", {}, PATIENCE)).toBeTruthy();
  mock.world.speed = 40;
  await userEvent.click(screen.getByRole("button", { name: "Continue" }));
  expect(await screen.findByText(/And that is the rest of it/, {}, PATIENCE)).toBeTruthy();
  expect(await screen.findByText("Version 2 of 2", {}, PATIENCE)).toBeTruthy();
});

it("keeps both versions of an edited question", async () => {
  /** Correcting a typo would destroy the conversation that followed it. */
  open();
  await ask("First version");
  await screen.findByText(/tok\/s/, {}, PATIENCE);
  await userEvent.click(screen.getByRole("button", { name: "Edit" }));
  const editor = screen.getByRole("textbox", { name: "Edit your message" });
  await userEvent.clear(editor);
  await userEvent.type(editor, "Second version{Enter}");
  expect(await screen.findByText("Version 2 of 2", {}, PATIENCE)).toBeTruthy();
  expect(screen.queryByText("First version", { selector: "article div" })).toBeNull();
  await screen.findByText(/tok\/s/, {}, PATIENCE);
  await userEvent.click(screen.getByRole("button", { name: "Previous version" }));
  expect(await screen.findByText("First version", { selector: "article div" }, PATIENCE)).toBeTruthy();
});

it("sends what was written during an answer when that answer is done", async () => {
  /** A thought typed while waiting would be lost, or tear the running answer apart. */
  open();
  await choose("llama");
  await ask("Wake up");
  await screen.findByText(/Waking llama/, {}, PATIENCE);
  await ask("And then this");
  expect(screen.getByRole("button", { name: "Remove" })).toBeTruthy();
  await waitFor(() => expect(screen.getAllByText(/tok\/s/)).toHaveLength(2), PATIENCE);
  expect(screen.queryByRole("button", { name: "Remove" })).toBeNull();
});

it("says why a wake failed and can try again", async () => {
  /** A failed wake would look like an endless one. */
  open();
  await choose("llama");
  await ask("Please fail");
  expect(await screen.findByText("llama-3.2-3b could not be woken", {}, PATIENCE)).toBeTruthy();
  expect(screen.getByText(/needs 9.1 GB/)).toBeTruthy();
  expect(screen.getByText(/smaller quantisation/)).toBeTruthy();
  await userEvent.click(screen.getByRole("button", { name: "Try again" }));
  expect(await screen.findByText("Version 2 of 2", {}, PATIENCE)).toBeTruthy();
});

it("keeps a refused question and gives it back", async () => {
  /** A full queue would eat what one wrote. */
  open();
  await ask("refuse this");
  expect(await screen.findByText(/100 requests wait/, {}, PATIENCE)).toBeTruthy();
  await userEvent.click(screen.getByRole("button", { name: "Edit" }));
  expect((await composer()).textContent).toBe("refuse this");
});

it("asks for a key when there is no session, and opens with the right one", async () => {
  /** A stranger would see chats, or the owner would be locked out. */
  mock.world.signedIn = false;
  open();
  const key = await screen.findByLabelText("Key", {}, PATIENCE);
  await userEvent.type(key, "lk-wrong{Enter}");
  expect(await screen.findByText("That key is not known here.", {}, PATIENCE)).toBeTruthy();
  await userEvent.clear(key);
  await userEvent.type(key, "lk-mock{Enter}");
  expect(await composer()).toBeTruthy();
});

it("renames and deletes a chat, asking before it deletes", async () => {
  /** A slip of the finger would destroy a conversation. */
  open();
  const title = "Names for a black cat";
  const actions = () => screen.findByRole("button", { name: `Actions for “${title}”` }, PATIENCE);
  await userEvent.click(await actions());
  await userEvent.click(screen.getByRole("menuitem", { name: "Rename" }));
  const box = await screen.findByRole("textbox", { name: "New title" });
  await userEvent.clear(box);
  await userEvent.type(box, "Cat names{Enter}");
  const link = await screen.findByRole("link", { name: "Cat names" }, PATIENCE);
  await userEvent.click(screen.getByRole("button", { name: "Actions for “Cat names”" }));
  expect(screen.getByRole("menuitem", { name: "Export as Markdown" }).getAttribute("href")).toMatch(
    /format=markdown$/,
  );
  await userEvent.click(screen.getByRole("menuitem", { name: "Delete" }));
  expect(link.isConnected).toBe(true);
  await userEvent.click(within(await screen.findByRole("dialog")).getByRole("button", { name: "Delete" }));
  await waitFor(() => expect(screen.queryByText("Cat names")).toBeNull(), PATIENCE);
});
