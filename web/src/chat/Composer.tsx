/**
 * Where a person writes: Enter sends, Shift+Enter breaks the line, and it is never disabled while a model wakes.
 *
 * Not responsible for what sending means: while an answer is coming, the owner queues the message.
 */
import { type FormEvent, type KeyboardEvent, useEffect, useLayoutEffect, useRef } from "react";
import { drafts, useDrafts } from "../api/drafts";
import type { Queued } from "../api/live";
import { strings } from "../strings";
import { Button } from "../ui/button";
import { cx } from "../ui/cx";
import { ArrowUp, StopSquare } from "../ui/icons";

const t = strings.composer;
const MAX_HEIGHT = 240;

interface ComposerProps {
  view: string;
  isNew: boolean;
  model: string | null;
  /** The id of what is said about sending, if anything is. */
  describedBy?: string | undefined;
  /** An answer is being written (or waited for) in this chat. */
  busy: boolean;
  stopping: boolean;
  queued: Queued | null;
  onSend: (content: string) => void;
  onStop: () => void;
  onQueued: (queued: Queued | null) => void;
}

export function Composer(props: ComposerProps) {
  const { view, isNew, model, describedBy, busy, stopping, queued, onSend, onStop, onQueued } = props;
  const text = useDrafts((state) => state[view] ?? "");
  const area = useRef<HTMLTextAreaElement>(null);
  const ready = text.trim() !== "" && model !== null;
  const waiting = useRef(false);

  useEffect(() => {
    drafts.open(view, isNew);
    // A phone's keyboard would cover half of the page.
    if (!matchMedia("(pointer: coarse)").matches) area.current?.focus({ preventScroll: true });
  }, [view, isNew]);

  // biome-ignore lint/correctness/useExhaustiveDependencies: the height follows the text
  useLayoutEffect(() => {
    const box = area.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight, MAX_HEIGHT)}px`;
  }, [text]);

  const submit = (event?: FormEvent) => {
    event?.preventDefault();
    waiting.current = text.trim() !== "" && model === null;
    if (!ready) return;
    onSend(text.trim());
    drafts.write(view, "", isNew);
  };
  // Who is faster than the list of models has pressed Enter all the same: it is sent as soon as there is one to ask.
  // biome-ignore lint/correctness/useExhaustiveDependencies: only the arrival of the model sends
  useEffect(() => {
    if (waiting.current && model !== null) submit();
  }, [model]);
  const onKeyDown = (event: KeyboardEvent<HTMLTextAreaElement>) => {
    // While an input method composes a word, Enter belongs to it.
    if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    submit();
  };
  const takeBack = () => {
    if (queued) drafts.giveBack(view, queued.content);
    onQueued(null);
    area.current?.focus();
  };

  return (
    <form onSubmit={submit} className="mx-auto w-full max-w-3xl">
      {queued && <QueuedNote queued={queued} onEdit={takeBack} onDrop={() => onQueued(null)} />}
      <div
        className={cx(
          "flex items-end rounded-[24px] border border-line bg-surface shadow-composer transition-colors",
          "focus-within:border-line-strong",
        )}
      >
        <textarea
          ref={area}
          rows={1}
          value={text}
          aria-label={t.label}
          aria-describedby={describedBy}
          placeholder={t.placeholder(model)}
          onChange={(event) => {
            waiting.current = false;
            drafts.write(view, event.target.value, isNew);
          }}
          onKeyDown={onKeyDown}
          className={cx(
            "block min-w-0 flex-1 resize-none bg-transparent py-3.5 pl-5 touch:py-[18px] text-[15px] leading-6",
            "outline-none placeholder:text-muted max-sm:text-base",
          )}
        />
        <div className="flex items-center gap-1.5 p-2">
          {busy && (
            <button
              type="button"
              onClick={onStop}
              disabled={stopping}
              title={`${t.stop} (${t.stopHint})`}
              aria-label={stopping ? t.stopping : t.stop}
              className={cx(
                "flex size-9 items-center justify-center rounded-full border border-line-strong text-ink touch:size-11",
                "hover:bg-hover disabled:opacity-50",
              )}
            >
              <StopSquare size={18} />
            </button>
          )}
          {(!busy || ready) && (
            <button
              type="submit"
              disabled={!ready}
              title={t.send}
              aria-label={t.send}
              className={cx(
                "flex size-9 items-center justify-center rounded-full bg-ink text-paper transition-opacity touch:size-11",
                "hover:opacity-90 disabled:opacity-25",
              )}
            >
              <ArrowUp size={18} strokeWidth={2.1} />
            </button>
          )}
        </div>
      </div>
    </form>
  );
}

function QueuedNote({ queued, onEdit, onDrop }: { queued: Queued; onEdit: () => void; onDrop: () => void }) {
  return (
    <div className="mx-2 flex animate-appear items-center gap-2 rounded-t-xl border border-b-0 border-line bg-sunken py-1.5 pr-1.5 pl-3.5 text-[13px]">
      <div className="min-w-0 flex-1 truncate">
        <span className="text-muted">
          {t.next}
          <span className="max-sm:sr-only">{t.queued}</span>:{" "}
        </span>
        {queued.content.slice(0, 160)}
      </div>
      <Button tone="quiet" onClick={onEdit}>
        {t.editQueued}
      </Button>
      <Button tone="quiet" onClick={onDrop}>
        {t.dropQueued}
      </Button>
    </div>
  );
}
