/// <reference types="vitest/config" />
/**
 * How the page is built, served while one works on it, and tested.
 *
 * The output goes into the Python package, so that a wheel carries the page and runs without Node.
 */
import tailwindcss from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const backend = process.env.LAMPLIGHTER_URL ?? "http://127.0.0.1:4180";

export default defineConfig({
  base: "/",
  plugins: [react(), tailwindcss()],
  build: {
    outDir: "../src/lamplighter/page",
    emptyOutDir: true,
    // Fonts and images stay files: a data: font would need a wider Content-Security-Policy.
    assetsInlineLimit: 0,
    // The largest grammar; loaded only by who reads C++.
    chunkSizeWarningLimit: 900,
    target: "es2022",
  },
  server: {
    proxy: {
      "/api": { target: backend, ws: true },
      "/v1": { target: backend },
    },
  },
  test: {
    environment: "jsdom",
    include: ["tests/**/*.test.{ts,tsx}"],
    setupFiles: ["tests/setup.ts"],
    restoreMocks: true,
  },
});
