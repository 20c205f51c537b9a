/**
 * A new chat: a greeting, the lamp of the chosen model, and three ways to begin.
 */
import { serverNow, useLive } from "../api/live";
import type { ModelStatus } from "../api/types";
import { describeModel, ticks } from "../models/describe";
import { Lamp } from "../models/Lamp";
import { strings } from "../strings";
import { useNow } from "../ui/hooks";

const t = strings.empty;

interface EmptyProps {
  model: ModelStatus | undefined;
  onPrompt: (text: string) => void;
}

function greeting(hour: number): string {
  if (hour < 5) return t.greeting.night;
  if (hour < 12) return t.greeting.morning;
  if (hour < 18) return t.greeting.afternoon;
  return t.greeting.evening;
}

export function Empty({ model, onPrompt }: EmptyProps) {
  return (
    <div className="min-h-0 flex-1 overflow-y-auto">
      <div className="mx-auto flex min-h-full w-full max-w-3xl flex-col justify-end gap-7 px-4 pb-6 sm:justify-center sm:pb-[6vh]">
        <div className="flex flex-col items-center gap-4 text-center">
          <Lamp state={model?.state ?? null} size={44} />
          <div>
            <h1 className="text-[26px] font-semibold tracking-[-0.022em]">
              {greeting(new Date().getHours())}
            </h1>
            <p className="mt-1 text-[15px] text-muted">{t.lead}</p>
          </div>
          {model && <ModelLine model={model} />}
        </div>
        <ul className="grid gap-2 sm:grid-cols-3">
          {t.prompts.map((prompt) => (
            <li key={prompt.title}>
              <button
                type="button"
                onClick={() => onPrompt(prompt.body)}
                className="h-full w-full rounded-xl border border-line px-4 py-3 text-left transition-colors hover:border-line-strong hover:bg-surface"
              >
                <span className="block text-sm font-medium">{prompt.title}</span>
                <span className="mt-0.5 line-clamp-2 text-[13px] leading-relaxed text-muted">
                  {prompt.body}
                </span>
              </button>
            </li>
          ))}
        </ul>
      </div>
    </div>
  );
}

function ModelLine({ model }: { model: ModelStatus }) {
  const skew = useLive((state) => state.skew);
  const now = serverNow(skew, useNow(1_000, ticks(model)));
  return (
    <p className="text-[13px] tabular-nums text-muted">
      <span className="font-medium text-ink">{model.name}</span>
      {" · "}
      {describeModel(model, now)}
      {model.state === "asleep" && `. ${strings.models.firstQuestion}`}
    </p>
  );
}
