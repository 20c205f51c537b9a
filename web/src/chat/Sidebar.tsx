/**
 * The list of chats: newest first, by day, searchable; and the page's own settings at its foot.
 *
 * Not responsible for being a column or a drawer: the owner decides by the width of the screen.
 */
import { useDeferredValue, useEffect, useMemo, useRef, useState } from "react";
import { useShallow } from "zustand/react/shallow";
import { useLive } from "../api/live";
import { useChats, useDeleteChat } from "../api/queries";
import { isLive } from "../api/reducer";
import type { Chat } from "../api/types";
import { strings } from "../strings";
import { Button, IconButton } from "../ui/button";
import { Dialog } from "../ui/dialog";
import { dayGroup } from "../ui/format";
import { Close, Compose, Search, Sidebar as SidebarIcon } from "../ui/icons";
import { ChatItem } from "./ChatItem";
import { SettingsMenu } from "./SettingsMenu";

const t = strings.chats;

interface SidebarProps {
  current: string | null;
  onOpen: (chatId: string) => void;
  onNew: () => void;
  onClose: () => void;
  onDeleted: (chatId: string) => void;
  onApi: () => void;
  onSignOut: () => void;
}

export function Sidebar({ current, onOpen, onNew, onClose, onDeleted, onApi, onSignOut }: SidebarProps) {
  const [search, setSearch] = useState("");
  const q = useSettled(search.trim(), 200);
  const chats = useChats(q);
  const live = useLive(
    useShallow((state) =>
      Object.values(state.generations)
        .filter(isLive)
        .map((one) => one.chatId),
    ),
  );
  const [doomed, setDoomed] = useState<Chat | null>(null);
  const remove = useDeleteChat();
  const groups = useMemo(() => grouped(chats.data?.pages.flatMap((page) => page.chats) ?? []), [chats.data]);
  return (
    <nav aria-label={t.title} className="flex h-full flex-col">
      <div className="flex h-13 shrink-0 items-center gap-1 pr-2 pl-4 touch:h-14">
        <span className="flex-1 text-[15px] font-semibold tracking-[-0.015em]">{strings.app.name}</span>
        <IconButton label={t.close} onClick={onClose}>
          <SidebarIcon />
        </IconButton>
      </div>
      <div className="flex flex-col gap-1 px-2 pb-2">
        <button
          type="button"
          onClick={onNew}
          title={`${t.new} (${t.newHint})`}
          className="flex h-9 items-center gap-2.5 rounded-lg px-2 text-sm font-medium hover:bg-hover touch:h-11"
        >
          <Compose className="text-muted" />
          {t.new}
        </button>
        <SearchBox value={search} onChange={setSearch} />
      </div>
      <div className="min-h-0 flex-1 overflow-y-auto px-2 pb-3">
        {chats.isError && !chats.data ? (
          <div className="flex flex-col items-start gap-2 px-2 py-3 text-[13px] text-muted">
            {t.failed}
            <Button onClick={() => void chats.refetch()}>{t.retry}</Button>
          </div>
        ) : groups.length === 0 && !chats.isPending ? (
          <p className="px-2 py-3 text-[13px] leading-relaxed text-muted">{q ? t.none(q) : t.empty}</p>
        ) : (
          groups.map(([day, list]) => (
            <section key={day} aria-label={day} className="pt-3">
              <h2 className="px-2 pb-1 text-xs font-medium text-muted">{day}</h2>
              <ul>
                {list.map((chat) => (
                  <ChatItem
                    key={chat.id}
                    chat={chat}
                    current={chat.id === current}
                    writing={live.includes(chat.id)}
                    onOpen={onOpen}
                    onDelete={setDoomed}
                  />
                ))}
              </ul>
            </section>
          ))
        )}
        {chats.hasNextPage && (
          <Button
            tone="quiet"
            className="mt-2 w-full"
            disabled={chats.isFetchingNextPage}
            onClick={() => void chats.fetchNextPage()}
          >
            {t.more}
          </Button>
        )}
      </div>
      <div className="shrink-0 border-t border-line px-2 pt-2 pb-[max(0.5rem,env(safe-area-inset-bottom))]">
        <SettingsMenu onApi={onApi} onSignOut={onSignOut} />
      </div>
      <Dialog
        open={doomed !== null}
        onOpenChange={(open) => !open && setDoomed(null)}
        title={t.deleteTitle}
        description={doomed ? t.deleteBody(doomed.title || t.untitled) : undefined}
      >
        {remove.error && (
          <p role="alert" className="text-sm text-danger">
            {remove.error.message}
          </p>
        )}
        <div className="flex justify-end gap-2">
          <Button tone="quiet" onClick={() => setDoomed(null)}>
            {t.cancel}
          </Button>
          <Button
            tone="danger"
            disabled={remove.isPending}
            onClick={() =>
              doomed &&
              remove.mutate(doomed.id, {
                onSuccess: () => {
                  setDoomed(null);
                  onDeleted(doomed.id);
                },
              })
            }
          >
            {t.delete}
          </Button>
        </div>
      </Dialog>
    </nav>
  );
}

function grouped(chats: Chat[]): [string, Chat[]][] {
  const now = Date.now();
  const groups = new Map<string, Chat[]>();
  for (const chat of chats) {
    const day = dayGroup(chat.updated_at, now);
    groups.set(day, [...(groups.get(day) ?? []), chat]);
  }
  return [...groups];
}

/** The value after it stopped changing for a moment. */
function useSettled(value: string, afterMs: number): string {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), afterMs);
    return () => clearTimeout(timer);
  }, [value, afterMs]);
  return useDeferredValue(settled);
}

function SearchBox({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: globalThis.KeyboardEvent) => {
      if (!(event.ctrlKey || event.metaKey) || event.shiftKey || event.key.toLowerCase() !== "k") return;
      event.preventDefault();
      box.current?.focus();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  return (
    <div className="relative">
      <Search
        size={16}
        className="pointer-events-none absolute top-1/2 left-2.5 -translate-y-1/2 text-muted"
      />
      <input
        ref={box}
        type="search"
        value={value}
        aria-label={t.search}
        placeholder={t.search}
        onChange={(event) => onChange(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Escape" || value === "") return;
          event.preventDefault();
          event.stopPropagation();
          onChange("");
        }}
        className="h-9 w-full rounded-lg bg-transparent pr-8 pl-9 text-sm placeholder:text-muted hover:bg-hover focus:bg-surface touch:h-11 max-sm:text-base [&::-webkit-search-cancel-button]:hidden"
      />
      {value !== "" && (
        <IconButton
          label={t.clearSearch}
          onClick={() => onChange("")}
          className="absolute top-1/2 right-1 size-7 -translate-y-1/2"
        >
          <Close size={15} />
        </IconButton>
      )}
    </div>
  );
}
