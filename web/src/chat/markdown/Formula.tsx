/**
 * A formula as MathML, which browsers draw themselves: no fonts and no styles to ship. KaTeX is loaded on first use.
 */
import { memo, useEffect, useState } from "react";

type Render = (tex: string, display: boolean) => string;
let loaded: Render | null = null;
let loading: Promise<Render> | null = null;

function load(): Promise<Render> {
  loading ??= import("katex").then(({ default: katex }) => {
    loaded = (tex, display) =>
      katex.renderToString(tex, {
        displayMode: display,
        output: "mathml",
        throwOnError: false,
        trust: false,
        maxExpand: 200,
        maxSize: 20,
      });
    return loaded;
  });
  return loading;
}

export const Formula = memo(function Formula({ tex, display }: { tex: string; display: boolean }) {
  const [render, setRender] = useState<Render | null>(() => loaded);
  useEffect(() => {
    if (render) return;
    let here = true;
    load().then(
      (ready) => here && setRender(() => ready),
      // Offline before the first formula: its source stays readable.
      () => {},
    );
    return () => {
      here = false;
    };
  }, [render]);
  if (!render) return <code>{tex}</code>;
  return (
    <span
      className={display ? "block" : undefined}
      // biome-ignore lint/security/noDangerouslySetInnerHtml: KaTeX's own output from escaped TeX, `trust` off
      dangerouslySetInnerHTML={{ __html: render(tex, display) }}
    />
  );
});
