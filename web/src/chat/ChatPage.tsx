/**
 * One chat, or the beginning of one: header, conversation, composer, and how they act on each other.
 *
 * Not responsible for the list of chats (Sidebar) nor for rows of the conversation (Thread).
 */
import { useCallback, useEffect, useMemo, useState } from "react";
import { useShallow } from "zustand/react/shallow";
import { drafts } from "../api/drafts";
import { RequestError } from "../api/http";
import { live, liveGenerationOf, modelNamed, type Pending, useLive } from "../api/live";
import { useBranch, useOlder, useUpdateChat } from "../api/queries";
import type { Message } from "../api/types";
import { useApp } from "../context";
import { canChat, defaultModel, wakePrice } from "../models/describe";
import { ModelPicker } from "../models/ModelPicker";
import { noteRead, WeakNote } from "../models/WeakNote";
import { strings } from "../strings";
import { Button, IconButton } from "../ui/button";
import { cx } from "../ui/cx";
import { Code, Compose, MenuLines, Sidebar as SidebarIcon, Sliders } from "../ui/icons";
import { recall, remember } from "../ui/storage";
import { PriceNote } from "../wake/PriceNote";
import { Composer } from "./Composer";
import { Empty } from "./Empty";
import { Instructions } from "./Instructions";
import { Thread } from "./Thread";

const t = strings.chat;
const PRICE = "wake-price";

interface ChatPageProps {
  chatId: string | null;
  sidebarOpen: boolean;
  onSidebar: () => void;
  onNewChat: () => void;
  onApi: (model: string | null) => void;
}

export function ChatPage({ chatId, sidebarOpen, onSidebar, onNewChat, onApi }: ChatPageProps) {
  const { backend, session } = useApp();
  const draftView = useLive((state) => state.draftView);
  const view = chatId ?? draftView;
  const branch = useBranch(chatId);
  const older = useOlder(chatId);
  const update = useUpdateChat();
  const chat = branch.data?.chat;
  const messages = branch.data?.messages;
  const pending = useLive(
    useShallow((state) => Object.values(state.pending).filter((one) => one.view === view)),
  );
  const generation = useLive((state) => liveGenerationOf(state, chatId));
  const queued = useLive((state) => state.queued[view] ?? null);
  const offline = useLive((state) => state.connection !== "open");
  const { model, choose } = useChosenModel(chatId, chat?.model ?? null);
  const status = useLive((state) => modelNamed(state, model));
  const [system, setSystem] = useNewSystem(draftView);
  const [instructionsOpen, setInstructionsOpen] = useState(false);

  useEffect(() => {
    document.title = chat
      ? `${chat.title || strings.chats.untitled} · ${strings.app.name}`
      : strings.app.name;
  }, [chat]);

  // An answer that was begun elsewhere, or before this page was loaded, is followed from its beginning.
  useEffect(() => {
    if (chatId === null) return;
    for (const message of messages ?? []) backend.follow(chatId, message);
  }, [backend, chatId, messages]);

  const asking = pending.some((one) => one.error === null);
  const busy = generation !== undefined || asking;
  const stop = useCallback(() => generation && backend.stop(generation), [backend, generation]);
  useEscape(stop, generation !== undefined);

  const send = useCallback(
    (content: string) => {
      if (model === null) return;
      if (status) noteRead(status);
      if (busy) {
        const waiting = live.get().queued[view];
        live.queue(view, { content: waiting ? `${waiting.content}\n\n${content}` : content, model });
      } else {
        const parentId = messages?.at(-1)?.id ?? null;
        backend.send({ chatId, view, parentId, content, model, system });
      }
    },
    [backend, busy, chatId, messages, model, status, system, view],
  );
  const edit = useCallback(
    (message: Message, content: string) => {
      if (model === null) return;
      const running = liveGenerationOf(live.get(), chatId);
      if (running) backend.stop(running);
      backend.send({ chatId, view, parentId: message.parent_id, content, model });
    },
    [backend, chatId, model, view],
  );
  const { mutate: mutateChat } = update;
  const go = useCallback(
    (id: string) => chatId !== null && mutateChat({ id: chatId, active: id }),
    [chatId, mutateChat],
  );
  const discard = (one: Pending) => {
    if (one.request.type === "start") drafts.giveBack(view, one.request.content);
    live.dropPending(one.request.client_request_id);
  };
  const saveInstructions = (value: string | null) => {
    if (chatId === null) setSystem(value);
    else mutateChat({ id: chatId, system: value });
  };

  const empty = chatId === null && pending.length === 0;
  const instructions = chatId === null ? system : (chat?.system ?? null);
  return (
    <main
      id="conversation"
      tabIndex={-1}
      aria-label={t.label}
      className="flex h-full min-w-0 flex-1 flex-col outline-none"
    >
      {!empty && <h1 className="sr-only">{chat?.title || strings.chats.untitled}</h1>}
      <header className="flex h-13 shrink-0 items-center gap-1 px-2 touch:h-14">
        <IconButton label={strings.chats.open} onClick={onSidebar} className="wide:hidden">
          <MenuLines />
        </IconButton>
        {!sidebarOpen && (
          <>
            <IconButton label={strings.chats.open} onClick={onSidebar} className="max-wide:hidden">
              <SidebarIcon />
            </IconButton>
            <IconButton label={strings.chats.new} onClick={onNewChat} className="max-wide:hidden">
              <Compose />
            </IconButton>
          </>
        )}
        <ModelPicker chosen={model} admin={session.admin} onChoose={choose} />
        <span className="flex-1" />
        <ConnectionNote />
        <IconButton
          label={t.instructions}
          onClick={() => setInstructionsOpen(true)}
          className={cx("relative", instructions && "text-ink")}
        >
          <Sliders />
          {instructions && <span className="absolute top-1.5 right-1.5 size-1.5 rounded-full bg-lamp" />}
        </IconButton>
        <IconButton label={strings.settings.api} onClick={() => onApi(model)}>
          <Code />
        </IconButton>
        <IconButton label={strings.chats.new} onClick={onNewChat} className="wide:hidden">
          <Compose />
        </IconButton>
      </header>
      {empty ? (
        <Empty model={status} onPrompt={(text) => drafts.write(view, text, true)} />
      ) : branch.error && !branch.data ? (
        <LoadFailure error={branch.error} onRetry={() => void branch.refetch()} />
      ) : (
        <Thread
          chatId={chatId}
          branch={branch.data}
          pending={pending}
          model={model}
          offline={offline}
          loadingOlder={older.isPending}
          onOlder={(before) => !older.isPending && older.mutate(before)}
          onEdit={edit}
          onGo={go}
          onRetry={(id) => backend.link.retry(id)}
          onDiscard={discard}
        />
      )}
      <div className="shrink-0 px-3 pb-[max(0.6rem,env(safe-area-inset-bottom))] sm:px-4">
        {empty && status?.note && (
          <div className="mx-auto w-full max-w-3xl px-3 pb-2">
            <WeakNote key={status.name} model={status} admin={session.admin} onChoose={choose} />
          </div>
        )}
        {status && !busy && <PriceNote id={PRICE} model={status} />}
        <Composer
          describedBy={status && !busy && wakePrice(status) ? PRICE : undefined}
          view={view}
          isNew={chatId === null}
          model={model}
          busy={busy}
          stopping={generation?.stopping ?? asking}
          queued={queued}
          onSend={send}
          onStop={stop}
          onQueued={(next) => live.queue(view, next)}
        />
        <p className="pt-2 text-center text-xs text-muted max-sm:hidden">{strings.composer.disclaimer}</p>
      </div>
      <Instructions
        open={instructionsOpen}
        onOpenChange={setInstructionsOpen}
        value={instructions}
        onSave={saveInstructions}
      />
    </main>
  );
}

