export interface Mock {
  url: string;
  world: { speed: number; signedIn: boolean; connections: number };
  drop(): void;
  close(): Promise<void>;
}
export function startMock(options?: { port?: number; speed?: number }): Promise<Mock>;
