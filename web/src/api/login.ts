/**
 * Login links: `#login=TOKEN` on any address. A fragment never reaches a server's log; here it leaves the
 * address bar and the history before it is used.
 */
import { http } from "./http";
import type { Session } from "./types";

/** The token of a login link, taken out of the address; null when there is none. */
export function takeLoginToken(): string | null {
  const params = new URLSearchParams(location.hash.replace(/^#/, ""));
  const token = params.get("login");
  if (!token) return null;
  history.replaceState(history.state, "", location.pathname + location.search);
  return token;
}

/** A session from the token; null when the link was used, is too old, or the server refuses it. */
export async function spendLoginToken(token: string): Promise<Session | null> {
  try {
    return await http.signIn({ login_token: token });
  } catch {
    return null;
  }
}
