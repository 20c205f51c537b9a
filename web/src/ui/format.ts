/**
 * Numbers, durations and days as people read them. Pure; durations are seconds.
 */
import type { Running } from "../api/types";
import { strings } from "../strings";

/** 0.84 -> "0.8 s", 14 -> "14 s", 94 -> "1 min 34 s", 7300 -> "2 h 2 min". */
export function duration(seconds: number): string {
  const s = Math.max(0, seconds);
  if (s < 9.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) {
    const rest = whole % 60;
    return rest === 0 ? `${Math.floor(whole / 60)} min` : `${Math.floor(whole / 60)} min ${rest} s`;
  }
  const minutes = Math.round(whole / 60);
  return minutes % 60 === 0
    ? `${Math.floor(minutes / 60)} h`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A range in one unit where it can be: "8–15 s", "1 min 10 s – 2 min". */
export function durationRange(low: number, high: number): string {
  const a = duration(low);
  const b = duration(high);
  if (a === b) return a;
  return low < 60 && high < 60 ? `${a.replace(/ s$/, "")}–${b}` : `${a} – ${b}`;
}

/** A rough amount for something that counts down: whole seconds, then steps of five, then minutes. */
export function roughly(seconds: number): string {
  if (seconds < 10) return `${Math.max(1, Math.ceil(seconds))} s`;
  if (seconds < 90) return `${Math.ceil(seconds / 5) * 5} s`;
  return `${Math.ceil(seconds / 60)} min`;
}

/** 250 -> "4:10", 3725 -> "1:02:05". */
export function clock(seconds: number): string {
  const s = Math.max(0, Math.ceil(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  const rest = `${two(s % 60)}`;
  return s < 3600
    ? `${Math.floor(s / 60)}:${rest}`
    : `${Math.floor(s / 3600)}:${two(Math.floor((s % 3600) / 60))}:${rest}`;
}

/** "0.2104" -> "0.21 USD", "0.0054" -> "0.005 USD": what is less than a tenth has one more digit. For showing, never for sums. */
export function money(amount: string | number, currency: string): string {
  const n = Number(amount);
  if (!Number.isFinite(n)) return `${amount} ${currency}`;
  if (n > 0 && n < 0.001) return `${strings.money.lessThan(`0.001 ${currency}`)}`;
  const text =
    n < 0.1
      ? n.toFixed(3).replace(/0$/, "")
      : n.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  return `${text} ${currency}`;
}

/** "0.2104" -> "0.21 USD/h". */
export function perHour(amount: string, currency: string): string {
  return `${money(amount, currency)}/h`;
}

/** What a machine has cost at `now` (the server's Unix seconds). */
export function soFar(of: Running, now: number): number {
  return (Math.max(0, now - of.since) / 3600) * Number(of.hourly);
}

export function count(n: number): string {
  return n.toLocaleString("en");
}

/** 2048 -> "2k", 131072 -> "128k": how people speak of context. */
export function contextSize(tokens: number): string {
  return tokens >= 1024 ? `${Math.round(tokens / 1024)}k` : String(tokens);
}

export function rate(perSecond: number): string {
  return perSecond < 10 ? perSecond.toFixed(1) : String(Math.round(perSecond));
}

function startOfDay(ms: number): number {
  const day = new Date(ms);
  day.setHours(0, 0, 0, 0);
  return day.getTime();
}

/** The heading under which something of that time is listed. `at` is Unix seconds. */
export function dayGroup(at: number, nowMs: number): string {
  const days = Math.round((startOfDay(nowMs) - startOfDay(at * 1000)) / 86_400_000);
  if (days <= 0) return strings.chats.today;
  if (days === 1) return strings.chats.yesterday;
  if (days < 7) return strings.chats.week;
  const date = new Date(at * 1000);
  const sameYear = date.getFullYear() === new Date(nowMs).getFullYear();
  return date.toLocaleDateString("en", sameYear ? { month: "long" } : { month: "long", year: "numeric" });
}
