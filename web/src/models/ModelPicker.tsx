/**
 * The model picker: which model answers, what state each one is in, and the ways to wake it or put it to sleep.
 *
 * Not responsible for who may do what: the server refuses; the buttons are only drawn for an admin.
 */
import { useMutation } from "@tanstack/react-query";
import { Popover } from "radix-ui";
import { type KeyboardEvent, useRef, useState } from "react";
import { http } from "../api/http";
import { modelNamed, serverNow, useLive } from "../api/live";
import type { ModelStatus } from "../api/types";
import { strings } from "../strings";
import { IconButton } from "../ui/button";
import { cx } from "../ui/cx";
import { contextSize, roughly } from "../ui/format";
import { useNow } from "../ui/hooks";
import { Check, ChevronDown, Clock, Moon, Refresh, Sun } from "../ui/icons";
import { WithCode } from "../ui/WithCode";
import { canChat, describeModel, ticks, wakePrice } from "./describe";
import { Lamp } from "./Lamp";

const t = strings.models;

interface PickerProps {
  chosen: string | null;
  admin: boolean;
  onChoose: (model: string) => void;
}

export function ModelPicker({ chosen, admin, onChoose }: PickerProps) {
  const [open, setOpen] = useState(false);
  const models = useLive((state) => state.models);
  const model = useLive((state) => modelNamed(state, chosen));
  return (
    <Popover.Root open={open} onOpenChange={setOpen}>
      <Popover.Trigger
        className={cx(
          "flex h-9 min-w-0 select-none items-center gap-2 rounded-lg pr-2 pl-2.5 text-sm font-medium",
          "transition-colors hover:bg-hover data-[state=open]:bg-hover touch:h-11",
        )}
      >
        <Lamp state={model?.state ?? null} />
        <span className="sr-only">{t.pick}: </span>
        <span className="flex min-w-0 gap-x-2 max-sm:flex-col max-sm:items-start sm:items-baseline">
          <span className="max-w-full truncate leading-tight">{chosen ?? (models ? t.none : t.loading)}</span>
          {model && <TriggerState model={model} />}
        </span>
        <ChevronDown size={15} className="shrink-0 text-faint" />
      </Popover.Trigger>
      <Popover.Portal>
        <Popover.Content
          align="start"
          sideOffset={6}
          collisionPadding={8}
          aria-label={t.pick}
          className={cx(
            "z-50 flex max-h-(--radix-popover-content-available-height) w-[min(94vw,400px)] animate-fade flex-col",
            "overflow-hidden rounded-2xl border border-line bg-surface shadow-pop",
          )}
        >
          <ModelList
            models={(models ?? []).filter(canChat)}
            chosen={chosen}
            admin={admin}
            onChoose={(name) => {
              onChoose(name);
              setOpen(false);
            }}
          />
        </Popover.Content>
      </Popover.Portal>
    </Popover.Root>
  );
}

/** Beside the chosen model's name, where there is room: its state in a few words. */
function TriggerState({ model }: { model: ModelStatus }) {
  const skew = useLive((state) => state.skew);
  const now = serverNow(skew, useNow(1_000, ticks(model)));
  const quiet = model.state === "awake" && (model.in_flight > 0 || model.sleeping_at === null);
  if (quiet) return null;
  const text = model.state === "failed" ? t.failed : describeModel(model, now).split(" · ")[0];
  return (
    <span
      className={cx(
        "max-w-full truncate text-[13px] leading-tight font-normal tabular-nums max-sm:text-xs",
        model.state === "failed" ? "text-danger" : "text-muted",
      )}
    >
      {text}
    </span>
  );
}

interface ListProps extends PickerProps {
  models: ModelStatus[];
}

export function ModelList({ models, chosen, admin, onChoose }: ListProps) {
  const list = useRef<HTMLUListElement>(null);
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step === undefined) return;
    const rows = [...(list.current?.querySelectorAll<HTMLElement>("[data-choose]") ?? [])];
    const at = rows.findIndex((row) => row.parentElement?.contains(document.activeElement));
    event.preventDefault();
    rows[(at + step + rows.length) % rows.length]?.focus();
  };
  const names = models.filter((model) => !model.switch?.of); // another revision is no name that people choose
  if (names.length === 0) return <p className="p-4 text-sm text-muted">{t.none}</p>;
  return (
    <>
      <ul ref={list} onKeyDown={onKeyDown} className="overflow-y-auto p-1.5">
        {names.map((model) => (
          <Row
            key={model.name}
            model={model}
            chosen={model.name === chosen}
            admin={admin}
            onChoose={onChoose}
          />
        ))}
      </ul>
      <p className="border-t border-line px-4 py-2.5 text-xs text-muted">{t.hint}</p>
    </>
  );
}

