/**
 * Something wider than the page, which scrolls by itself and can be reached and scrolled by keyboard.
 */
import type { ReactNode } from "react";

interface ScrollerProps {
  label: string;
  className: string;
  children: ReactNode;
}

export function Scroller({ label, className, children }: ScrollerProps) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for forms; a section would make every table a landmark
    <div
      role="group"
      aria-label={label}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: who has no mouse must be able to scroll it
      tabIndex={0}
      className={className}
    >
      {children}
    </div>
  );
}
