/**
 * The sign-in card: paste a key, and where to find one.
 */
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { http } from "../api/http";
import type { Session } from "../api/types";
import { Lamp } from "../models/Lamp";
import { strings } from "../strings";
import { Button } from "./button";

const t = strings.signIn;

interface SignInProps {
  /** Why the card is shown, when there is more to say than "sign in". */
  reason: string | null;
  onSignedIn: (session: Session) => void;
}

export function SignIn({ reason, onSignedIn }: SignInProps) {
  const [key, setKey] = useState("");
  const signIn = useMutation({
    mutationFn: () => http.signIn({ key: key.trim() }),
    onSuccess: onSignedIn,
  });
  const wrong = signIn.error && "status" in signIn.error && signIn.error.status === 401;
  const message = signIn.error ? (wrong ? t.wrong : signIn.error.message) : reason;
  return (
    <main className="flex min-h-full items-center justify-center p-4">
      <form
        className="w-full max-w-sm animate-appear"
        onSubmit={(event) => {
          event.preventDefault();
          if (key.trim() !== "") signIn.mutate();
        }}
      >
        <div className="flex flex-col items-center gap-3 pb-7 text-center">
          <Lamp state={signIn.isPending ? "waking" : null} size={44} />
          <h1 className="text-[22px] font-semibold tracking-[-0.02em]">{strings.app.name}</h1>
          <p className="text-sm text-muted">{t.lead}</p>
        </div>
        <label className="block text-[13px] font-medium" htmlFor="key">
          {t.label}
        </label>
        <input
          id="key"
          // A password field, so that a key is neither shown over a shoulder nor offered as a plain suggestion.
          type="password"
          autoComplete="current-password"
          spellCheck={false}
          value={key}
          placeholder={t.placeholder}
          aria-invalid={signIn.error ? true : undefined}
          aria-describedby="key-message"
          onChange={(event) => setKey(event.target.value)}
          className="mt-1.5 h-11 w-full rounded-xl border border-line-strong bg-surface px-3.5 font-mono text-[15px] placeholder:text-muted max-sm:text-base"
        />
        <p id="key-message" role="alert" className="min-h-6 pt-1.5 text-[13px] leading-relaxed text-danger">
          {message}
        </p>
        <Button
          tone="primary"
          type="submit"
          disabled={key.trim() === "" || signIn.isPending}
          className="mt-1 h-11 w-full rounded-xl text-sm"
        >
          {signIn.isPending ? t.busy : t.submit}
        </Button>
        <details className="mt-6 text-[13px] leading-relaxed text-muted">
          <summary className="cursor-pointer rounded-md py-1 hover:text-ink">{t.where}</summary>
          <p className="pt-2">
            <code className="font-mono text-ink">lamplighter up</code> {t.whereUp}
          </p>
          <p className="pt-1.5">
            <code className="font-mono text-ink">lamplighter keys create</code> {t.whereKeys}
          </p>
        </details>
      </form>
    </main>
  );
}
