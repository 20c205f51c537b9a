import { expect, it } from "vitest";
import {
  clock,
  dayGroup,
  duration,
  durationRange,
  money,
  perHour,
  roughly,
  soFar,
} from "../../src/ui/format";

it("says durations as people do", () => {
  /** "94.0 s" and "0 min" would be shown for waits. */
  expect([0.84, 1.4, 14.2, 94, 120, 7_300, 59.7].map(duration)).toEqual([
    "0.8 s",
    "1.4 s",
    "14 s",
    "1 min 34 s",
    "2 min",
    "2 h 2 min",
    "1 min",
  ]);
});

it("says ranges in one unit", () => {
  /** The expectation of a wake would be hard to read. */
  expect(durationRange(8.2, 15)).toBe("8.2–15 s");
  expect(durationRange(70, 120)).toBe("1 min 10 s – 2 min");
  expect(durationRange(14, 14.2)).toBe("14 s");
});

it("counts down without false precision", () => {
  /** "About 83 s left" jumps at every second. */
  expect([0.2, 4.1, 41, 83, 200].map(roughly)).toEqual(["1 s", "5 s", "45 s", "85 s", "4 min"]);
});

it("shows a clock", () => {
  /** "Sleeping in 4:9" */
  expect([250, 249.2, 9, 3_725, -3].map(clock)).toEqual(["4:10", "4:10", "0:09", "1:02:05", "0:00"]);
});

it("groups by calendar day, not by 24 hours", () => {
  /** A chat of late yesterday would be listed under today. */
  const noon = new Date(2026, 10, 21, 12).getTime();
  const at = (year: number, month: number, day: number) => new Date(year, month, day, 23).getTime() / 1000;
  expect(dayGroup(at(2026, 10, 21), noon)).toBe("Today");
  expect(dayGroup(at(2026, 10, 20), noon)).toBe("Yesterday");
  expect(dayGroup(at(2026, 10, 17), noon)).toBe("Previous 7 days");
  expect(dayGroup(at(2026, 9, 2), noon)).toBe("October");
  expect(dayGroup(at(2025, 9, 2), noon)).toBe("October 2025");
});

it("says amounts of money as people do", () => {
  /** "0.2104 USD" reads like a price list; "0.00 USD" would say that a running machine is free. */
  const said = ["0.2104", "0.0531", "0.05", "0.0054", "0.0004", "0", "12.3", "1234.5"].map((n) =>
    money(n, "USD"),
  );
  expect(said).toEqual([
    "0.21 USD",
    "0.053 USD",
    "0.05 USD",
    "0.005 USD",
    "less than 0.001 USD",
    "0.00 USD",
    "12.30 USD",
    "1,234.50 USD",
  ]);
  expect(perHour("0.2104", "EUR")).toBe("0.21 EUR/h");
  expect(money("a lot", "USD")).toBe("a lot USD");
});

it("counts what a machine has cost by the server's clock", () => {
  /** A laptop whose clock is behind would show a negative bill. */
  expect(soFar({ hourly: "3.6", currency: "USD", basis: "", since: 1_000 }, 1_010)).toBeCloseTo(0.01);
  expect(soFar({ hourly: "3.6", currency: "USD", basis: "", since: 1_000 }, 900)).toBe(0);
});
