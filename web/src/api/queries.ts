/**
 * Server data: what is fetched, under which key it is cached, and how the live link changes the cache.
 *
 * Not responsible for the socket itself (socket.ts) nor for what is drawn.
 */
import {
  type InfiniteData,
  QueryClient,
  useInfiniteQuery,
  useMutation,
  useQuery,
  useQueryClient,
} from "@tanstack/react-query";
import { PAGE, withChat, withOlder, withoutChat, withRefreshed, withSettled, withStarted } from "./branch";
import { http, RequestError } from "./http";
import type { Branch, Chat, ChatPage, Message, Session, StartedFrame } from "./types";

const keys = {
  session: ["session"] as const,
  catalogue: ["catalogue"] as const,
  chats: ["chats"] as const,
  chatsFor: (q: string) => ["chats", q] as const,
  branch: (id: string) => ["branch", id] as const,
};

export function newQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: 30_000,
        refetchOnWindowFocus: false,
        // A refusal will not change by asking again; an unreachable server may come back.
        retry: (count, error) => error instanceof RequestError && error.status === 0 && count < 3,
      },
    },
  });
}

export function useSession() {
  return useQuery<Session | null>({
    queryKey: keys.session,
    staleTime: Number.POSITIVE_INFINITY,
    retry: (_count, error) => error instanceof RequestError && (error.status === 0 || error.status >= 500),
    retryDelay: 1_500,
    queryFn: () =>
      http.session().catch((error: unknown) => {
        if (error instanceof RequestError && error.status === 401) return null;
        throw error;
      }),
  });
}

export function useCatalogue(enabled: boolean) {
  return useQuery({ queryKey: keys.catalogue, queryFn: http.catalogue, enabled, staleTime: 600_000 });
}

export function useChats(q: string) {
  return useInfiniteQuery({
    queryKey: keys.chatsFor(q),
    queryFn: ({ pageParam }) => http.chats({ before: pageParam, q: q || undefined }),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (page) => page.next ?? undefined,
    placeholderData: (previous) => previous,
  });
}

/** How often live news has changed a cached branch. */
const changes = new Map<string, number>();

function bump(chatId: string): void {
  changes.set(chatId, (changes.get(chatId) ?? 0) + 1);
}

/**
 * Reads until no live news came in between: an answer that left the server before a generation began, or before it
 * ended, would take the newer state off the page again.
 */
async function undisturbed(chatId: string, read: () => Promise<Branch>): Promise<Branch> {
  for (;;) {
    const before = changes.get(chatId);
    const branch = await read();
    if (changes.get(chatId) === before) return branch;
  }
}

export function useBranch(chatId: string | null) {
  const client = useQueryClient();
  return useQuery({
    queryKey: keys.branch(chatId ?? ""),
    enabled: chatId !== null,
    queryFn: async () => {
      const id = chatId ?? "";
      const fresh = await undisturbed(id, () => http.branch(id, PAGE));
      return withRefreshed(client.getQueryData<Branch>(keys.branch(id)), fresh);
    },
  });
}

/** Loads the messages above the oldest one on the page. */
export function useOlder(chatId: string | null) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (before: string) => http.branch(chatId ?? "", PAGE, before),
    onSuccess: (older) => {
      client.setQueryData<Branch>(keys.branch(chatId ?? ""), (branch) => withOlder(branch, older));
    },
  });
}

export function useUpdateChat() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: ({ id, ...change }: { id: string } & Parameters<typeof http.updateChat>[1]) =>
      http.updateChat(id, change),
    onSuccess: (chat, { active }) => {
      cache(client).chat(chat);
      return active ? client.invalidateQueries({ queryKey: keys.branch(chat.id) }) : undefined;
    },
  });
}

export function useDeleteChat() {
  const client = useQueryClient();
  return useMutation({
    mutationFn: http.deleteChat,
    onSuccess: (_, chatId) => cache(client).removeChat(chatId),
  });
}

/** The ways in which live news changes what is cached. */
export function cache(client: QueryClient) {
  const chats = (change: (pages: ChatPage[], q: string) => ChatPage[]) => {
    for (const [key, data] of client.getQueriesData<InfiniteData<ChatPage>>({ queryKey: keys.chats })) {
      if (data) client.setQueryData(key, { ...data, pages: change(data.pages, String(key[1] ?? "")) });
    }
  };
  return {
    signedIn(session: Session | null) {
      client.setQueryData(keys.session, session);
      if (session === null) {
        client.removeQueries({ queryKey: keys.chats });
        client.removeQueries({ queryKey: ["branch"] });
      }
    },
    session: () => client.getQueryData<Session | null>(keys.session),
    recheckSession: () => client.invalidateQueries({ queryKey: keys.session }),
    branch: (chatId: string) => client.getQueryData<Branch>(keys.branch(chatId)),
    chat(chat: Chat) {
      // Only the server knows whether a new chat fits a search: it joins the whole list alone.
      chats((pages, q) => withChat(pages, chat, q === ""));
      client.setQueryData<Branch>(keys.branch(chat.id), (branch) => branch && { ...branch, chat });
    },
    removeChat(chatId: string) {
      chats((pages) => withoutChat(pages, chatId));
      client.removeQueries({ queryKey: keys.branch(chatId) });
    },
    started(frame: StartedFrame) {
      bump(frame.chat.id);
      client.setQueryData<Branch>(keys.branch(frame.chat.id), (branch) => withStarted(branch, frame));
      chats((pages, q) => withChat(pages, frame.chat, q === ""));
    },
    settled(chatId: string, message: Message) {
      bump(chatId);
      client.setQueryData<Branch>(keys.branch(chatId), (branch) => withSettled(branch, message));
    },
    stale(chatId: string) {
      return client.invalidateQueries({ queryKey: keys.branch(chatId) });
    },
    allStale() {
      void client.invalidateQueries({ queryKey: keys.chats });
      void client.invalidateQueries({ queryKey: ["branch"] });
    },
  };
}
