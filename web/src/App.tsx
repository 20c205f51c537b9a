/**
 * The page: who is signed in decides between the sign-in card and the chats; the address decides which chat.
 */
import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useMemo, useState } from "react";
import { useLocation, useRoute } from "wouter";
import { Backend } from "./api/backend";
import { http, whenUnauthorized } from "./api/http";
import { live, useLive } from "./api/live";
import { cache, useSession } from "./api/queries";
import type { Session } from "./api/types";
import { ChatPage } from "./chat/ChatPage";
import { Sidebar } from "./chat/Sidebar";
import { AppContext } from "./context";
import { Lamp } from "./models/Lamp";
import { strings } from "./strings";
import { ApiDialog } from "./ui/ApiDialog";
import { Button } from "./ui/button";
import { Drawer } from "./ui/dialog";
import { useMedia, WIDE } from "./ui/hooks";
import { SignIn } from "./ui/SignIn";
import { recall, remember } from "./ui/storage";

/** `loginFailed`: the page was opened by a login link that does not work any more. */
export function App({ loginFailed }: { loginFailed: boolean }) {
  const client = useQueryClient();
  const session = useSession();
  const [, navigate] = useLocation();
  const [atLogin] = useRoute("/login");

  useEffect(() => {
    whenUnauthorized(() => cache(client).signedIn(null));
  }, [client]);
  useEffect(() => {
    if (session.data && atLogin) navigate("/", { replace: true });
  }, [session.data, atLogin, navigate]);

  if (session.data === null) {
    return (
      <SignIn
        reason={loginFailed ? strings.signIn.linkUsed : null}
        onSignedIn={(signedIn) => cache(client).signedIn(signedIn)}
      />
    );
  }
  if (session.data === undefined) return <Opening failing={session.failureCount > 0} />;
  return <Signed session={session.data} />;
}

function Opening({ failing }: { failing: boolean }) {
  return (
    <main aria-busy="true" className="flex h-full flex-col items-center justify-center gap-4">
      <h1 className="sr-only">{strings.app.loading}</h1>
      <Lamp state="waking" size={40} />
      <p role="status" className="h-5 text-sm text-muted">
        {failing && strings.app.unreachable}
      </p>
    </main>
  );
}

function Signed({ session }: { session: Session }) {
  const client = useQueryClient();
  const backend = useMemo(() => new Backend(client), [client]);
  const [path, navigate] = useLocation();
  const [inChat, params] = useRoute("/c/:id");
  const [atHome] = useRoute("/");
  const [atLogin] = useRoute("/login");
  const chatId = inChat ? (params.id ?? null) : null;
  const layout = useLayout();
  const [apiFor, setApiFor] = useState<{ model: string | null } | null>(null);

  useEffect(() => {
    backend.navigate = navigate;
    backend.isAt = (where) => location.pathname === where;
  }, [backend, navigate]);
  useEffect(() => {
    backend.link.start();
    return () => backend.link.stop();
  }, [backend]);

  const { closeDrawer } = layout;
  // biome-ignore lint/correctness/useExhaustiveDependencies: going somewhere closes the drawer
  useEffect(closeDrawer, [path, closeDrawer]);

  const newChat = useCallback(() => {
    live.newDraft();
    closeDrawer();
    navigate("/");
  }, [closeDrawer, navigate]);
  useNewChatKey(newChat);

  const signOut = async () => {
    await http.signOut().catch(() => {
      // Unreachable or gone already: this page forgets the session either way.
    });
    cache(client).signedIn(null);
  };
  const sidebar = (
    <Sidebar
      current={chatId}
      onOpen={(id) => {
        closeDrawer();
        navigate(`/c/${id}`);
      }}
      onNew={newChat}
      onClose={layout.toggle}
      onDeleted={(id) => id === chatId && newChat()}
      onApi={() => setApiFor({ model: null })}
      onSignOut={() => void signOut()}
    />
  );
  return (
    <AppContext value={useMemo(() => ({ backend, session }), [backend, session])}>
      <a
        href="#conversation"
        className="absolute top-2 left-2 z-50 -translate-y-16 rounded-lg bg-ink px-3 py-2 text-sm text-paper focus:translate-y-0"
      >
        {strings.app.skip}
      </a>
      <div className="flex h-full">
        {layout.wide && layout.open && (
          <div className="w-[268px] shrink-0 border-r border-line bg-sunken">{sidebar}</div>
        )}
        {!layout.wide && (
          <Drawer open={layout.drawer} onOpenChange={layout.setDrawer} title={strings.chats.title}>
            {sidebar}
          </Drawer>
        )}
        {atHome || inChat || atLogin ? (
          <ChatPage
            chatId={chatId}
            sidebarOpen={layout.wide && layout.open}
            onSidebar={layout.toggle}
            onNewChat={newChat}
            onApi={(model) => setApiFor({ model })}
          />
        ) : (
          <main className="flex flex-1 flex-col items-center justify-center gap-4 text-sm text-muted">
            <p>{strings.app.notFound}</p>
            <Button onClick={newChat}>{strings.app.home}</Button>
          </main>
        )}
      </div>
      <ApiDialog
        open={apiFor !== null}
        onOpenChange={(open) => !open && setApiFor(null)}
        model={apiFor?.model ?? recall("model")}
      />
      <Announcer />
    </AppContext>
  );
}

/** A column on a desktop, which can be put away; a drawer on a phone. */
function useLayout() {
  const wide = useMedia(WIDE);
  const [open, setOpen] = useState(() => recall("sidebar") !== "closed");
  const [drawer, setDrawer] = useState(false);
  const closeDrawer = useCallback(() => setDrawer(false), []);
  const toggle = () => {
    if (!wide) return setDrawer((value) => !value);
    remember("sidebar", open ? "closed" : null);
    setOpen(!open);
  };
  return { wide, open, drawer, setDrawer, closeDrawer, toggle };
}

function useNewChatKey(newChat: () => void) {
  useEffect(() => {
    const onKey = (event: globalThis.KeyboardEvent) => {
      if (!(event.ctrlKey || event.metaKey) || !event.shiftKey || event.key.toLowerCase() !== "o") return;
      event.preventDefault();
      newChat();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, [newChat]);
}

/** Says what happened, once, to a screen reader: that an answer is complete, never its tokens. */
function Announcer() {
  const announcement = useLive((state) => state.announcement);
  return (
    <p role="status" aria-live="polite" className="sr-only">
      {announcement}
    </p>
  );
}
