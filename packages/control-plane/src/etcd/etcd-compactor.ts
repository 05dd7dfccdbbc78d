import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { CallDeadline } from '../embedded/call-deadline.ts';
import type { EtcdCalls } from './etcd-calls.ts';

/**
 * etcd keeps every old value until somebody compacts it. The leader does so for what is older than
 * this (ms): as the API server of Kubernetes does, and long enough for every watch that reconnects.
 */
const keepMs = 5 * 60_000;

export interface EtcdCompactorOptions {
  calls: EtcdCalls;
  isLeader: () => boolean;
  clock: Clock;
  logger: Logger;
  closed: AbortSignal;
}

/** Compacts etcd now and then while this member leads. */
export class EtcdCompactor {
  readonly #options: EtcdCompactorOptions;
  #revision = 0;
  #cancel: () => void = () => {};
  #running: Promise<void> | null = null;

  constructor(options: EtcdCompactorOptions) {
    this.#options = options;
    this.#wait();
  }

  async close(): Promise<void> {
    this.#cancel();
    await this.#running;
  }

  #wait(): void {
    const { clock, calls, closed, isLeader } = this.#options;
    this.#cancel = clock.after(keepMs, () => {
      if (closed.aborted) return;
      const revision = this.#revision;
      this.#revision = calls.revision;
      if (isLeader() && revision > 0) this.#running = this.#compact(revision);
      this.#wait();
    });
  }

  async #compact(revision: number): Promise<void> {
    const { calls, clock, logger, closed } = this.#options;
    const deadline = new CallDeadline(clock, {}, closed);
    try {
      await calls.run(
        { service: 'KV', method: 'Compact', request: { revision }, decode: () => true },
        deadline,
      );
    } catch (error) {
      // compacted further by somebody else, or out of reach: the next time
      const { message } = StorError.from(error);
      logger.debug({ revision, error: message }, 'etcd is not compacted');
    } finally {
      deadline.dispose();
    }
  }
}
