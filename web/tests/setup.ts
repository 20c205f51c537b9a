/**
 * What jsdom lacks and every test needs.
 */
import { cleanup } from "@testing-library/react";
import { afterEach, beforeEach, vi } from "vitest";
import { useDrafts } from "../src/api/drafts";
import { initialLive, useLive } from "../src/api/live";

class NoObserver {
  observe() {}
  unobserve() {}
  disconnect() {}
  takeRecords() {
    return [];
  }
}

beforeEach(() => {
  vi.stubGlobal("ResizeObserver", NoObserver);
  vi.stubGlobal("IntersectionObserver", NoObserver);
  vi.stubGlobal("matchMedia", (query: string) => ({
    // A desktop with a mouse, in the light.
    matches: query.includes("min-width"),
    media: query,
    addEventListener() {},
    removeEventListener() {},
  }));
  Element.prototype.scrollTo = () => {};
  localStorage.clear();
  useLive.setState(initialLive(), true);
  useDrafts.setState({}, true);
});

afterEach(() => {
  cleanup();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});
