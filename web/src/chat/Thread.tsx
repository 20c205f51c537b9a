/**
 * The conversation: its messages, what was asked and not answered yet, and the place where one reads.
 *
 * Not responsible for single rows (UserRow, AssistantRow) nor for writing (Composer).
 */
import { useEffect, useMemo, useRef } from "react";
import type { Pending } from "../api/live";
import type { Branch, Message } from "../api/types";
import { strings } from "../strings";
import { Button } from "../ui/button";
import { cx } from "../ui/cx";
import { ArrowDown } from "../ui/icons";
import { FailureCard } from "../wake/FailureCard";
import { AssistantRow, Thinking } from "./AssistantRow";
import { Bubble, UserRow } from "./UserRow";
import { useStick } from "./useStick";

const t = strings.chat;

interface ThreadProps {
  chatId: string | null;
  branch: Branch | undefined;
  pending: Pending[];
  model: string | null;
  offline: boolean;
  loadingOlder: boolean;
  onOlder: (before: string) => void;
  onEdit: (message: Message, content: string) => void;
  onGo: (id: string) => void;
  onRetry: (clientRequestId: string) => void;
  onDiscard: (pending: Pending) => void;
}

export function Thread(props: ThreadProps) {
  const { chatId, branch, pending, model, offline, loadingOlder, onOlder, onEdit, onGo, onRetry, onDiscard } =
    props;
  const messages = useMemo(() => shown(branch?.messages ?? [], pending), [branch, pending]);
  const first = branch?.messages[0]?.id;
  const asked = pending.at(-1)?.request.client_request_id;
  const { scroller, content, stuck, toEnd } = useStick(`${chatId}:${branch === undefined}`, first);

  // Asking means wanting to see the answer.
  useEffect(() => {
    if (asked !== undefined) toEnd();
  }, [asked, toEnd]);

  return (
    <div className="relative min-h-0 flex-1">
      <div
        ref={scroller}
        className="h-full overflow-y-auto overscroll-contain [scrollbar-gutter:stable_both-edges]"
      >
        <div ref={content} className="mx-auto w-full max-w-3xl px-4 pb-6">
          {branch?.more && first !== undefined && (
            <OlderSentinel key={first} onSeen={() => onOlder(first)} busy={loadingOlder} />
          )}
          {messages.map((message, index) =>
            message.role === "user" ? (
              <UserRow key={message.id} message={message} onEdit={onEdit} onGo={onGo} />
            ) : (
              <AssistantRow
                key={message.id}
                message={message}
                last={index === messages.length - 1}
                chatId={chatId ?? ""}
                model={model}
                onGo={onGo}
              />
            ),
          )}
          {pending.map((one) => (
            <PendingRow
              key={one.request.client_request_id}
              pending={one}
              offline={offline}
              onRetry={() => onRetry(one.request.client_request_id)}
              onDiscard={() => onDiscard(one)}
            />
          ))}
        </div>
      </div>
      {!stuck && (
        <button
          type="button"
          onClick={() => toEnd(true)}
          aria-label={t.toBottom}
          title={t.toBottom}
          className={cx(
            "absolute bottom-3 left-1/2 flex size-9 -translate-x-1/2 animate-fade items-center justify-center touch:size-11",
            "rounded-full border border-line bg-surface text-muted shadow-pop hover:text-ink",
          )}
        >
          <ArrowDown size={17} />
        </button>
      )}
    </div>
  );
}

/** What stays visible while something was asked: an edit or a new answer leaves its branch at once. */
export function shown(messages: Message[], pending: Pending[]): Message[] {
  let list = messages;
  for (const { request } of pending) {
    if (request.type === "start") {
      const at = list.findIndex((message) => message.id === request.parent_id);
      if (request.parent_id === null) list = [];
      else if (at !== -1) list = list.slice(0, at + 1);
    } else {
      const at = list.findIndex((message) => message.id === request.message_id);
      if (at !== -1) list = list.slice(0, at);
    }
  }
  return list;
}

/** Near the top of what is loaded: asks for what came before. */
function OlderSentinel({ onSeen, busy }: { onSeen: () => void; busy: boolean }) {
  const mark = useRef<HTMLParagraphElement>(null);
  const seen = useRef(onSeen);
  seen.current = onSeen;
  useEffect(() => {
    if (!mark.current) return;
    const observer = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && seen.current(),
      { rootMargin: "800px 0px 0px 0px" },
    );
    observer.observe(mark.current);
    return () => observer.disconnect();
  }, []);
  return (
    <p ref={mark} className="h-10 pt-3 text-center text-xs text-muted">
      {busy && t.older}
    </p>
  );
}

interface PendingRowProps {
  pending: Pending;
  offline: boolean;
  onRetry: () => void;
  onDiscard: () => void;
}

/** Asked, and not taken up by the server yet. */
function PendingRow({ pending, offline, onRetry, onDiscard }: PendingRowProps) {
  const { request, error } = pending;
  return (
    <div className="pt-6 pb-3">
      {request.type === "start" && <Bubble content={request.content} faded={error !== null} />}
      <div className="mt-3">
        {error ? (
          <FailureCard title={strings.message.notSent} error={error} onRetry={onRetry}>
            <Button tone="quiet" onClick={onDiscard}>
              {request.type === "start" ? strings.message.edit : strings.chats.cancel}
            </Button>
          </FailureCard>
        ) : offline ? (
          <p className="text-right text-[13px] text-muted">{strings.composer.offline}</p>
        ) : (
          <Thinking />
        )}
      </div>
    </div>
  );
}
