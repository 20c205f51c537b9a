/**
 * A question: its text, its versions, and editing it into a new branch.
 */
import { type KeyboardEvent, memo, useLayoutEffect, useRef, useState } from "react";
import type { Message } from "../api/types";
import { strings } from "../strings";
import { Button, IconButton } from "../ui/button";
import { cx } from "../ui/cx";
import { Pencil } from "../ui/icons";
import { BranchNav, CopyButton } from "./ReplyFooter";

const t = strings.message;

interface UserRowProps {
  message: Message;
  onEdit: (message: Message, content: string) => void;
  onGo: (id: string) => void;
}

export const UserRow = memo(function UserRow({ message, onEdit, onGo }: UserRowProps) {
  const [editing, setEditing] = useState(false);
  return (
    <article className="row-lazy group/row pt-6 pb-1" data-id={message.id}>
      <h2 className="sr-only">{strings.chat.you}</h2>
      {editing ? (
        <Editor
          content={message.content}
          onCancel={() => setEditing(false)}
          onSend={(content) => {
            setEditing(false);
            onEdit(message, content);
          }}
        />
      ) : (
        <>
          <Bubble content={message.content} />
          <div className="mt-1 flex min-h-8 items-center justify-end">
            <span
              className={cx(
                "flex opacity-0 transition-opacity group-focus-within/row:opacity-100 group-hover/row:opacity-100",
                "touch:opacity-100",
              )}
            >
              <CopyButton text={message.content} />
              <IconButton label={t.edit} onClick={() => setEditing(true)}>
                <Pencil size={16} />
              </IconButton>
            </span>
            <BranchNav id={message.id} siblings={message.siblings} onGo={onGo} />
          </div>
        </>
      )}
    </article>
  );
});

export function Bubble({ content, faded = false }: { content: string; faded?: boolean }) {
  return (
    <div
      className={cx(
        "ml-auto w-fit max-w-[85%] rounded-[20px] rounded-br-md bg-hover/80 px-4 py-2.5 text-[15px] leading-relaxed",
        "whitespace-pre-wrap [overflow-wrap:anywhere] transition-opacity",
        faded && "opacity-60",
      )}
    >
      {content}
    </div>
  );
}

interface EditorProps {
  content: string;
  onSend: (content: string) => void;
  onCancel: () => void;
}

function Editor({ content, onSend, onCancel }: EditorProps) {
  const [text, setText] = useState(content);
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(content.length, content.length);
  }, [content]);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the height follows the text
  useLayoutEffect(() => {
    const box = area.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight, 320)}px`;
  }, [text]);
  const send = () => text.trim() !== "" && onSend(text.trim());
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      event.preventDefault();
      onCancel();
    } else if (event.key === "Enter" && !event.shiftKey && !event.nativeEvent.isComposing) {
      event.preventDefault();
      send();
    }
  };
  return (
    <div className="ml-auto w-full max-w-[92%] rounded-[20px] border border-line-strong bg-surface p-2">
      <textarea
        ref={area}
        value={text}
        aria-label={t.editLabel}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
        className="block w-full resize-none bg-transparent px-2 py-1.5 text-[15px] leading-relaxed outline-none max-sm:text-base"
      />
      <div className="mt-1 flex flex-wrap items-center justify-end gap-1.5">
        <span className="mr-auto pl-2 text-xs text-muted">{t.editHelp}</span>
        <Button tone="quiet" onClick={onCancel}>
          {t.editCancel}
        </Button>
        <Button tone="primary" onClick={send} disabled={text.trim() === ""}>
          {t.editSend}
        </Button>
      </div>
    </div>
  );
}
