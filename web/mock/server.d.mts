export interface Mock {
  url: string;
  world: {
    speed: number;
    signedIn: boolean;
    connections: number;
    holdAfter: number;
    holdStage: number;
    answer: string;
  };
  drop(): void;
  close(): Promise<void>;
}
export function startMock(options?: { port?: number; speed?: number }): Promise<Mock>;
