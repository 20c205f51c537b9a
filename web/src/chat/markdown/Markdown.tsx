/**
 * A model's text: drawn by Blocks.tsx, which arrives beside the page's first script rather than inside it.
 *
 * Until it is there (a moment, once) the text is shown as it was written.
 */
import { type ComponentType, useEffect, useState } from "react";
import type { MarkdownProps } from "./Blocks";

let Ready: ComponentType<MarkdownProps> | null = null;
const coming = import("./Blocks").then(({ Blocks }) => {
  Ready = Blocks;
});

/** For tests, and for whoever must not begin before formatting is there. */
export const markdownReady = (): Promise<void> => coming;

export function Markdown(props: MarkdownProps) {
  const [Drawn, setDrawn] = useState<ComponentType<MarkdownProps> | null>(() => Ready);
  useEffect(() => {
    if (Drawn) return;
    let here = true;
    coming.then(
      () => here && setDrawn(() => Ready),
      // The script did not load: the plain text stays, which is readable.
      () => {},
    );
    return () => {
      here = false;
    };
  }, [Drawn]);
  return Drawn ? <Drawn {...props} /> : <p className="prose-lamp whitespace-pre-wrap">{props.text}</p>;
}
