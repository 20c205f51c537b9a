/**
 * The system prompt of one chat, in a dialog.
 */
import { useState } from "react";
import { strings } from "../strings";
import { Button } from "../ui/button";
import { Dialog } from "../ui/dialog";

const t = strings.chat;

interface InstructionsProps {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  value: string | null;
  onSave: (value: string | null) => void;
}

export function Instructions({ open, onOpenChange, value, onSave }: InstructionsProps) {
  return (
    <Dialog
      open={open}
      onOpenChange={onOpenChange}
      title={t.instructionsTitle}
      description={t.instructionsHelp}
      wide
    >
      <Form value={value} onSave={onSave} onDone={() => onOpenChange(false)} />
    </Dialog>
  );
}

function Form({
  value,
  onSave,
  onDone,
}: Pick<InstructionsProps, "value" | "onSave"> & { onDone: () => void }) {
  const [text, setText] = useState(value ?? "");
  return (
    <form
      className="flex flex-col gap-3"
      onSubmit={(event) => {
        event.preventDefault();
        onSave(text.trim() === "" ? null : text.trim());
        onDone();
      }}
    >
      <textarea
        aria-label={t.instructionsTitle}
        value={text}
        onChange={(event) => setText(event.target.value)}
        placeholder={t.instructionsPlaceholder}
        rows={6}
        className="w-full resize-y rounded-xl border border-line-strong bg-paper px-3.5 py-2.5 text-[15px] leading-relaxed placeholder:text-muted max-sm:text-base"
      />
      <div className="flex justify-end gap-2">
        <Button tone="quiet" onClick={onDone}>
          {strings.chats.cancel}
        </Button>
        <Button tone="primary" type="submit">
          {t.save}
        </Button>
      </div>
    </form>
  );
}
