import { QueryClientProvider } from "@tanstack/react-query";
import { renderHook, waitFor } from "@testing-library/react";
import type { ReactNode } from "react";
import { expect, it, vi } from "vitest";
import { cache, newQueryClient, useBranch } from "../../src/api/queries";
import type { Branch } from "../../src/api/types";
import { aChat, aMessage, aStarted } from "../fixtures";

it("does not let a slow read undo what came live meanwhile", async () => {
  /** An answer that finished during a refetch would fall back to "thinking", for ever. */
  const client = newQueryClient();
  const streaming: Branch = {
    chat: aChat(),
    messages: [aMessage({ id: "msg_u" }), aStarted().message],
    more: false,
  };
  const done = aMessage({ id: "msg_a", role: "assistant", parent_id: "msg_u", content: "All of it" });
  const answers: ((body: Branch) => void)[] = [];
  const fetched = vi.fn(
    () =>
      new Promise<Response>((resolve) => {
        answers.push((body) => resolve(new Response(JSON.stringify(body))));
      }),
  );
  vi.stubGlobal("fetch", fetched);
  const wrapper = ({ children }: { children: ReactNode }) => (
    <QueryClientProvider client={client}>{children}</QueryClientProvider>
  );
  const { result } = renderHook(() => useBranch("cht_1"), { wrapper });
  await waitFor(() => expect(answers).toHaveLength(1));
  cache(client).settled("cht_1", done);
  answers[0]?.(streaming);
  await waitFor(() => expect(answers).toHaveLength(2));
  answers[1]?.({ ...streaming, messages: [aMessage({ id: "msg_u" }), done] });
  await waitFor(() => expect(result.current.data?.messages.at(-1)?.content).toBe("All of it"));
  expect(fetched).toHaveBeenCalledTimes(2);
});
