/**
 * What a person has begun to write, per chat. Survives switching chats and reloading; sent text is forgotten.
 */
import { create } from "zustand";
import { recall, remember } from "../ui/storage";

/** The draft of the new-chat view is kept under this name, because the view's own key changes. */
const NEW = "draft.new";
const SAVE_MS = 400;
let saving: ReturnType<typeof setTimeout> | null = null;

export const useDrafts = create<Record<string, string>>()(() => ({}));

function slot(view: string, isNew: boolean): string {
  return isNew ? NEW : `draft.${view}`;
}

export const drafts = {
  /** The text of a view: from this session, else what the browser remembers. */
  open(view: string, isNew: boolean): void {
    if (useDrafts.getState()[view] !== undefined) return;
    useDrafts.setState({ [view]: recall(slot(view, isNew)) ?? "" });
  },
  write(view: string, text: string, isNew: boolean): void {
    useDrafts.setState({ [view]: text });
    if (saving !== null) clearTimeout(saving);
    const save = () => remember(slot(view, isNew), text === "" ? null : text);
    if (text === "") save();
    else saving = setTimeout(save, SAVE_MS);
  },
  /** A new chat got its id: what was typed meanwhile stays under the cursor. */
  move(from: string, to: string): void {
    const text = useDrafts.getState()[from];
    if (!text) return;
    useDrafts.setState({ [to]: text, [from]: "" });
    remember(NEW, null);
    remember(`draft.${to}`, text);
  },
  /** Text that could not be sent returns, before whatever was typed since. */
  giveBack(view: string, text: string): void {
    const typed = useDrafts.getState()[view];
    useDrafts.setState({ [view]: typed ? `${text}\n\n${typed}` : text });
  },
};
