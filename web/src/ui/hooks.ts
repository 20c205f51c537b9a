/**
 * Small hooks with no home of their own: time, media queries, copying.
 */
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";

/** The browser's time in ms, refreshed every `everyMs` while `active`. */
export function useNow(everyMs: number, active = true): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!active) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs, active]);
  return now;
}

export function useMedia(query: string): boolean {
  return useSyncExternalStore(
    useCallback(
      (changed) => {
        const media = matchMedia(query);
        media.addEventListener("change", changed);
        return () => media.removeEventListener("change", changed);
      },
      [query],
    ),
    () => matchMedia(query).matches,
  );
}

export const WIDE = "(min-width: 860px)";

/** Copies, also over plain http from another machine, where the clipboard API does not exist. */
export async function copyText(text: string): Promise<void> {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.style.position = "fixed";
  area.style.opacity = "0";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("The browser refused to copy.");
}

/** `copied` stays true for a moment after `copy`. */
export function useCopy(): { copied: boolean; copy: (text: string) => void } {
  const [copied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout> | null>(null);
  useEffect(() => () => clearTimeout(timer.current ?? undefined), []);
  const copy = useCallback((text: string) => {
    copyText(text).then(
      () => {
        setCopied(true);
        clearTimeout(timer.current ?? undefined);
        timer.current = setTimeout(() => setCopied(false), 1_800);
      },
      // Refused: the button simply does not turn into a check mark.
      () => setCopied(false),
    );
  }, []);
  return { copied, copy };
}
