/**
 * A sentence of the server's in which `commands` stand between backticks, as on the command line.
 *
 * Not Markdown: nothing else is interpreted (that is chat/markdown).
 */
export function WithCode({ text }: { text: string }) {
  return text.split("`").map((part, index) =>
    index % 2 === 1 ? (
      // biome-ignore lint/suspicious/noArrayIndexKey: the parts of one sentence never move
      <code key={index} className="rounded bg-sunken px-1 py-0.5 font-mono text-[0.92em]">
        {part}
      </code>
    ) : (
      part
    ),
  );
}
