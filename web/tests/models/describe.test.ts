import { describe, expect, it } from "vitest";
import {
  currentStage,
  defaultModel,
  describeModel,
  pace,
  stageName,
  wakePrice,
} from "../../src/models/describe";
import { aModel, aWake, QUOTE } from "../fixtures";

describe("a model's state in words", () => {
  const cases: [string, ReturnType<typeof aModel>, number, string][] = [
    ["asleep", aModel(), 0, "Asleep"],
    ["asleep before", aModel({ last_wake: { seconds: 1.4, at: 1 } }), 0, "Asleep · last woke in 1.4 s"],
    [
      "waking",
      aModel({ state: "waking", wake: aWake() }),
      1004,
      "Waking: fetching the model · about 6 s left",
    ],
    ["waking, no news", aModel({ state: "waking" }), 1004, "Waking"],
    ["awake", aModel({ state: "awake" }), 0, "Awake"],
    ["awake and idle", aModel({ state: "awake", sleeping_at: 350 }), 100, "Sleeping in 4:10"],
    ["busy", aModel({ state: "awake", in_flight: 2, sleeping_at: 350 }), 100, "Awake · 2 answers running"],
    ["always on", aModel({ state: "awake", always_on: true }), 0, "Always on"],
    ["draining", aModel({ state: "draining" }), 0, "Finishing, then to sleep"],
    [
      "failed",
      aModel({
        state: "failed",
        failure: { reason: "disk_full", message: "The disk is full.", next_step: null, retry_at: null },
      }),
      0,
      "Could not wake: The disk is full.",
    ],
  ];
  it.each(cases)("%s", (_name, model, now, words) => {
    /** The picker would not say what a model is doing. */
    expect(describeModel(model, now)).toBe(words);
  });
});

describe("the pace of a wake", () => {
  it.each([
    [1004, { kind: "left", seconds: 6 }],
    [1012, { kind: "soon" }],
    [1021, { kind: "slow" }],
  ])("at %i", (now, expected) => {
    /** A slow wake would promise "2 s left" for minutes. */
    expect(pace(aWake(), now)).toEqual(expected);
  });

  it("is unknown before the first wake", () => {
    /** A first wake would claim an ETA from nowhere. */
    expect(pace(aWake({ eta: null }), 1004)).toEqual({ kind: "unknown" });
  });
});

it("knows the stage at work", () => {
  /** The picker would name a finished stage. */
  expect(currentStage(aWake())?.name).toBe("pull");
});

it("names stages it has never heard of", () => {
  /** A provider's new stage would be blank. */
  expect([stageName("load"), stageName("warm_up")]).toEqual(["Loading the model", "Warm up"]);
});

it("begins with a model that can chat", () => {
  /** A new chat would begin with an embedding model, or wake a GPU without need. */
  const models = [
    aModel({ name: "embed", capabilities: ["embeddings"], state: "awake" }),
    aModel({ name: "big" }),
    aModel({ name: "small", state: "awake" }),
  ];
  expect(defaultModel(models, null)).toBe("small");
  expect(defaultModel(models, "big")).toBe("big");
  expect(defaultModel(models, "gone")).toBe("small");
  expect(defaultModel([], null)).toBeNull();
});

describe("what a wake will cost", () => {
  const price = "waking costs about 0.21 USD/h, at least 0.053 USD (estimate)";
  it.each([
    ["asleep", price],
    ["failed", price],
    ["draining", price],
    ["awake", null],
    ["waking", null],
  ] as const)("%s", (state, words) => {
    /** A question would cost money that nobody was told of; or a price would be shown for what runs already. */
    expect(wakePrice(aModel({ state, quote: QUOTE }))).toBe(words);
  });

  it("is not made up", () => {
    /** A model on the machine itself would seem to cost something; an older server sends no quote at all. */
    expect(wakePrice(aModel())).toBeNull();
    const { quote: _, ...older } = aModel();
    expect(wakePrice(older)).toBeNull();
  });
});
