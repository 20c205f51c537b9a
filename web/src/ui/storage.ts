/**
 * What this browser remembers: theme, chosen model, drafts, notes that were read. Never chats, never keys.
 */
const PREFIX = "lamplighter.";

export function remember(name: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, value);
  } catch {
    // Storage is blocked or full: the page works without memory.
  }
}

export function recall(name: string): string | null {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}
