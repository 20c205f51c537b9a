/**
 * The wake card: what happens while a question waits for its model, stage by stage, from the server's own log.
 *
 * Not responsible for the answer that follows; when the model is up the card folds into "woke in 1.4 s".
 */
import { useMutation } from "@tanstack/react-query";
import { useEffect } from "react";
import { http } from "../api/http";
import { live, serverNow, useLive } from "../api/live";
import type { Eta, Quote, Running, Stage, Wake } from "../api/types";
import { type Pace, pace, stageName } from "../models/describe";
import { Lamp } from "../models/Lamp";
import { strings } from "../strings";
import { Button } from "../ui/button";
import { cx } from "../ui/cx";
import { duration, durationRange, money, perHour, roughly, soFar } from "../ui/format";
import { useNow } from "../ui/hooks";
import { Alert, Check } from "../ui/icons";

const t = strings.wake;
const m = strings.money;
/** The stage whose detail stays when it is over: which machine was found, and what it took the place of. */
const FOUND = "capacity";

interface WakeCardProps {
  model: string;
  /** Null until the first news of the wake. */
  wake: Wake | null;
  /** What its machine costs, once there is one. */
  cost?: Running | null;
  /** What was expected of the cost, until then. */
  quote?: Quote | null;
  /** The answer had begun, and its machine is gone. */
  again?: boolean;
  /** The model that may answer meanwhile, when the configuration names one. */
  meanwhile: string | null;
  admin: boolean;
  cancelling: boolean;
  onCancel: () => void;
  onMeanwhile: (model: string) => void;
}

export function WakeCard({
  model,
  wake,
  cost = null,
  quote = null,
  again = false,
  meanwhile,
  admin,
  cancelling,
  onCancel,
  onMeanwhile,
}: WakeCardProps) {
  const skew = useLive((state) => state.skew);
  const now = serverNow(skew, useNow(200));
  const speed: Pace = wake ? pace(wake, now) : { kind: "unknown" };
  useEffect(() => live.announce(t.announce(model)), [model]);
  return (
    <section
      aria-label={t.title(model)}
      className="w-full max-w-xl animate-appear overflow-hidden rounded-2xl border border-line bg-surface"
    >
      <Heading model={model} wake={wake} speed={speed} now={now} again={again} />
      <Price cost={cost} quote={quote} now={now} />
      {wake && (
        <ol className="flex flex-col gap-0.5 px-4 pb-3">
          {again && <GoneRow />}
          {wake.stages.map((stage) => (
            <StageRow key={stage.name} stage={stage} now={now} slow={speed.kind === "slow"} />
          ))}
        </ol>
      )}
      <footer className="flex flex-wrap items-center gap-1.5 border-t border-line bg-sunken/50 px-3 py-2">
        {meanwhile && (
          <Button onClick={() => onMeanwhile(meanwhile)} disabled={cancelling}>
            {t.meanwhile(meanwhile)}
          </Button>
        )}
        {admin && <KeepWarm model={model} />}
        <Button tone="quiet" onClick={onCancel} disabled={cancelling} className="ml-auto">
          {cancelling ? t.cancelling : t.cancel}
        </Button>
      </footer>
    </section>
  );
}

function Heading({
  model,
  wake,
  speed,
  now,
  again,
}: {
  model: string;
  wake: Wake | null;
  speed: Pace;
  now: number;
  again: boolean;
}) {
  const elapsed = wake ? Math.max(0, now - wake.started_at) : 0;
  return (
    <header className="px-4 pt-3.5 pb-2.5">
      <div className="flex items-center gap-2.5">
        <Lamp state="waking" size={20} className="shrink-0" />
        <h3 className="min-w-0 flex-1 truncate text-sm font-medium">
          {wake ? t.title(model) : t.queued(model)}
        </h3>
        {wake && <span className="text-sm tabular-nums text-muted">{duration(elapsed)}</span>}
      </div>
      {wake?.eta && <Bar of={wake.eta} elapsed={elapsed} />}
      <p className="mt-2 text-[13px] leading-relaxed text-muted">
        {wake && <Expectation wake={wake} speed={speed} />}
        {again ? t.againHeld : t.held}
      </p>
    </header>
  );
}

/** What runs and what it costs by now; before there is a machine, what was expected. Always said to be an estimate. */
function Price({ cost, quote, now }: { cost: Running | null; quote: Quote | null; now: number }) {
  const of = cost ?? quote;
  if (!of) return null;
  return (
    <p
      title={quote ? m.from(quote.basis, quote.source) : undefined}
      className="px-4 pb-2.5 text-[13px] leading-relaxed text-muted [overflow-wrap:anywhere]"
    >
      <span className="text-ink">
        {of.basis} · {perHour(of.hourly, of.currency)}
        {/* Only what counts: Inter's tabular hyphen is as wide as a digit, and a zone's name has two. */}
        {cost && <span className="tabular-nums"> · {m.soFar(money(soFar(cost, now), cost.currency))}</span>}
      </span>{" "}
      ({m.estimate})
    </p>
  );
}

