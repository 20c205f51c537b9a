/**
 * Under each answer: who answered, what it took, and what can be done with it.
 */
import type { Amount, Usage } from "../api/types";
import { strings } from "../strings";
import { IconButton } from "../ui/button";
import { count, duration, money, rate } from "../ui/format";
import { useCopy } from "../ui/hooks";
import { Check, ChevronLeft, ChevronRight, Copy } from "../ui/icons";

const t = strings.message;

interface FactsProps {
  model: string | null;
  usage: Usage | null;
  /** Seconds of the wake that came before, if any. */
  wokeIn: number | null;
  /** What its machine had cost when it was up. */
  wakeCost: Amount | null;
}

export function ReplyFacts({ model, usage, wokeIn, wakeCost }: FactsProps) {
  const woke = usage?.wake_seconds ?? wokeIn;
  const cost = usage?.wake_cost ?? wakeCost;
  const facts = [
    model,
    usage?.completion_tokens != null
      ? t.tokens(count(usage.completion_tokens), usage.completion_tokens)
      : null,
    usage?.tokens_per_second != null ? t.rate(rate(usage.tokens_per_second)) : null,
    woke === null
      ? null
      : cost === null
        ? t.wokeIn(duration(woke))
        : t.wokeFor(duration(woke), money(cost.amount, cost.currency)),
  ].filter((fact): fact is string => fact !== null && fact !== "");
  const more = [
    usage?.prompt_tokens != null ? t.promptTokens(count(usage.prompt_tokens)) : null,
    usage?.ttft != null ? t.ttft(duration(usage.ttft)) : null,
  ].filter(Boolean);
  return (
    <span title={more.join(" · ") || undefined} className="min-w-0 text-xs text-muted">
      {facts.join(" · ")}
    </span>
  );
}

export function CopyButton({ text }: { text: string }) {
  const { copied, copy } = useCopy();
  return (
    <IconButton label={copied ? t.copied : t.copy} onClick={() => copy(text)}>
      {copied ? <Check size={16} /> : <Copy size={16} />}
    </IconButton>
  );
}

interface BranchNavProps {
  id: string;
  siblings: string[];
  onGo: (id: string) => void;
  disabled?: boolean;
}

/** `< 2 / 3 >`: the versions of a question or of an answer. */
export function BranchNav({ id, siblings, onGo, disabled = false }: BranchNavProps) {
  const at = siblings.indexOf(id);
  if (siblings.length < 2 || at === -1) return null;
  const previous = siblings[at - 1];
  const next = siblings[at + 1];
  return (
    <span className="flex items-center text-muted">
      <IconButton
        label={t.previous}
        disabled={disabled || previous === undefined}
        onClick={() => previous !== undefined && onGo(previous)}
      >
        <ChevronLeft size={16} />
      </IconButton>
      <span className="min-w-8 text-center text-xs tabular-nums">
        <span aria-hidden="true">{t.position(at + 1, siblings.length)}</span>
        <span className="sr-only">{t.positionLabel(at + 1, siblings.length)}</span>
      </span>
      <IconButton
        label={t.next}
        disabled={disabled || next === undefined}
        onClick={() => next !== undefined && onGo(next)}
      >
        <ChevronRight size={16} />
      </IconButton>
    </span>
  );
}
