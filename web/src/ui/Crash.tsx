/**
 * What is left when drawing itself fails: a sentence and a way out, instead of a blank page.
 */
import { Component, type ReactNode } from "react";
import { strings } from "../strings";
import { Button } from "./button";

export class Crash extends Component<{ children: ReactNode }, { broken: boolean }> {
  override state = { broken: false };

  static getDerivedStateFromError() {
    return { broken: true };
  }

  override render() {
    if (!this.state.broken) return this.props.children;
    return (
      <main className="flex h-full flex-col items-center justify-center gap-3 p-4 text-center">
        <h1 className="text-lg font-semibold">{strings.app.crashed}</h1>
        <p className="text-sm text-muted">{strings.app.crashedHelp}</p>
        <Button tone="primary" onClick={() => location.reload()}>
          {strings.app.reload}
        </Button>
      </main>
    );
  }
}
