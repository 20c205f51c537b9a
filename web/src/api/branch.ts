/**
 * How a chat's cached branch changes: pure functions on lists of messages.
 *
 * Not responsible for fetching. A branch is the path from some message to the newest leaf; older messages may
 * not be loaded yet.
 */
import type { Branch, Chat, ChatPage, Message, StartedFrame } from "./types";

/** The page asks for this many messages at a time: enough for several screens, little enough to open at once. */
export const PAGE = 60;

/** A generation began: what followed its parent leaves the branch, the question (if new) and the answer join. */
export function withStarted(branch: Branch | undefined, frame: StartedFrame): Branch {
  const joined = frame.user_message ? [frame.user_message, frame.message] : [frame.message];
  const parent = joined[0]?.parent_id ?? null;
  const known = branch?.messages ?? [];
  const known_ids = new Set(joined.map((message) => message.id));
  const cut = parent === null ? 0 : known.findIndex((message) => message.id === parent) + 1;
  const kept = known.slice(0, cut).filter((message) => !known_ids.has(message.id));
  return {
    chat: frame.chat,
    messages: [...kept, ...joined],
    more: parent === null ? false : (branch?.more ?? false),
  };
}

/** A message settled. Its siblings may have grown since it was sent: the longer list wins. */
export function withSettled(branch: Branch | undefined, settled: Message): Branch | undefined {
  if (!branch?.messages.some((message) => message.id === settled.id)) return branch;
  return {
    ...branch,
    messages: branch.messages.map((message) =>
      message.id !== settled.id
        ? message
        : {
            ...settled,
            siblings: settled.siblings.length < message.siblings.length ? message.siblings : settled.siblings,
          },
    ),
  };
}

/** The newest page came again: keep the older messages that were loaded above it. */
export function withRefreshed(old: Branch | undefined, fresh: Branch): Branch {
  const first = fresh.messages[0];
  if (!old || !first || !fresh.more) return fresh;
  const at = old.messages.findIndex((message) => message.id === first.id);
  if (at <= 0) return fresh;
  return { ...fresh, messages: [...old.messages.slice(0, at), ...fresh.messages], more: old.more };
}

/** An older page came. */
export function withOlder(branch: Branch | undefined, older: Branch): Branch | undefined {
  if (!branch) return branch;
  const have = new Set(branch.messages.map((message) => message.id));
  const fresh = older.messages.filter((message) => !have.has(message.id));
  return { ...branch, messages: [...fresh, ...branch.messages], more: older.more };
}

/** A chat was made or changed: it takes its place, newest first. */
export function withChat(pages: ChatPage[], chat: Chat, insert: boolean): ChatPage[] {
  const known = pages.some((page) => page.chats.some((one) => one.id === chat.id));
  if (!known && !insert) return pages;
  const rest = pages.map((page) => ({ ...page, chats: page.chats.filter((one) => one.id !== chat.id) }));
  const place = rest.findIndex((page) => page.chats.some((one) => one.updated_at <= chat.updated_at));
  const target = place === -1 ? rest.length - 1 : place;
  return rest.map((page, index) =>
    index === target
      ? { ...page, chats: [...page.chats, chat].sort((a, b) => b.updated_at - a.updated_at) }
      : page,
  );
}

export function withoutChat(pages: ChatPage[], chatId: string): ChatPage[] {
  return pages.map((page) => ({ ...page, chats: page.chats.filter((one) => one.id !== chatId) }));
}
