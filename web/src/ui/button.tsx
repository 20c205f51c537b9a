/**
 * The two kinds of button there are. Touch targets are 44 px where a finger points.
 */
import type { ButtonHTMLAttributes, ReactNode, Ref } from "react";
import { cx } from "./cx";

type Native = ButtonHTMLAttributes<HTMLButtonElement> & { ref?: Ref<HTMLButtonElement> };

const tones = {
  primary: "bg-ink text-paper hover:opacity-90 disabled:opacity-40",
  plain: "border border-line bg-surface text-ink hover:bg-hover disabled:opacity-50",
  quiet: "text-muted hover:bg-hover hover:text-ink disabled:opacity-50",
  danger: "bg-danger text-paper hover:opacity-90",
} as const;

export function Button({
  tone = "plain",
  className,
  ...props
}: Native & { tone?: keyof typeof tones; children: ReactNode }) {
  return (
    <button
      type="button"
      className={cx(
        "inline-flex h-8 select-none items-center justify-center gap-1.5 rounded-lg px-3 text-[13px] font-medium",
        "transition-colors duration-100 touch:h-11 touch:px-4",
        tones[tone],
        className,
      )}
      {...props}
    />
  );
}

/** A square button with an icon; `label` is its name for everybody who does not see it. */
export function IconButton({ label, className, ...props }: Native & { label: string; children: ReactNode }) {
  return (
    <button
      type="button"
      aria-label={label}
      title={label}
      className={cx(
        "inline-flex size-8 shrink-0 select-none items-center justify-center rounded-lg text-muted",
        "transition-colors duration-100 hover:bg-hover hover:text-ink disabled:opacity-40",
        "disabled:hover:bg-transparent touch:size-11",
        className,
      )}
      {...props}
    />
  );
}
