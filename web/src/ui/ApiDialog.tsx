/**
 * How to use this Lamplighter from a program: base URL, key, and a snippet that works as pasted.
 */
import { useMutation } from "@tanstack/react-query";
import { type KeyboardEvent, useId, useState } from "react";
import { http } from "../api/http";
import { useApp } from "../context";
import { strings } from "../strings";
import { Button } from "./button";
import { cx } from "./cx";
import { Dialog } from "./dialog";
import { useCopy } from "./hooks";
import { Check, Copy } from "./icons";

const t = strings.api;
type Kind = keyof typeof t.tabs;
const KINDS: Kind[] = ["curl", "python"];

export function snippet(kind: Kind, origin: string, model: string, key: string): string {
  if (kind === "curl") {
    const body = [
      "{",
      `    "model": ${JSON.stringify(model)},`,
      '    "messages": [{"role": "user", "content": "Hello"}],',
      '    "stream": true',
      "  }",
    ].join("\n");
    return [
      `curl -N ${origin}/v1/chat/completions \\`,
      `  -H "Authorization: Bearer ${key}" \\`,
      '  -H "Content-Type: application/json" \\',
      // A quote inside single quotes ends them in a shell.
      `  -d '${body.replaceAll("'", "'\\''")}'`,
    ].join("\n");
  }
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key="${key}")`,
    "stream = client.chat.completions.create(",
    `    model=${JSON.stringify(model)},`,
    '    messages=[{"role": "user", "content": "Hello"}],',
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
  ].join("\n");
}

interface ApiDialogProps {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  model: string | null;
}

export function ApiDialog({ open, onOpenChange, model }: ApiDialogProps) {
  return (
    <Dialog open={open} onOpenChange={onOpenChange} title={t.title} description={t.lead} wide>
      <Body model={model ?? "model"} />
    </Dialog>
  );
}

function Body({ model }: { model: string }) {
  const { session } = useApp();
  const [kind, setKind] = useState<Kind>("curl");
  const panel = useId();
  const create = useMutation({ mutationFn: () => http.createKey(t.keyName, session.principal.name) });
  const code = snippet(kind, location.origin, model, create.data?.key ?? "lk-...");
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = KINDS[(KINDS.indexOf(kind) + 1) % KINDS.length];
    if (!next) return;
    setKind(next);
    document.getElementById(`${panel}-${next}`)?.focus();
  };
  return (
    <>
      <dl className="grid grid-cols-[auto_1fr] items-baseline gap-x-4 gap-y-2 text-sm">
        <dt className="text-muted">{t.baseUrl}</dt>
        <dd className="font-mono text-[13px] [overflow-wrap:anywhere]">{location.origin}/v1</dd>
        <dt className="text-muted">{t.key}</dt>
        <dd className="min-w-0">
          {create.data ? (
            <NewKey value={create.data.key} />
          ) : session.admin ? (
            <Button onClick={() => create.mutate()} disabled={create.isPending}>
              {create.isPending ? t.creating : t.createKey}
            </Button>
          ) : (
            <span className="text-[13px] leading-relaxed text-muted">
              <code className="font-mono text-ink">lamplighter keys create my-app</code> {t.keyHelp}
            </span>
          )}
          {create.error && (
            <p role="alert" className="mt-1 text-[13px] text-danger">
              {create.error.message}
            </p>
          )}
        </dd>
      </dl>
      <div className="overflow-hidden rounded-xl border border-line">
        <div className="flex items-center border-b border-line bg-sunken/60 pr-1 pl-1.5">
          <div role="tablist" aria-label={t.title} onKeyDown={onKeyDown} className="flex flex-1">
            {KINDS.map((name) => (
              <button
                key={name}
                id={`${panel}-${name}`}
                type="button"
                role="tab"
                aria-selected={kind === name}
                aria-controls={panel}
                tabIndex={kind === name ? 0 : -1}
                onClick={() => setKind(name)}
                className={cx(
                  "h-9 rounded-md px-2.5 text-[13px] touch:h-11",
                  kind === name ? "font-medium text-ink" : "text-muted hover:text-ink",
                )}
              >
                {t.tabs[name]}
              </button>
            ))}
          </div>
          <CopyCode code={code} />
        </div>
        <pre
          id={panel}
          role="tabpanel"
          // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must be reachable by keyboard
          tabIndex={0}
          aria-labelledby={`${panel}-${kind}`}
          className="max-h-72 overflow-auto px-4 py-3 font-mono text-[12.5px] leading-[1.65]"
        >
          {code}
        </pre>
      </div>
      <p className="text-[13px] leading-relaxed text-muted">{t.sleeping}</p>
    </>
  );
}

function CopyCode({ code }: { code: string }) {
  const { copied, copy } = useCopy();
  return (
    <Button tone="quiet" onClick={() => copy(code)} className="h-7 px-2 text-xs">
      {copied ? <Check size={14} /> : <Copy size={14} />}
      {copied ? t.copied : t.copy}
    </Button>
  );
}

function NewKey({ value }: { value: string }) {
  const { copied, copy } = useCopy();
  return (
    <>
      <span className="flex flex-wrap items-center gap-2">
        <code className="font-mono text-[13px] [overflow-wrap:anywhere]">{value}</code>
        <Button onClick={() => copy(value)} className="h-7 px-2 text-xs">
          {copied ? <Check size={14} /> : <Copy size={14} />}
          {copied ? t.copied : t.copy}
        </Button>
      </span>
      <span className="mt-1 block text-[13px] text-lamp-ink">{t.keyOnce}</span>
    </>
  );
}
