/**
 * A model's state in words: pure, so that every state can be tested.
 *
 * Not responsible for drawing. `now` is the server's time in Unix seconds.
 */
import type { ModelStatus, Stage, Wake } from "../api/types";
import { strings } from "../strings";
import { clock, duration, money, perHour, roughly } from "../ui/format";

const t = strings.models;

export function stageName(name: string): string {
  const known = strings.wake.stages[name];
  if (known) return known;
  const words = name.replace(/[_-]+/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

export function isOver(stage: Stage): boolean {
  return stage.ended_at !== null;
}

/** The stage at work: begun and not ended, else the first to come. */
export function currentStage(wake: Wake): Stage | undefined {
  return (
    wake.stages.find((stage) => stage.started_at !== null && stage.ended_at === null) ??
    wake.stages.find((stage) => stage.ended_at === null)
  );
}

export type Pace =
  | { kind: "unknown" }
  | { kind: "left"; seconds: number }
  | { kind: "soon" }
  | { kind: "slow" };

/** How a wake compares with those before it: until p50 it counts down, until p90 it is due, after that it is slow. */
export function pace(wake: Wake, now: number): Pace {
  if (!wake.eta) return { kind: "unknown" };
  const elapsed = now - wake.started_at;
  if (elapsed > wake.eta.p90) return { kind: "slow" };
  const left = wake.eta.p50 - elapsed;
  return left > 0.5 ? { kind: "left", seconds: left } : { kind: "soon" };
}

export function paceText(of: Pace): string | null {
  switch (of.kind) {
    case "left":
      return t.left(roughly(of.seconds));
    case "soon":
      return t.anyMoment;
    case "slow":
      return t.slower;
    default:
      return null;
  }
}

/** One line about a model, as its row in the picker says it. */
export function describeModel(model: ModelStatus, now: number): string {
  switch (model.state) {
    case "asleep":
      return model.last_wake ? `${t.asleep} · ${t.lastWake(duration(model.last_wake.seconds))}` : t.asleep;
    case "waking": {
      if (!model.wake) return t.waking;
      const stage = currentStage(model.wake);
      const words = [
        stage ? t.wakingStage(stageName(stage.name)) : t.waking,
        paceText(pace(model.wake, now)),
      ];
      return words.filter(Boolean).join(" · ");
    }
    case "awake":
      if (model.in_flight > 0) return `${t.awake} · ${t.busy(model.in_flight)}`;
      if (model.always_on) return t.alwaysOn;
      if (model.sleeping_at !== null && model.sleeping_at > now) {
        return t.sleepingIn(clock(model.sleeping_at - now));
      }
      return t.awake;
    case "draining":
      return t.draining;
    case "failed":
      return model.failure ? `${t.failed}: ${model.failure.message}` : t.failed;
  }
}

/** What waking it would cost, in words; null when it is up, or costs nothing. */
export function wakePrice(model: ModelStatus): string | null {
  const { quote, state } = model;
  if (!quote || state === "awake" || state === "waking") return null;
  return strings.money.wake(perHour(quote.hourly, quote.currency), money(quote.least, quote.currency));
}

/** Whether the description changes by itself, second by second. */
export function ticks(model: ModelStatus | undefined): boolean {
  if (!model) return false;
  if (model.state === "failed") return model.failure?.retry_at != null;
  return model.state === "waking" || (model.state === "awake" && model.sleeping_at !== null);
}

export function canChat(model: ModelStatus): boolean {
  return model.capabilities.includes("chat");
}

/** The model to begin with: the one used last, else one that is up, else the first that can chat. */
export function defaultModel(models: ModelStatus[] | null, last: string | null): string | null {
  const able = (models ?? []).filter(canChat);
  const known = able.find((model) => model.name === last);
  return (known ?? able.find((model) => model.state === "awake") ?? able[0])?.name ?? null;
}
