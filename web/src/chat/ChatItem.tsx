/**
 * One chat in the list: opening, renaming in place, exporting, deleting.
 */
import { memo, useEffect, useRef, useState } from "react";
import { http } from "../api/http";
import { useUpdateChat } from "../api/queries";
import type { Chat } from "../api/types";
import { strings } from "../strings";
import { IconButton } from "../ui/button";
import { cx } from "../ui/cx";
import { Menu, MenuContent, MenuItem, MenuLine, MenuTrigger } from "../ui/dialog";
import { Dots, Download, Pencil, Trash } from "../ui/icons";

const t = strings.chats;

interface ChatItemProps {
  chat: Chat;
  current: boolean;
  /** An answer is being written in it. */
  writing: boolean;
  onOpen: (chatId: string) => void;
  onDelete: (chat: Chat) => void;
}

export const ChatItem = memo(function ChatItem({ chat, current, writing, onOpen, onDelete }: ChatItemProps) {
  const [renaming, setRenaming] = useState(false);
  const title = chat.title || t.untitled;
  if (renaming) {
    return (
      <li>
        <Rename chat={chat} onDone={() => setRenaming(false)} />
      </li>
    );
  }
  return (
    <li
      className={cx(
        "group/item flex items-center rounded-lg focus-within:bg-hover hover:bg-hover",
        current && "bg-hover",
      )}
    >
      <a
        href={`/c/${chat.id}`}
        aria-current={current ? "page" : undefined}
        onClick={(event) => {
          // Ctrl, Shift and the middle button keep their meaning: another tab, another window.
          if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
          event.preventDefault();
          onOpen(chat.id);
        }}
        className="flex h-9 min-w-0 flex-1 items-center gap-2 rounded-lg px-2 text-sm touch:h-11"
      >
        <span className={cx("truncate", current && "font-medium")}>{title}</span>
        {writing && (
          <span className="size-1.5 shrink-0 animate-caret rounded-full bg-lamp">
            <span className="sr-only">{t.writing}</span>
          </span>
        )}
      </a>
      <Menu>
        <MenuTrigger asChild>
          <IconButton
            label={t.actions(title)}
            className={cx(
              // No width until wanted, so that the title has it; still there for the Tab key.
              "h-7 w-0 overflow-hidden focus-visible:w-7 group-focus-within/item:w-7 group-hover/item:w-7",
              "data-[state=open]:w-7 touch:h-11 touch:w-11",
            )}
          >
            <Dots size={16} />
          </IconButton>
        </MenuTrigger>
        <MenuContent align="start">
          <MenuItem onSelect={() => setRenaming(true)}>
            <Pencil size={16} />
            {t.rename}
          </MenuItem>
          <MenuItem href={http.exportUrl(chat.id, "markdown")}>
            <Download size={16} />
            {t.exportMarkdown}
          </MenuItem>
          <MenuItem href={http.exportUrl(chat.id, "json")}>
            <Download size={16} />
            {t.exportJson}
          </MenuItem>
          <MenuLine />
          <MenuItem danger onSelect={() => onDelete(chat)}>
            <Trash size={16} />
            {t.delete}
          </MenuItem>
        </MenuContent>
      </Menu>
    </li>
  );
});

function Rename({ chat, onDone }: { chat: Chat; onDone: () => void }) {
  const update = useUpdateChat();
  const [title, setTitle] = useState(chat.title);
  const box = useRef<HTMLInputElement>(null);
  const finished = useRef(false);
  useEffect(() => {
    // After the menu has given the focus back, or it would take it away again.
    const timer = setTimeout(() => box.current?.select(), 30);
    return () => clearTimeout(timer);
  }, []);
  const finish = (save: boolean) => {
    if (finished.current) return;
    finished.current = true;
    const next = title.trim();
    if (save && next !== "" && next !== chat.title) update.mutate({ id: chat.id, title: next });
    onDone();
  };
  return (
    <input
      ref={box}
      value={title}
      maxLength={200}
      aria-label={t.renameLabel}
      onChange={(event) => setTitle(event.target.value)}
      onBlur={() => document.activeElement !== box.current && finish(true)}
      onKeyDown={(event) => {
        if (event.key === "Enter") finish(true);
        if (event.key === "Escape") {
          event.preventDefault();
          event.stopPropagation();
          finish(false);
        }
      }}
      className="h-9 w-full rounded-lg border border-line-strong bg-surface px-2 text-sm touch:h-11 max-sm:text-base"
    />
  );
}
