/**
 * What every part of the page may use: the backend and who is signed in.
 */
import { createContext, useContext } from "react";
import type { Backend } from "./api/backend";
import type { Session } from "./api/types";

interface AppValue {
  backend: Backend;
  session: Session;
}

export const AppContext = createContext<AppValue | null>(null);

export function useApp(): AppValue {
  const value = useContext(AppContext);
  if (!value) throw new Error("useApp outside of the signed-in page");
  return value;
}