interface RowProps {
  model: ModelStatus;
  chosen: boolean;
  admin: boolean;
  onChoose: (model: string) => void;
}

function Row({ model, chosen, admin, onChoose }: RowProps) {
  const skew = useLive((state) => state.skew);
  const now = serverNow(skew, useNow(1_000, ticks(model)));
  const failure = model.state === "failed" ? model.failure : null;
  const price = wakePrice(model);
  return (
    <li className="group/row relative flex items-start gap-1 rounded-xl hover:bg-hover has-data-choose:focus-within:bg-hover">
      <button
        type="button"
        data-choose
        aria-current={chosen ? "true" : undefined}
        onClick={() => onChoose(model.name)}
        className="flex min-w-0 flex-1 items-start gap-3 rounded-xl px-2.5 py-2 text-left touch:py-3"
      >
        <Lamp state={model.state} size={20} className="mt-0.5 shrink-0" />
        <span className="min-w-0 flex-1">
          <span className="flex items-baseline gap-2">
            <span className="truncate text-sm font-medium">{model.name}</span>
            {chosen && <Check size={15} strokeWidth={2.2} className="shrink-0 self-center text-lamp-ink" />}
            {model.context !== null && (
              <span className="shrink-0 text-xs text-muted">{t.context(contextSize(model.context))}</span>
            )}
          </span>
          <span
            className={cx(
              "mt-0.5 block text-[13px] leading-snug",
              // Not always: Inter's tabular hyphen is as wide as a digit.
              ticks(model) && "tabular-nums",
              failure ? "text-danger" : "text-muted",
            )}
          >
            {describeModel(model, now)}
          </span>
          {!failure && model.note && (
            <span className="mt-0.5 block text-[13px] leading-snug text-muted">
              <WithCode text={model.note} />
            </span>
          )}
          {failure?.retry_at != null && failure.retry_at > now && (
            <span className="mt-1 block text-[13px] leading-snug text-muted">
              {strings.wake.retryAt(roughly(failure.retry_at - now))}
            </span>
          )}
          {failure?.next_step && (
            <span className="mt-1 block text-[13px] leading-snug text-muted">
              <WithCode text={failure.next_step} />
            </span>
          )}
          {price && (
            <span
              title={model.quote ? strings.money.from(model.quote.basis, model.quote.source) : undefined}
              className="mt-1 block text-[13px] leading-snug text-muted"
            >
              {price.charAt(0).toUpperCase() + price.slice(1)}
            </span>
          )}
        </span>
      </button>
      {admin && !model.always_on && <RowActions model={model} />}
    </li>
  );
}

function RowActions({ model }: { model: ModelStatus }) {
  const wake = useMutation({ mutationFn: () => http.wake(model.name) });
  const keep = useMutation({ mutationFn: () => http.wake(model.name, 1_800) });
  const sleep = useMutation({ mutationFn: () => http.sleep(model.name) });
  const error = wake.error ?? keep.error ?? sleep.error;
  const down = model.state === "asleep" || model.state === "failed" || model.state === "draining";
  return (
    <span className="flex shrink-0 flex-col items-end py-1 pr-1">
      <span className="flex">
        {down ? (
          <IconButton
            label={`${model.state === "failed" ? t.retry : t.wake}: ${model.name}`}
            disabled={wake.isPending}
            onClick={() => wake.mutate()}
          >
            {model.state === "failed" ? <Refresh /> : <Sun />}
          </IconButton>
        ) : (
          <>
            <IconButton
              label={`${keep.isSuccess ? t.kept : t.keep}: ${model.name}`}
              disabled={keep.isPending || keep.isSuccess}
              onClick={() => keep.mutate()}
            >
              {keep.isSuccess ? <Check /> : <Clock />}
            </IconButton>
            <IconButton
              label={`${t.sleep}: ${model.name}`}
              disabled={sleep.isPending}
              onClick={() => sleep.mutate()}
            >
              <Moon />
            </IconButton>
          </>
        )}
      </span>
      {error && (
        <span role="alert" className="max-w-40 px-1 text-right text-xs text-danger">
          {t.actionFailed(error.message)}
        </span>
      )}
    </span>
  );
}
