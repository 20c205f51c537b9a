import { fireEvent, render, screen } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { Composer } from "../../src/chat/Composer";

const onSend = vi.fn();
const onStop = vi.fn();
const onQueued = vi.fn();
type Props = Partial<Parameters<typeof Composer>[0]>;

function show(props: Props = {}) {
  const all = { view: "v", isNew: true, model: "small", busy: false, stopping: false, queued: null };
  return render(<Composer {...all} onSend={onSend} onStop={onStop} onQueued={onQueued} {...props} />);
}
const box = () => screen.getByRole<HTMLTextAreaElement>("textbox");

beforeEach(() => vi.clearAllMocks());

describe("the keyboard", () => {
  it("sends with Enter and empties the box", async () => {
    /** The most used key of the page would do nothing, or send twice. */
    show();
    await userEvent.type(box(), "  Hello  {Enter}");
    expect(onSend.mock.calls).toEqual([["Hello"]]);
    expect(box().value).toBe("");
  });

  it("breaks the line with Shift+Enter", async () => {
    /** Nobody could write a paragraph. */
    show();
    await userEvent.type(box(), "One{Shift>}{Enter}{/Shift}two");
    expect(onSend).not.toHaveBeenCalled();
    expect(box().value).toBe("One\ntwo");
  });

  it("leaves Enter to an input method", () => {
    /** Japanese and Chinese could not be written: choosing a word would send it. */
    show();
    fireEvent.change(box(), { target: { value: "にほ" } });
    fireEvent.keyDown(box(), { key: "Enter", isComposing: true });
    expect(onSend).not.toHaveBeenCalled();
  });

  it("does not send nothing", async () => {
    /** A stray Enter would wake a GPU. */
    show();
    await userEvent.type(box(), "   {Enter}");
    expect(onSend).not.toHaveBeenCalled();
  });
});

describe("while an answer is coming", () => {
  it("can be written in, and offers Stop", async () => {
    /** Waiting for a wake would freeze the page's main control. */
    show({ busy: true });
    expect(box().disabled).toBe(false);
    await userEvent.click(screen.getByRole("button", { name: "Stop" }));
    expect(onStop).toHaveBeenCalledOnce();
    await userEvent.type(box(), "Next{Enter}");
    expect(onSend.mock.calls).toEqual([["Next"]]);
  });

  it("gives a queued message back for editing", async () => {
    /** A message written too early could not be changed. */
    show({ busy: true, queued: { content: "Too early", model: "small" } });
    await userEvent.type(box(), "more");
    await userEvent.click(screen.getByRole("button", { name: "Edit" }));
    expect(onQueued).toHaveBeenCalledWith(null);
    expect(box().value).toBe("Too early\n\nmore");
  });
});

it("keeps a draft for the next visit and forgets it when sent", async () => {
  /** A reload would throw away a long question; or bring back one that was sent. */
  vi.useFakeTimers({ shouldAdvanceTime: true });
  show({ isNew: false });
  await userEvent.setup({ advanceTimers: vi.advanceTimersByTime }).type(box(), "Half a question");
  await vi.advanceTimersByTimeAsync(1_000);
  expect(localStorage.getItem("lamplighter.draft.v")).toBe("Half a question");
  fireEvent.keyDown(box(), { key: "Enter" });
  expect(localStorage.getItem("lamplighter.draft.v")).toBeNull();
});
