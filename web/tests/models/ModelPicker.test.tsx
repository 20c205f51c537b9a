import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, expect, it, vi } from "vitest";
import { useLive } from "../../src/api/live";
import { ModelPicker } from "../../src/models/ModelPicker";
import { aModel, QUOTE } from "../fixtures";

const onChoose = vi.fn();

async function open(admin = true) {
  render(
    <QueryClientProvider client={new QueryClient()}>
      <ModelPicker chosen="small" admin={admin} onChoose={onChoose} />
    </QueryClientProvider>,
  );
  await userEvent.click(screen.getByRole("button", { name: /Choose a model/ }));
}

beforeEach(() => {
  vi.clearAllMocks();
  useLive.setState({
    models: [
      aModel({ state: "awake" }),
      aModel({ name: "big", note: "Slow but good." }),
      aModel({ name: "nas", state: "awake", always_on: true }),
      aModel({ name: "embed", capabilities: ["embeddings"] }),
    ],
  });
});

it("lists the models that can chat, with their states, and chooses one", async () => {
  /** One could not see what a model is doing before asking it, or would pick one that cannot answer. */
  await open();
  expect(screen.getByText("Always on")).toBeTruthy();
  expect(screen.getByText("Slow but good.")).toBeTruthy();
  expect(screen.queryByText("embed")).toBeNull();
  await userEvent.click(screen.getByRole("button", { name: /^big/ }));
  expect(onChoose).toHaveBeenCalledWith("big");
  expect(screen.queryByRole("dialog")).toBeNull();
});

it("follows the states as they come", async () => {
  /** An open picker would show a model asleep that is up. */
  await open();
  expect(screen.getByText("Asleep")).toBeTruthy();
  useLive.setState({ models: [aModel({ state: "awake" }), aModel({ name: "big", state: "waking" })] });
  expect(await screen.findByText("Waking")).toBeTruthy();
});

it("can be walked with the arrows", async () => {
  /** Without a mouse every row's buttons would have to be tabbed through. */
  await open();
  await userEvent.keyboard("{ArrowDown}");
  const first = document.activeElement;
  await userEvent.keyboard("{ArrowDown}");
  expect(document.activeElement).not.toBe(first);
  await userEvent.keyboard("{ArrowUp}");
  expect(document.activeElement).toBe(first);
});

it("wakes a sleeping model and puts a waking one to sleep", async () => {
  /** An admin would have to go to the command line. */
  const fetched = vi.fn().mockImplementation(() => Promise.resolve(new Response("{}", { status: 202 })));
  vi.stubGlobal("fetch", fetched);
  await open();
  await userEvent.click(screen.getByRole("button", { name: "Wake: big" }));
  await userEvent.click(screen.getByRole("button", { name: "Put to sleep: small" }));
  expect(fetched.mock.calls.map(([path]) => path)).toEqual([
    "/api/models/big/wake",
    "/api/models/small/sleep",
  ]);
  expect(screen.queryByRole("button", { name: "Put to sleep: nas" })).toBeNull();
});

it("gives no power to who has none", async () => {
  /** A guest would be offered buttons that are refused. */
  await open(false);
  expect(screen.queryByRole("button", { name: /Wake: / })).toBeNull();
});

it("says when a failed model may be tried again", async () => {
  /** One would press "Try again" into a wall. */
  const failure = {
    reason: "no_capacity",
    message: "No machine.",
    next_step: "Wait.",
    retry_at: Date.now() / 1000 + 45,
  };
  useLive.setState({ models: [aModel({ state: "failed", failure })] });
  await open();
  expect(screen.getByText("Could not wake: No machine.")).toBeTruthy();
  expect(screen.getByText("It may be tried again in 45 s.")).toBeTruthy();
  expect(screen.getByText("Wait.")).toBeTruthy();
});

it("says what waking a model will cost, and where the price is from", async () => {
  /** One would choose the machine for 3 USD an hour as lightly as the one that is free. */
  useLive.setState({ models: [aModel({ state: "awake" }), aModel({ name: "big", quote: QUOTE })] });
  await open();
  const price = screen.getByText("Waking costs about 0.21 USD/h, at least 0.053 USD (estimate)");
  expect(price.title).toBe("spot g4dn.xlarge; price from: AWS spot price history");
  expect(price.closest("button")?.textContent).toMatch(/^big/);
});
