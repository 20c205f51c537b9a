/**
 * The lamp: lit when a model is awake, glowing up while it wakes, a moon when it sleeps.
 *
 * Decoration; the state is always said in words beside it.
 */
import type { ModelState } from "../api/types";
import { cx } from "../ui/cx";
import { Alert, Moon } from "../ui/icons";

interface LampProps {
  state: ModelState | null;
  size?: number;
  className?: string;
}

export function Lamp({ state, size = 18, className }: LampProps) {
  if (state === "asleep") return <Moon size={size} className={cx("text-faint", className)} />;
  if (state === "failed") return <Alert size={size} className={cx("text-danger", className)} />;
  const lit = state === "awake" || state === "draining";
  const waking = state === "waking";
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      aria-hidden="true"
      focusable="false"
      className={cx("overflow-visible", lit && "lamp-glow", className)}
    >
      {(lit || waking) && (
        <path
          d="M6.900 9.300h10.200l-1.700 9.200H8.600z"
          className={cx("fill-lamp", waking && "lamp-glow animate-flame")}
        />
      )}
      <g
        stroke="currentColor"
        strokeWidth={size > 30 ? 1.25 : 1.5}
        strokeLinecap="round"
        strokeLinejoin="round"
        className={lit || waking ? "text-lamp-ink" : "text-faint"}
      >
        <path d="M12 2.600v1.700M8.300 7.300 9.900 4.300h4.200l1.600 3z" />
        <path d="M6.900 9.300h10.200l-1.700 9.200H8.600zM7.500 21.300h9" />
      </g>
      {lit && size > 30 && (
        <path
          d="M12 10.800c1.600 1.700 2.200 2.800 2.200 3.900a2.200 2.200 0 0 1-4.400 0c0-1.100.6-2.200 2.200-3.900z"
          className="fill-white/85"
        />
      )}
    </svg>
  );
}
