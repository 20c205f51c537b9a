/**
 * What went wrong, in the server's words, what can be done about it, and a way to try again.
 *
 * Used for a wake that failed, an answer that broke and a question that was refused.
 */
import type { ReactNode } from "react";
import type { ApiError } from "../api/types";
import { strings } from "../strings";
import { Button } from "../ui/button";
import { Alert, Refresh } from "../ui/icons";
import { WithCode } from "../ui/WithCode";

interface FailureCardProps {
  title: string;
  error: ApiError;
  onRetry?: (() => void) | undefined;
  /** More ways out, beside the retry. */
  children?: ReactNode;
}

export function FailureCard({ title, error, onRetry, children }: FailureCardProps) {
  const reason = strings.wake.reasons[error.code];
  return (
    <section
      aria-label={title}
      className="w-full max-w-xl animate-appear rounded-2xl border border-line bg-danger-soft px-4 py-3.5"
    >
      <div className="flex gap-2.5">
        <Alert size={18} className="mt-px shrink-0 text-danger" />
        <div className="min-w-0 flex-1 text-[13px] leading-relaxed">
          <h3 className="text-sm font-medium">
            {title}
            {reason && <span className="font-normal text-danger"> · {reason}</span>}
          </h3>
          <p className="mt-0.5 text-ink [overflow-wrap:anywhere]">{error.message}</p>
          {error.next_step && (
            <p className="mt-1 text-muted [overflow-wrap:anywhere]">
              <WithCode text={error.next_step} />
            </p>
          )}
          {(onRetry || children) && (
            <div className="mt-2.5 flex flex-wrap gap-1.5">
              {onRetry && (
                <Button onClick={onRetry}>
                  <Refresh size={15} />
                  {strings.wake.retry}
                </Button>
              )}
              {children}
            </div>
          )}
        </div>
      </div>
    </section>
  );
}