/** The chat's own model; for a new chat the one chosen last. A model that is gone gives way to one that is there. */
function useChosenModel(chatId: string | null, ofChat: string | null) {
  const models = useLive((state) => state.models);
  const [last, setLast] = useState(() => recall("model"));
  const { mutate } = useUpdateChat();
  const wanted = ofChat ?? last;
  const model = useMemo(() => {
    if (models === null) return wanted;
    const there = models.some((one) => one.name === wanted && canChat(one));
    return there ? wanted : defaultModel(models, last);
  }, [models, wanted, last]);
  const choose = useCallback(
    (name: string) => {
      remember("model", name);
      setLast(name);
      if (chatId !== null) mutate({ id: chatId, model: name });
    },
    [chatId, mutate],
  );
  return { model, choose };
}

/** Instructions written before a new chat has an id; another new chat begins without. */
function useNewSystem(draftView: string) {
  const [kept, setKept] = useState<{ view: string; value: string | null }>({ view: draftView, value: null });
  const value = kept.view === draftView ? kept.value : null;
  const set = useCallback((next: string | null) => setKept({ view: draftView, value: next }), [draftView]);
  return [value, set] as const;
}

/** Escape stops the answer, unless it already closed something. */
function useEscape(stop: () => void, active: boolean) {
  useEffect(() => {
    if (!active) return;
    const onKey = (event: globalThis.KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      if (document.querySelector('[role="dialog"], [role="menu"]')) return;
      stop();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [stop, active]);
}

/** Said only when the line stays down for a moment; a blink is not worth a word. */
function ConnectionNote() {
  const connection = useLive((state) => state.connection);
  const lostAt = useLive((state) => state.lostAt);
  const [late, setLate] = useState(false);
  const down = connection === "reconnecting" || connection === "connecting";
  useEffect(() => {
    setLate(false);
    if (!down) return;
    const timer = setTimeout(() => setLate(true), Math.max(0, 1_200 - (Date.now() - (lostAt ?? Date.now()))));
    return () => clearTimeout(timer);
  }, [down, lostAt]);
  return (
    <span role="status" className="text-[13px] text-muted">
      {down && late && (
        <span title={strings.connection.kept} className="flex animate-fade items-center gap-2 px-2">
          <span className="size-1.5 animate-caret rounded-full bg-lamp" />
          <span className="max-sm:sr-only">
            {connection === "connecting" ? strings.connection.connecting : strings.connection.reconnecting}
          </span>
        </span>
      )}
    </span>
  );
}

function LoadFailure({ error, onRetry }: { error: Error; onRetry: () => void }) {
  const gone = error instanceof RequestError && error.status === 404;
  return (
    <div className="flex flex-1 flex-col items-center justify-center gap-3 px-4 text-center text-sm text-muted">
      <p>{gone ? t.gone : `${t.failed} ${error.message}`}</p>
      {!gone && <Button onClick={onRetry}>{strings.chats.retry}</Button>}
    </div>
  );
}
