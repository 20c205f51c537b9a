/**
 * Draws what a model wrote. Tokens become React elements, never HTML: raw HTML in the text stays text, and the only
 * attribute that comes from the text is an address that passed `safeLink`.
 *
 * Settled blocks are memoised by their source, so that a long answer costs only its last block per flush.
 * marked + this file instead of react-markdown: a third of the bytes, a tenth of the time, nothing to sanitise.
 */
import type { Token, Tokens } from "marked";
import { Fragment, memo, type ReactNode, useMemo } from "react";
import { strings } from "../../strings";
import { Image } from "../../ui/icons";
import { CodeBlock } from "./CodeBlock";
import { decodeEntities } from "./entities";
import { Formula } from "./Formula";
import { isOpenFence, lex, type MathToken } from "./lex";
import { Scroller } from "./Scroller";
import { isInlineImage, safeLink } from "./urls";

export interface MarkdownProps {
  text: string;
  /** More will come. */
  streaming?: boolean;
}

export const Blocks = memo(function Blocks({ text, streaming = false }: MarkdownProps) {
  const blocks = useMemo(() => lex(text, streaming), [text, streaming]);
  return (
    <div className="prose-lamp">
      {blocks.map((token, index) => (
        // A text only grows: the place of a block is its identity.
        // biome-ignore lint/suspicious/noArrayIndexKey: blocks are appended, never moved
        <Block key={index} token={token} open={streaming && index === blocks.length - 1} />
      ))}
    </div>
  );
});

const Block = memo(
  function Block({ token, open }: { token: Token; open: boolean }) {
    return <>{block(token, open)}</>;
  },
  (before, after) => before.token.raw === after.token.raw && before.open === after.open,
);

function is<T extends Token>(token: Token, type: T["type"]): token is T {
  return token.type === type;
}

function block(token: Token, open: boolean): ReactNode {
  if (is<Tokens.Paragraph>(token, "paragraph")) return <p>{inline(token.tokens)}</p>;
  if (is<Tokens.Heading>(token, "heading")) {
    // One level for all: models skip levels, and a screen reader would hear gaps below this message's own h2.
    return <h3 className={`depth-${token.depth}`}>{inline(token.tokens)}</h3>;
  }
  if (is<Tokens.Code>(token, "code")) {
    return <CodeBlock code={token.text} language={token.lang} open={open && isOpenFence(token.raw)} />;
  }
  if (is<Tokens.List>(token, "list")) return list(token, open);
  if (is<Tokens.Table>(token, "table")) return table(token);
  if (is<Tokens.Blockquote>(token, "blockquote"))
    return <blockquote>{blocks(token.tokens, open)}</blockquote>;
  if (is<Tokens.Hr>(token, "hr")) return <hr />;
  if (is<MathToken>(token, "math")) return <Formula tex={token.text} display={token.display} />;
  if (is<Tokens.HTML>(token, "html")) return <p className="whitespace-pre-wrap">{token.text.trimEnd()}</p>;
  if (is<Tokens.Text>(token, "text")) return token.tokens ? inline(token.tokens) : decodeEntities(token.text);
  return token.raw;
}

function blocks(tokens: Token[] | undefined, open: boolean): ReactNode {
  return tokens?.map((token, index) => (
    // biome-ignore lint/suspicious/noArrayIndexKey: blocks are appended, never moved
    <Fragment key={index}>{block(token, open)}</Fragment>
  ));
}

function list(token: Tokens.List, open: boolean): ReactNode {
  const items = token.items.map((item, index) => {
    const last = open && index === token.items.length - 1;
    return (
      // biome-ignore lint/suspicious/noArrayIndexKey: items are appended, never moved
      <li key={index} className={item.task ? "task" : undefined}>
        {item.task && (
          <input
            type="checkbox"
            checked={item.checked ?? false}
            readOnly
            disabled
            aria-label={item.checked ? "done" : "to do"}
          />
        )}
        {blocks(
          item.tokens.filter((one) => one.type !== "checkbox"),
          last,
        )}
      </li>
    );
  });
  if (!token.ordered) return <ul>{items}</ul>;
  return <ol start={token.start === "" ? 1 : token.start}>{items}</ol>;
}

function table(token: Tokens.Table): ReactNode {
  const align = (cell: Tokens.TableCell) => (cell.align ? { textAlign: cell.align } : undefined);
  return (
    <Scroller label={strings.message.table} className="table-scroll">
      <table>
        <thead>
          <tr>
            {token.header.map((cell, index) =>
              cell.text === "" ? (
                // biome-ignore lint/suspicious/noArrayIndexKey: columns do not move
                <td key={index} />
              ) : (
                // biome-ignore lint/suspicious/noArrayIndexKey: columns do not move
                <th key={index} scope="col" style={align(cell)}>
                  {inline(cell.tokens)}
                </th>
              ),
            )}
          </tr>
        </thead>
        <tbody>
          {token.rows.map((row, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: rows are appended, never moved
            <tr key={at}>
              {row.map((cell, index) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: columns do not move
                <td key={index} style={align(cell)}>
                  {inline(cell.tokens)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroller>
  );
}

function inline(tokens: Token[] | undefined): ReactNode {
  // biome-ignore lint/suspicious/noArrayIndexKey: words are appended, never moved
  return tokens?.map((token, index) => <Fragment key={index}>{span(token)}</Fragment>);
}

function span(token: Token): ReactNode {
  if (is<Tokens.Text>(token, "text")) return token.tokens ? inline(token.tokens) : decodeEntities(token.text);
  if (is<Tokens.Escape>(token, "escape")) return token.text;
  if (is<Tokens.Strong>(token, "strong")) return <strong>{inline(token.tokens)}</strong>;
  if (is<Tokens.Em>(token, "em")) return <em>{inline(token.tokens)}</em>;
  if (is<Tokens.Del>(token, "del")) return <del>{inline(token.tokens)}</del>;
  if (is<Tokens.Codespan>(token, "codespan")) return <code>{token.text}</code>;
  if (is<Tokens.Br>(token, "br")) return <br />;
  if (is<Tokens.Link>(token, "link")) return link(token);
  if (is<Tokens.Image>(token, "image")) return image(token);
  if (is<MathToken>(token, "math")) return <Formula tex={token.text} display={token.display} />;
  // Models write <br> in tables; every other tag is shown as it was written.
  if (token.type === "html") return /^<br\s*\/?>$/i.test(token.raw.trim()) ? <br /> : token.raw;
  return token.raw;
}

function link(token: Tokens.Link): ReactNode {
  const href = safeLink(token.href);
  if (href === null) return inline(token.tokens);
  return (
    <a href={href} target="_blank" rel="noopener noreferrer nofollow" title={token.title ?? undefined}>
      {inline(token.tokens)}
    </a>
  );
}

/** An image from elsewhere would tell its server who reads: it is offered as a link, never loaded. */
function image(token: Tokens.Image): ReactNode {
  if (isInlineImage(token.href))
    return <img src={token.href} alt={token.text} className="my-2 max-w-full rounded-lg" />;
  const href = safeLink(token.href);
  const label = token.text || strings.message.imageBlocked;
  if (href === null) return label;
  return (
    <a
      href={href}
      target="_blank"
      rel="noopener noreferrer nofollow"
      title={`${strings.message.imageBlocked}: ${new URL(href).host}`}
      className="inline-flex items-center gap-1.5"
    >
      <Image size={15} />
      {label}
    </a>
  );
}
