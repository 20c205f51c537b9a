/**
 * The whole page against the mock server over real sockets: what a person does, from signing in to a restart.
 *
 * The mock runs fast; nothing here waits for a fixed time.
 */
import { QueryClientProvider } from "@tanstack/react-query";
import { configure, render, screen, waitFor, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { WebSocket as NodeSocket } from "ws";
import { type Mock, startMock } from "../../mock/server.mjs";
import { App } from "../../src/App";
import { newQueryClient } from "../../src/api/queries";
import { markdownReady } from "../../src/chat/markdown/Markdown";

// What is coloured or typeset belongs to markdown.test.tsx: loading those here only costs time.
const ANSWER =
  "A **spot instance** is spare capacity that a cloud sells cheaply, and may take back with two minutes' " +
  "notice. An *on-demand* instance costs more and stays.\n\n| | On-demand |\n|---|---|\n| Stays | yes |";
const PATIENCE = { timeout: 30_000 };
// The machine that runs this may be busy: patience costs nothing when all is well.
vi.setConfig({ testTimeout: 60_000 });
// Asking of every element whether it is hidden takes jsdom seconds on a whole page.
configure({ defaultHidden: true });
const user = userEvent.setup({ delay: null });

const realFetch = globalThis.fetch;
let mock: Mock;

beforeEach(async () => {
  await markdownReady();
  mock = await startMock({ speed: 40 });
  mock.world.answer = ANSWER;
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
/** The composer, once it knows which model it speaks to. */
const composer = () => screen.findByPlaceholderText(/^Message /, {}, PATIENCE);
async function ask(text: string) {
  await user.type(await composer(), `${text}{Enter}`);
}
async function choose(model: string) {
  await screen.findAllByText(/^Sleeping in/, {}, PATIENCE);
  await user.click(screen.getByRole("button", { name: /^Choose a model/ }));
  await user.click(within(screen.getByRole("dialog")).getByRole("button", { name: new RegExp(`^${model}`) }));
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
  mock.world.holdStage = 3;
  open();
  await choose("llama");
  await ask("Wake up");
  expect(await screen.findByText("Waking llama-3.2-3b", {}, PATIENCE)).toBeTruthy();
  expect(await screen.findByText("llama-3.2-3b-q4_k_m.gguf, 1.9 GB", {}, PATIENCE)).toBeTruthy();
  expect(screen.getByText("Loading the model")).toBeTruthy();
  mock.world.holdStage = Number.POSITIVE_INFINITY;
  expect(await screen.findByText(/woke in/, {}, PATIENCE)).toBeTruthy();
  expect(screen.queryByText("Waking llama-3.2-3b")).toBeNull();
});

it("says the price before and during a wake, and what the wake has cost", async () => {
  /** Money would be spent that nobody was told of. */
  open();
  await choose("llama-3.2-3b");
  const note = await screen.findByText(
    /^llama-3.2-3b is asleep · waking costs about 0.46 USD\/h, at least 0.13 USD/,
  );
  expect((await composer()).getAttribute("aria-describedby")).toBe(note.id);
  mock.world.holdStage = 2;
  await ask("Wake up.");
  expect(await screen.findByText(/^spot g5.xlarge, eu-central-1b · 0.46 USD\/h/, {}, PATIENCE)).toBeTruthy();
  expect(screen.queryByText(/is asleep ·/)).toBeNull();
  mock.world.holdStage = Number.POSITIVE_INFINITY;
  expect(await screen.findByText(/woke in [\d.]+ s, less than 0.001 USD/, {}, PATIENCE)).toBeTruthy();
});

it("goes on on another machine when the first is taken back", async () => {
  /** A spot machine that goes away would look like an answer that hangs. */
  mock.world.answer = `${"word ".repeat(60)}end.`;
  open();
  await choose("llama-3.2-3b");
  await ask("Please reclaim it.");
  expect(await screen.findByText("The machine is gone", {}, PATIENCE)).toBeTruthy();
  expect(screen.getByText(/What is written is kept/)).toBeTruthy();
  expect(await screen.findByText(/end\.$/, {}, PATIENCE)).toBeTruthy();
  expect(screen.queryByText("The machine is gone")).toBeNull();
});

it("says what is left when the budget refuses", async () => {
  /** A person would try again and again what cannot be paid. */
  open();
  await choose("llama-3.2-3b");
  await ask("Is there budget left?");
  expect(await screen.findByText("· Budget does not allow it", {}, PATIENCE)).toBeTruthy();
  expect(screen.getByText(/0.03 USD is left/)).toBeTruthy();
  expect(screen.getByText("Raise the budget, or wait for its next period.")).toBeTruthy();
});

it("loses nothing when the line drops in the middle of an answer", async () => {
  /** A phone that changes from Wi-Fi to mobile would cut every answer. */
  mock.world.holdAfter = 12;
  open();
  await ask("What is a spot instance?");
  await screen.findByText("spot instance", { selector: "strong" }, PATIENCE);
  mock.drop();
  mock.world.holdAfter = Number.POSITIVE_INFINITY;
  expect(await screen.findByText(/tok\/s/, {}, PATIENCE)).toBeTruthy();
  expect(mock.world.connections).toBeGreaterThan(1);
  const article = screen.getAllByRole("article").at(-1);
  expect(article?.textContent).toContain("notice. An on-demand instance costs more and stays.");
  expect(article?.textContent?.match(/spare capacity/g)).toHaveLength(1);
});

it("stops, and goes on from there", async () => {
  /** Stop would burn the GPU to the end, or throw away what was written. */
  mock.world.holdAfter = 12;
  open();
  await ask("What is a spot instance?");
  await screen.findByText("spot instance", { selector: "strong" }, PATIENCE);
  await user.keyboard("{Escape}");
  expect(await screen.findByText("Stopped.", {}, PATIENCE)).toBeTruthy();
  mock.world.holdAfter = Number.POSITIVE_INFINITY;
  await user.click(screen.getByRole("button", { name: "Continue" }));
  expect(await screen.findByText(/And that is the rest of it/, {}, PATIENCE)).toBeTruthy();
  expect(await screen.findByText("Version 2 of 2", {}, PATIENCE)).toBeTruthy();
});

it("keeps both versions of an edited question", async () => {
  /** Correcting a typo would destroy the conversation that followed it. */
  open();
  await ask("First version");
  await screen.findByText(/tok\/s/, {}, PATIENCE);
  await user.click(screen.getByRole("button", { name: "Edit" }));
  const editor = screen.getByRole("textbox", { name: "Edit your message" });
  await user.clear(editor);
  await user.type(editor, "Second version{Enter}");
  expect(await screen.findByText("Version 2 of 2", {}, PATIENCE)).toBeTruthy();
  expect(screen.queryByText("First version", { selector: "article div" })).toBeNull();
  await screen.findByText(/tok\/s/, {}, PATIENCE);
  await user.click(screen.getByRole("button", { name: "Previous version" }));
  expect(await screen.findByText("First version", { selector: "article div" }, PATIENCE)).toBeTruthy();
});

it("sends what was written during an answer when that answer is done", async () => {
  /** A thought typed while waiting would be lost, or tear the running answer apart. */
  mock.world.holdStage = 1;
  open();
  await choose("llama");
  await ask("Wake up");
  await screen.findByText("Waking llama-3.2-3b", {}, PATIENCE);
  await ask("And then this");
  expect(screen.getByRole("button", { name: "Remove" })).toBeTruthy();
  mock.world.holdStage = Number.POSITIVE_INFINITY;
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
  await user.click(screen.getByRole("button", { name: "Try again" }));
  expect(await screen.findByText("Version 2 of 2", {}, PATIENCE)).toBeTruthy();
});

it("keeps a refused question and gives it back", async () => {
  /** A full queue would eat what one wrote. */
  open();
  await ask("refuse this");
  expect(await screen.findByText(/100 requests wait/, {}, PATIENCE)).toBeTruthy();
  await user.click(screen.getByRole("button", { name: "Edit" }));
  expect((await composer()).textContent).toBe("refuse this");
});

it("asks for a key when there is no session, and opens with the right one", async () => {
  /** A stranger would see chats, or the owner would be locked out. */
  mock.world.signedIn = false;
  open();
  const key = await screen.findByLabelText("Key", {}, PATIENCE);
  await user.type(key, "lk-wrong{Enter}");
  expect(await screen.findByText("That key is not known here.", {}, PATIENCE)).toBeTruthy();
  await user.clear(key);
  await user.type(key, "lk-mock{Enter}");
  expect(await composer()).toBeTruthy();
});

it("renames and deletes a chat, asking before it deletes", async () => {
  /** A slip of the finger would destroy a conversation. */
  open();
  const title = "Names for a black cat";
  const actions = () => screen.findByRole("button", { name: `Actions for “${title}”` }, PATIENCE);
  await user.click(await actions());
  await user.click(screen.getByRole("menuitem", { name: "Rename" }));
  const box = await screen.findByRole("textbox", { name: "New title" });
  await user.clear(box);
  await user.type(box, "Cat names{Enter}");
  const link = await screen.findByRole("link", { name: "Cat names" }, PATIENCE);
  await user.click(screen.getByRole("button", { name: "Actions for “Cat names”" }));
  expect(screen.getByRole("menuitem", { name: "Export as Markdown" }).getAttribute("href")).toMatch(
    /format=markdown$/,
  );
  await user.click(screen.getByRole("menuitem", { name: "Delete" }));
  expect(link.isConnected).toBe(true);
  await user.click(within(await screen.findByRole("dialog")).getByRole("button", { name: "Delete" }));
  await waitFor(() => expect(screen.queryByText("Cat names")).toBeNull(), PATIENCE);
});
