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
  return (
    <svg
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      aria-hidden="true"
      focusable="false"
      className={cx("overflow-visible", className)}
    >
      {lit && <circle cx="12" cy="13.500" r="10.500" className="fill-lamp opacity-20" />}
      {state === "waking" && (
        <circle cx="12" cy="13.500" r="10.500" className="animate-flame fill-lamp opacity-20" />
      )}
      <g
        stroke="currentColor"
        strokeWidth="1.600"
        strokeLinecap="round"
        strokeLinejoin="round"
        className={lit || state === "waking" ? "text-lamp-ink" : "text-faint"}
      >
        <path d="M12 2.800v1.800M8.800 7.800 10.100 4.800h3.800l1.300 3z" />
        <path d="M7.800 9.500h8.400L14.800 18.300H9.200zM8.500 20.800h7" />
      </g>
      {(lit || state === "waking") && (
        <path
          d="M12 10.900c1.300 1.400 1.900 2.300 1.900 3.200a1.900 1.900 0 0 1-3.800 0c0-.9.600-1.800 1.900-3.200z"
          className={cx("fill-lamp", state === "waking" && "animate-flame")}
        />
      )}
    </svg>
  );
}
