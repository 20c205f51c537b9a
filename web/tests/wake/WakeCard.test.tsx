import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { render, screen, within } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { useLive } from "../../src/api/live";
import { FailureCard } from "../../src/wake/FailureCard";
import { PriceNote } from "../../src/wake/PriceNote";
import { estimate, WakeCard } from "../../src/wake/WakeCard";
import { aModel, aWake, QUOTE, RUNNING } from "../fixtures";

const onCancel = vi.fn();
const onMeanwhile = vi.fn();
type Props = Partial<Parameters<typeof WakeCard>[0]>;

/** The card at a moment of the server's clock; the fixture's wake began at 1000. */
function show(at: number, props: Props = {}) {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  vi.setSystemTime(at * 1000);
  const all = { model: "llama", wake: aWake(), meanwhile: null, admin: false, cancelling: false };
  return render(
    <QueryClientProvider client={new QueryClient()}>
      <WakeCard {...all} onCancel={onCancel} onMeanwhile={onMeanwhile} {...props} />
    </QueryClientProvider>,
  );
}
const stage = (name: string) => {
  const item = screen.getByText(name).closest("li");
  if (!item) throw new Error(`no stage ${name}`);
  return within(item);
};

beforeEach(() => vi.clearAllMocks());

describe("the stages", () => {
  it("shows past, present and future ones with their times", () => {
    /** A person waiting could not see what happens, nor what is still to come. */
    show(1004.6);
    expect(stage("Finding a machine").getByText("2.0 s")).toBeTruthy();
    expect(stage("Fetching the model").getByText("40% · 2.6 s")).toBeTruthy();
    expect(stage("Fetching the model").getByText("1.9 GB")).toBeTruthy();
    expect(stage("Loading the model").getByText("to come")).toBeTruthy();
    expect(screen.getByText("Fetching the model").closest("li")?.getAttribute("aria-current")).toBe("step");
  });

  it("has a bar only where progress is known", () => {
    /** A made-up bar would stand still, which reads as hung. */
    show(1004);
    expect(screen.getByRole("progressbar", { name: "Progress: Fetching the model" })).toBeTruthy();
    expect(screen.queryByRole("progressbar", { name: "Progress: Loading the model" })).toBeNull();
  });

  it("counts by the server's clock", () => {
    /** With a wrong clock on the laptop every stage would show hours, or less than nothing. */
    useLive.setState({ skew: 904.6 });
    show(100);
    expect(stage("Fetching the model").getByText("40% · 2.6 s")).toBeTruthy();
  });
});

describe("what to expect", () => {
  it.each([
    [1004, "About 6 s left", ", usually 10–20 s."],
    [1012, "Any moment now", ", usually 10–20 s."],
    [1021, "Slower than usual", ", usually 10–20 s."],
  ])("at %i", (at, word, range) => {
    /** A slow wake would go on promising seconds. */
    show(at);
    expect(screen.getByText(word)).toBeTruthy();
    expect(screen.getByText(range)).toBeTruthy();
  });

  it("does not invent an ETA for the first wake", () => {
    /** The first visit would begin with a wrong promise. */
    show(1004, { wake: aWake({ eta: null }) });
    expect(screen.getByText(/how long it takes is not known yet/)).toBeTruthy();
    expect(screen.queryByRole("progressbar", { name: "Progress of the wake" })).toBeNull();
  });

  it("never fills the bar before the end", () => {
    /** A full bar over an unfinished wake reads as hung. */
    const eta = { p50: 10, p90: 20 };
    expect(estimate(eta, 0)).toBe(0);
    expect(estimate(eta, 10)).toBeCloseTo(86);
    expect(estimate(eta, 1e6)).toBeLessThan(98);
  });
});

describe("the price", () => {
  const priced = () => screen.getByText(/USD\/h/).closest("p")?.textContent;

  it("is what was expected, until there is a machine", () => {
    /** Nobody would know what a wake costs before the bill began. */
    show(1004, { quote: QUOTE });
    expect(priced()).toBe("spot g4dn.xlarge · 0.21 USD/h (estimate)");
  });

  it("then is the machine's own, counted as it runs", () => {
    /** The card would show the price of another machine than the one that was found. */
    show(1094, { quote: QUOTE, cost: RUNNING });
    expect(priced()).toBe("spot g4dn.xlarge, eu-central-1a · 0.21 USD/h · 0.005 USD so far (estimate)");
  });

  it("is not shown where a wake costs nothing", () => {
    /** A model on the same machine would seem to cost something. */
    show(1004);
    expect(screen.queryByText(/estimate/)).toBeNull();
  });

  it("stands above the composer while the model is asleep", () => {
    /** Whoever presses Enter would learn the price afterwards. */
    const { rerender } = render(<PriceNote id="p" model={aModel({ quote: QUOTE })} />);
    const words = "small is asleep · waking costs about 0.21 USD/h, at least 0.053 USD (estimate)";
    expect(screen.getByText(words).id).toBe("p");
    rerender(<PriceNote id="p" model={aModel({ state: "failed", quote: QUOTE })} />);
    expect(screen.getByText(/^small is not up · waking costs/)).toBeTruthy();
    rerender(<PriceNote id="p" model={aModel({ state: "awake", quote: QUOTE })} />);
    expect(screen.queryByText(/waking costs/)).toBeNull();
  });
});

