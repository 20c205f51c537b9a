/**
 * An answer in any of its lives: waiting for a wake, being written, settled, stopped, interrupted, failed.
 *
 * Only this row follows its generation in the live store, so that a token redraws one row of the page.
 */
import { memo } from "react";
import { modelNamed, useLive } from "../api/live";
import { type Generation, isWakingAgain } from "../api/reducer";
import type { Message, ModelStatus } from "../api/types";
import { useApp } from "../context";
import { strings } from "../strings";
import { Button, IconButton } from "../ui/button";
import { cx } from "../ui/cx";
import { Refresh } from "../ui/icons";
import { FailureCard } from "../wake/FailureCard";
import { WakeCard } from "../wake/WakeCard";
import { Markdown } from "./markdown/Markdown";
import { BranchNav, CopyButton, ReplyFacts } from "./ReplyFooter";

const t = strings.message;

interface AssistantRowProps {
  message: Message;
  /** The last row keeps its actions visible. */
  last: boolean;
  chatId: string;
  /** The model that a new answer would come from. */
  model: string | null;
  onGo: (id: string) => void;
}

export const AssistantRow = memo(function AssistantRow(props: AssistantRowProps) {
  const { last, chatId, model, onGo } = props;
  const { backend } = useApp();
  const generation = useLive((state) =>
    props.message.generation_id === null ? undefined : state.generations[props.message.generation_id],
  );
  // The settled message is known to the generation a moment before the cache has told this row.
  const message =
    props.message.status === "streaming" && generation?.message
      ? { ...generation.message, siblings: props.message.siblings }
      : props.message;
  const streaming = message.status === "streaming";
  const text = streaming ? (generation?.text ?? "") : message.content;
  const regenerate = model === null ? undefined : () => backend.regenerate(chatId, message.id, model);
  const resume = () => backend.continue(chatId, message.id);
  return (
    <article
      className={cx("group/row pt-1 pb-3", !last && "row-lazy")}
      data-id={message.id}
      aria-busy={streaming}
    >
      <h2 className="sr-only">{t.answeredBy(message.model ?? "")}</h2>
      {text !== "" && <Markdown text={text} streaming={streaming} />}
      {streaming && text !== "" && generation && isWakingAgain(generation) && (
        <div className="mt-3">
          <Waiting generation={generation} model={message.model} />
        </div>
      )}
      {streaming && text === "" && <Waiting generation={generation} model={message.model} />}
      {streaming && generation?.error && <FailureCard title={t.failed} error={generation.error} />}
      {!streaming && <Ending message={message} onRetry={regenerate} onContinue={resume} />}
      {(text !== "" || !streaming) && (
        <footer className="mt-2 flex min-h-8 flex-wrap items-center gap-x-2">
          {!streaming && (
            <span className="-ml-2 flex empty:hidden">
              <BranchNav id={message.id} siblings={message.siblings} onGo={onGo} />
            </span>
          )}
          <ReplyFacts
            model={message.model}
            usage={message.usage ?? generation?.usage ?? null}
            wokeIn={generation?.wokeIn ?? null}
            wakeCost={generation?.wakeCost ?? null}
          />
          {!streaming && (
            <span
              className={cx(
                "flex items-center transition-opacity touch:opacity-100",
                !last && "opacity-0 group-focus-within/row:opacity-100 group-hover/row:opacity-100",
              )}
            >
              {text !== "" && <CopyButton text={text} />}
              {regenerate && message.status !== "error" && (
                <IconButton label={t.regenerate} onClick={regenerate}>
                  <Refresh size={16} />
                </IconButton>
              )}
            </span>
          )}
        </footer>
      )}
    </article>
  );
});

/** Before the first word: the wake card while the model is not up, a quiet mark when it is. */
function Waiting({ generation, model }: { generation: Generation | undefined; model: string | null }) {
  const { backend, session } = useApp();
  const status = useLive((state) => modelNamed(state, model));
  const models = useLive((state) => state.models);
  if (!generation || !isWaking(generation, status)) return <Thinking thoughts={generation?.thinking} />;
  const name = model ?? generation.model;
  const meanwhile = status?.while_waking ?? null;
  const meanwhileThere = meanwhile !== null && (models?.some((one) => one.name === meanwhile) ?? false);
  return (
    <WakeCard
      model={name}
      wake={generation.wake ?? status?.wake ?? null}
      cost={generation.wake?.cost ?? status?.wake?.cost ?? null}
      quote={status?.quote ?? null}
      again={isWakingAgain(generation)}
      meanwhile={meanwhileThere ? meanwhile : null}
      admin={session.admin}
      cancelling={generation.stopping}
      onCancel={() => backend.stop(generation)}
      onMeanwhile={(other) => backend.answerMeanwhile(generation, other)}
    />
  );
}

/** The generation's own events say it best; before the first one, the model's state does. */
export function isWaking(generation: Generation, status: ModelStatus | undefined): boolean {
  if (generation.wokeIn !== null) return false;
  if (generation.wake !== null) return true;
  return status !== undefined && status.state !== "awake" && !status.always_on;
}

export function Thinking({ thoughts = "" }: { thoughts?: string | undefined }) {
  return (
    <div>
      <p className="flex h-8 items-center gap-1.5" role="status">
        <span className="sr-only">{t.thinking}</span>
        <span className="size-2.5 animate-caret rounded-full bg-lamp" />
      </p>
      {thoughts !== "" && (
        <details className="text-[13px] leading-relaxed text-muted">
          <summary className="w-fit cursor-pointer rounded-md py-1 hover:text-ink">{t.thoughts}</summary>
          <p className="mt-1 border-l-2 border-line pl-3 whitespace-pre-wrap [overflow-wrap:anywhere]">
            {thoughts}
          </p>
        </details>
      )}
    </div>
  );
}

interface EndingProps {
  message: Message;
  onRetry: (() => void) | undefined;
  onContinue: () => void;
}

/** How an answer ended when it did not simply end. */
function Ending({ message, onRetry, onContinue }: EndingProps) {
  const some = message.content !== "";
  if (message.status === "error") {
    const error = message.error ?? { code: "unknown", message: t.failed };
    const wake = error.code in strings.wake.reasons;
    const title = wake ? strings.wake.failedTitle(message.model ?? "") : t.failed;
    return (
      <div className={cx(some && "mt-3")}>
        <FailureCard title={title} error={error} onRetry={onRetry} />
      </div>
    );
  }
  if (message.status !== "cancelled" && message.status !== "interrupted") return null;
  const words = message.status === "interrupted" ? t.interrupted : some ? t.stopped : t.stoppedEmpty;
  return (
    <div className={cx("flex flex-wrap items-center gap-x-3 gap-y-1 text-[13px] text-muted", some && "mt-3")}>
      <span>{words}</span>
      {some ? (
        <Button onClick={onContinue}>{t.continue}</Button>
      ) : (
        onRetry && <Button onClick={onRetry}>{t.retry}</Button>
      )}
    </div>
  );
}
