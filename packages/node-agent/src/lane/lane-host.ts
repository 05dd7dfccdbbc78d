import { Worker } from 'node:worker_threads';
import { StorError } from '@stor/protocol';
import type { LaneMethods, LaneOptions, MainMethods } from './lane-protocol.ts';
import { LaneRpc } from './rpc.ts';

/** A lane as the main thread sees it. */
export interface LaneHost {
  readonly methods: LaneMethods;
  /** Called when the lane's thread ends without having been asked to. */
  onDeath(listener: (error: StorError) => void): void;
  close(): Promise<void>;
}

/** Starts a lane in a worker thread. */
export function startLane(options: LaneOptions, control: MainMethods): LaneHost {
  const entry = import.meta.url.endsWith('.ts') ? './lane-worker.ts' : './lane-worker.js';
  const worker = new Worker(new URL(entry, import.meta.url), { workerData: options });
  const rpc = new LaneRpc<LaneMethods>(worker, control);
  const listeners: ((error: StorError) => void)[] = [];
  let closing: Promise<void> | null = null;
  const close = async (): Promise<void> => {
    try {
      await rpc.remote.close();
    } finally {
      await worker.terminate();
    }
  };
  const died = (cause: unknown): void => {
    const error = new StorError(
      'INTERNAL',
      `lane ${options.lane} ended: ${StorError.from(cause).message}`,
      { cause },
    );
    rpc.close(error);
    if (!closing) for (const listener of listeners) listener(error);
  };
  worker.on('error', died);
  worker.on('exit', (code) => {
    died(new Error(`exit code ${code}`));
  });
  return {
    methods: rpc.remote,
    onDeath: (listener) => {
      listeners.push(listener);
    },
    // the same promise for everybody, so that a second caller waits for what the first began
    close: () => (closing ??= close()),
  };
}