/** What happened before the first stage of a wake in the middle of an answer. */
function GoneRow() {
  return (
    <li className="flex gap-2.5 py-1 text-[13px] leading-5">
      <Alert size={15} className="mt-0.5 shrink-0 text-danger" />
      <span className="min-w-0 flex-1 text-muted">{t.again}</span>
    </li>
  );
}

function Expectation({ wake, speed }: { wake: Wake; speed: Pace }) {
  if (!wake.eta) return <>{t.firstTime} </>;
  const range = t.usually(durationRange(wake.eta.p50, wake.eta.p90));
  const word =
    speed.kind === "left" ? t.left(roughly(speed.seconds)) : speed.kind === "slow" ? t.slower : t.anyMoment;
  return (
    <>
      <span className={cx("tabular-nums", speed.kind === "slow" ? "font-medium text-lamp-ink" : "text-ink")}>
        {word.charAt(0).toUpperCase() + word.slice(1)}
      </span>
      <span className="tabular-nums">, {range}. </span>
    </>
  );
}

/** How far the wake is by the measure of those before it. It never claims to be complete. */
function Bar({ of, elapsed }: { of: Eta; elapsed: number }) {
  return <Progress label={t.progress} percent={estimate(of, elapsed)} className="mt-3 h-1" />;
}

/** Most of the bar belongs to the usual time, a little to being late, and the end is only reached by being done. */
export function estimate({ p50, p90 }: Eta, elapsed: number): number {
  if (elapsed <= p50) return (86 * elapsed) / Math.max(p50, 0.001);
  const late = (elapsed - p50) / Math.max(p90 - p50, 1);
  return 86 + 11 * (1 - Math.exp(-late));
}

function Progress({ label, percent, className }: { label: string; percent: number; className: string }) {
  return (
    <div
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(percent)}
      className={cx("overflow-hidden rounded-full bg-line", className)}
    >
      <div
        className="h-full rounded-full bg-lamp transition-[width] duration-200 ease-linear"
        style={{ width: `${percent}%` }}
      />
    </div>
  );
}

function StageRow({ stage, now, slow }: { stage: Stage; now: number; slow: boolean }) {
  const over = stage.ended_at !== null;
  const running = stage.started_at !== null && !over;
  const elapsed = stage.started_at === null ? null : Math.max(0, (stage.ended_at ?? now) - stage.started_at);
  const name = stageName(stage.name);
  return (
    <li className="flex gap-2.5 py-1 text-[13px] leading-5" aria-current={running ? "step" : undefined}>
      <StageMark over={over} running={running} />
      <div className="min-w-0 flex-1">
        <div className="flex items-baseline gap-2">
          <span className={cx("truncate", running ? "font-medium text-ink" : "text-muted")}>{name}</span>
          <span className="ml-auto shrink-0 tabular-nums text-muted">
            {running && stage.progress !== null && `${Math.round(stage.progress * 100)}% · `}
            {elapsed !== null ? duration(elapsed) : <span className="sr-only">{t.toCome}</span>}
          </span>
        </div>
        {running && stage.progress !== null && (
          <Progress
            label={t.stageProgress(name)}
            percent={stage.progress * 100}
            className="mt-1.5 mb-1 h-[3px]"
          />
        )}
        {(running || (over && stage.name === FOUND)) && stage.detail && (
          <p
            className={cx(
              "mt-0.5 text-xs leading-relaxed text-muted [overflow-wrap:anywhere]",
              slow ? "font-mono" : "line-clamp-2",
            )}
          >
            {stage.detail}
          </p>
        )}
      </div>
    </li>
  );
}

function StageMark({ over, running }: { over: boolean; running: boolean }) {
  if (over) return <Check size={15} className="mt-0.5 shrink-0 text-lamp-ink" strokeWidth={2.2} />;
  return (
    <span className="mt-0.5 flex size-[15px] shrink-0 items-center justify-center">
      <span
        className={cx(
          "rounded-full",
          running ? "size-2.5 animate-flame bg-lamp" : "size-2 border-[1.5px] border-line-strong",
        )}
      />
    </span>
  );
}

export function KeepWarm({ model }: { model: string }) {
  const keep = useMutation({ mutationFn: () => http.wake(model, 1_800) });
  return (
    <>
      <Button tone="quiet" onClick={() => keep.mutate()} disabled={keep.isPending || keep.isSuccess}>
        {keep.isSuccess && <Check size={15} />}
        {keep.isSuccess ? t.kept : t.keep}
      </Button>
      {keep.error && (
        <span role="alert" className="text-xs text-danger">
          {strings.models.actionFailed(keep.error.message)}
        </span>
      )}
    </>
  );
}
