/**
 * Light, dark, or as the system says. The first paint is public/theme.js's work; this follows changes.
 */
import { create } from "zustand";
import { recall, remember } from "./storage";

export type Theme = "system" | "light" | "dark";

const dark = () => matchMedia("(prefers-color-scheme: dark)");

function apply(theme: Theme): void {
  const isDark = theme === "dark" || (theme === "system" && dark().matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  document.querySelector('meta[name="theme-color"]')?.setAttribute("content", isDark ? "#181715" : "#faf8f4");
}

function stored(): Theme {
  const value = recall("theme");
  return value === "light" || value === "dark" ? value : "system";
}

export const useTheme = create<{ theme: Theme; choose: (theme: Theme) => void }>()((set) => ({
  theme: stored(),
  choose: (theme) => {
    remember("theme", theme === "system" ? null : theme);
    apply(theme);
    set({ theme });
  },
}));

/** Follows the system from now on, while the choice is "system". */
export function followSystemTheme(): void {
  apply(useTheme.getState().theme);
  dark().addEventListener("change", () => apply(useTheme.getState().theme));
}