describe("a machine that is gone", () => {
  it("is said as the first stage of the next wake", () => {
    /** Half an answer would stand there, and a card that speaks of a question. */
    show(1004, { again: true });
    const items = screen.getAllByRole("listitem").map((item) => item.textContent);
    expect(items[0]).toBe("The machine is gone");
    expect(screen.getByText(/What is written is kept/)).toBeTruthy();
  });

  it("leaves it to be read which machine took its place", () => {
    /** Nobody would learn that there was no spot capacity, and that an on-demand machine costs three times as much. */
    const wake = aWake();
    const detail = "No spot capacity for g4dn.xlarge; an on-demand machine.";
    const [found, ...rest] = wake.stages;
    if (!found) throw new Error("no stage");
    show(1004, { wake: { ...wake, stages: [{ ...found, detail }, ...rest] } });
    expect(screen.getByText(detail)).toBeTruthy();
  });
});

describe("the actions", () => {
  it("cancels", async () => {
    /** Nobody could stop a wake that costs money. */
    show(1004);
    await userEvent.click(screen.getByRole("button", { name: "Cancel" }));
    expect(onCancel).toHaveBeenCalledOnce();
  });

  it("offers the model that may answer meanwhile", async () => {
    /** The configured quick answer could not be reached from where one waits. */
    show(1004, { meanwhile: "small" });
    await userEvent.click(screen.getByRole("button", { name: "Answer with small now" }));
    expect(onMeanwhile).toHaveBeenCalledWith("small");
  });

  it("keeps warm for an admin, and for nobody else", async () => {
    /** An admin could not keep a slow model up; a guest would get a button that is refused. */
    const fetched = vi.fn().mockResolvedValue(new Response("{}", { status: 202 }));
    vi.stubGlobal("fetch", fetched);
    const { unmount } = show(1004);
    expect(screen.queryByRole("button", { name: /Keep warm/ })).toBeNull();
    unmount();
    show(1004, { admin: true });
    await userEvent.click(screen.getByRole("button", { name: "Keep warm for 30 min" }));
    expect(await screen.findByRole("button", { name: "Stays warm for 30 min" })).toBeTruthy();
    const [path, init] = fetched.mock.calls[0] ?? [];
    expect(path).toBe("/api/models/llama/wake");
    expect(JSON.parse(init.body)).toEqual({ keep: 1_800 });
    expect(init.headers["x-lamplighter"]).toBe("1");
  });
});

describe("a failure", () => {
  it("says the reason, what happened and what to do, and can be tried again", async () => {
    /** "Something went wrong" helps nobody. */
    const onRetry = vi.fn();
    const error = {
      code: "out_of_memory",
      message: "It needs 9.1 GB and there are 7.8 GB.",
      next_step: "Choose a smaller quantisation.",
    };
    render(<FailureCard title="llama could not be woken" error={error} onRetry={onRetry} />);
    expect(screen.getByText("· Out of memory")).toBeTruthy();
    expect(screen.getByText(error.message)).toBeTruthy();
    expect(screen.getByText(error.next_step)).toBeTruthy();
    await userEvent.click(screen.getByRole("button", { name: "Try again" }));
    expect(onRetry).toHaveBeenCalledOnce();
  });
});

it("says what is left of a budget and what to do", () => {
  /** "402" helps nobody. */
  const error = {
    code: "budget",
    message: "The budget does not allow this wake. Of 60 USD/month of the pool 'spot', 0.03 USD is left.",
    next_step: "Raise the budget, or wait for its next period.",
  };
  render(<FailureCard title="llama could not be woken" error={error} />);
  expect(screen.getByText("· Budget does not allow it")).toBeTruthy();
  expect(screen.getByText(/0.03 USD is left/)).toBeTruthy();
  expect(screen.getByText(error.next_step)).toBeTruthy();
});
