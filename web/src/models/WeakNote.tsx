/**
 * A word about a weak model: said once, quietly, with the better model that fits this machine.
 */
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { http } from "../api/http";
import { useLive } from "../api/live";
import { useCatalogue } from "../api/queries";
import type { ModelStatus } from "../api/types";
import { strings } from "../strings";
import { Button } from "../ui/button";
import { recall, remember } from "../ui/storage";
import { WithCode } from "../ui/WithCode";

const t = strings.models;

function slot(model: ModelStatus): string {
  return `note.${model.name}`;
}

/** Said once: from here on the note is found in the model picker. */
export function noteRead(model: ModelStatus): void {
  if (model.note !== null) remember(slot(model), model.note);
}

interface NoteProps {
  model: ModelStatus;
  admin: boolean;
  onChoose: (model: string) => void;
}

export function WeakNote({ model, admin, onChoose }: NoteProps) {
  const [read, setRead] = useState(() => recall(slot(model)) === model.note);
  const show = model.note !== null && !read;
  const { data: catalogue } = useCatalogue(show);
  const suggested = catalogue?.suggested ?? null;
  const there = useLive((state) => state.models?.some((one) => one.name === suggested) ?? false);
  const dismiss = () => {
    noteRead(model);
    setRead(true);
  };
  const add = useMutation({
    mutationFn: http.addModel,
    onSuccess: (added) => {
      dismiss();
      onChoose(added.name);
    },
  });
  if (!show) return null;
  return (
    <aside className="flex flex-wrap items-center gap-x-3 gap-y-1 text-[13px] leading-relaxed text-muted">
      <p className="min-w-48 flex-1">
        <WithCode text={model.note ?? ""} />
        {add.error && <span className="text-danger"> {t.actionFailed(add.error.message)}</span>}
      </p>
      <span className="-my-1 -ml-3 flex gap-1 touch:-ml-4">
        {suggested && admin && !there && (
          <Button tone="quiet" disabled={add.isPending} onClick={() => add.mutate(suggested)}>
            {add.isPending ? t.noteAdding : t.noteAdd(suggested)}
          </Button>
        )}
        <Button tone="quiet" onClick={dismiss}>
          {t.noteDismiss}
        </Button>
      </span>
    </aside>
  );
}
