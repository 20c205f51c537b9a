/**
 * A block of code: plain while its fence is open, coloured once when it closes, with a button that copies it.
 */
import { memo, useEffect, useState } from "react";
import { strings } from "../../strings";
import { useCopy } from "../../ui/hooks";
import { Check, Copy } from "../../ui/icons";
import type { Line } from "./highlight";
import { Scroller } from "./Scroller";

interface CodeBlockProps {
  code: string;
  language: string | undefined;
  /** The closing fence has not come yet. */
  open: boolean;
}

/** Beyond this a browser is busier colouring than a person is helped by colour. */
const MAX_COLOURED = 60_000;

export const CodeBlock = memo(function CodeBlock({ code, language, open }: CodeBlockProps) {
  const { copied, copy } = useCopy();
  const name =
    language
      ?.trim()
      .split(/[\s{:,]/)[0]
      ?.toLowerCase() || "";
  const lines = useHighlight(code, name, !open && code.length <= MAX_COLOURED);
  return (
    <figure className="group/code overflow-hidden rounded-xl border border-line bg-surface">
      <figcaption className="flex h-9 items-center justify-between border-b border-line pr-1 pl-4 text-xs text-muted touch:h-11">
        <span className="font-mono">{name || strings.code.plain}</span>
        <button
          type="button"
          onClick={() => copy(code)}
          className="flex h-7 items-center gap-1.5 rounded-md px-2 hover:bg-hover hover:text-ink touch:h-11 touch:px-3"
        >
          {copied ? <Check size={14} /> : <Copy size={14} />}
          {copied ? strings.code.copied : strings.code.copy}
        </button>
      </figcaption>
      <Scroller
        label={strings.code.label(name || strings.code.plain)}
        className="overflow-x-auto px-4 py-3 font-mono text-[13px] leading-[1.65]"
      >
        <pre>
          <code>{lines ? lines.map(coloured) : code}</code>
        </pre>
      </Scroller>
    </figure>
  );
});

function coloured(line: Line, index: number) {
  return (
    <span key={index}>
      {index > 0 && "\n"}
      {line.map((token, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: a finished listing does not change
        <span key={at} className="shiki-token" style={token.style}>
          {token.text}
        </span>
      ))}
    </span>
  );
}

function useHighlight(code: string, language: string, wanted: boolean): Line[] | null {
  const [done, setDone] = useState<{ code: string; lines: Line[] } | null>(null);
  useEffect(() => {
    if (!wanted || language === "") return;
    let here = true;
    import("./highlight")
      .then(({ highlight }) => highlight(code, language))
      .then(
        (lines) => here && lines && setDone({ code, lines }),
        // The highlighter did not load (offline): plain code reads well enough.
        () => {},
      );
    return () => {
      here = false;
    };
  }, [code, language, wanted]);
  return done?.code === code ? done.lines : null;
}
