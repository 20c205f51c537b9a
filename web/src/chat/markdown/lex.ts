/**
 * Text -> Markdown tokens, with formulas; pure.
 *
 * Not responsible for drawing (Markdown.tsx). While a text is still coming, half-typed syntax is closed first, so
 * that a word does not flicker between `**bo` and bold.
 */
import { Marked, type Token, type Tokens } from "marked";
import remend from "remend";

export interface MathToken extends Tokens.Generic {
  type: "math";
  text: string;
  display: boolean;
}

const BLOCK_MATH = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])(?:\n|$)/;
// A single dollar is a formula only when it hugs its content and no digit follows: "$5 and $6" is money.
const INLINE_MATH =
  /^(?:\$\$([^$\n]+?)\$\$|\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<![\s\\])\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\])/;

function math(raw: string, text: string, display: boolean): MathToken {
  return { type: "math", raw, text: text.trim(), display };
}

const marked = new Marked({ gfm: true, breaks: false });
marked.use({
  extensions: [
    {
      name: "math",
      level: "block",
      start: (source) => {
        const at = source.search(/(?:^|\n)(?:\$\$|\\\[)/);
        return at === -1 ? undefined : at;
      },
      tokenizer(source) {
        const match = BLOCK_MATH.exec(source);
        return match ? math(match[0], match[1] ?? match[2] ?? "", true) : undefined;
      },
    },
    {
      name: "math",
      level: "inline",
      start: (source) => {
        const at = source.search(/\$|\\[([]/);
        return at === -1 ? undefined : at;
      },
      tokenizer(source) {
        const match = INLINE_MATH.exec(source);
        if (!match) return undefined;
        const display = match[1] !== undefined || match[4] !== undefined;
        return math(match[0], match[1] ?? match[2] ?? match[3] ?? match[4] ?? "", display);
      },
    },
  ],
});

/** The blocks of a text. `streaming`: more will come, so heal what is half-typed. */
export function lex(text: string, streaming: boolean): Token[] {
  const source = streaming
    ? remend(text, { linkMode: "text-only", images: false, inlineKatex: false })
    : text;
  return marked.lexer(source).filter((token) => token.type !== "space" && token.type !== "def");
}

/** Whether a fenced block has not met its closing fence. */
export function isOpenFence(raw: string): boolean {
  const opening = /^ {0,3}(`{3,}|~{3,})/.exec(raw)?.[1];
  if (!opening) return false;
  const lines = raw.trimEnd().split("\n");
  if (lines.length < 2) return true;
  const last = lines.at(-1)?.trim() ?? "";
  return !(last.length >= opening.length && [...last].every((char) => char === opening[0]));
}
