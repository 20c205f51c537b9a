/**
 * Where the page begins: a login link is spent before anything is drawn.
 */
import { notifyManager, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { spendLoginToken, takeLoginToken } from "./api/login";
import { cache, newQueryClient } from "./api/queries";
import "./styles.css";
import { Crash } from "./ui/Crash";
import { followSystemTheme } from "./ui/theme";

// Cache and live store change together when a frame arrives; a macrotask between them would paint half of it.
notifyManager.setScheduler(queueMicrotask);

async function begin(root: HTMLElement): Promise<void> {
  followSystemTheme();
  const client = newQueryClient();
  const token = takeLoginToken();
  const session = token === null ? null : await spendLoginToken(token);
  if (session) cache(client).signedIn(session);
  createRoot(root).render(
    <StrictMode>
      <Crash>
        <QueryClientProvider client={client}>
          <App loginFailed={token !== null && session === null} />
        </QueryClientProvider>
      </Crash>
    </StrictMode>,
  );
}

const root = document.getElementById("root");
if (root) void begin(root);
