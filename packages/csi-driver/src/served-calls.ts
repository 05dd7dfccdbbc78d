import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { csiError, csiStatusOf } from './core/csi-error.ts';

/** A call goes on for so long at most, whatever its caller does (ms): making a file system takes longest. */
export const maxCallMs = 10 * 60_000;

/** Where secrets may stand in messages is not logged: only which call it was, and how it ended. */
interface ServedCallsOptions {
  clock: Clock;
  logger: Logger;
}

/**
 * Calls that are being answered. A caller that goes away ends nothing: it asks again later, finds the operation
 * under way, and then its result. Closing refuses new calls, tells those under way, and waits for them.
 */
export class ServedCalls {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #open = new Map<Promise<unknown>, AbortController>();
  #isClosing = false;

  constructor({ clock, logger }: ServedCallsOptions) {
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Rejects with a StorError; see `csiStatusOf`. */
  async run<T>(name: string, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#isClosing) throw csiError('UNAVAILABLE', 'the driver is stopping: ask again later');
    const limit = new AbortController();
    const cancel = this.#clock.after(maxCallMs, () => {
      limit.abort(new StorError('TIMEOUT', `${name} took longer than ${maxCallMs / 60_000} min`));
    });
    const answer = this.#answer(name, call, limit.signal);
    this.#open.set(answer, limit);
    try {
      return await answer;
    } finally {
      this.#open.delete(answer);
      cancel();
    }
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    const calls = [...this.#open];
    for (const [, limit] of calls) limit.abort(csiError('UNAVAILABLE', 'the driver is stopping'));
    await Promise.allSettled(calls.map(([answer]) => answer));
  }

  async #answer<T>(
    name: string,
    call: (signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    try {
      return await call(signal);
    } catch (thrown) {
      const isGivenUp = signal.aborted && StorError.from(thrown).code === 'ABORTED';
      const error = isGivenUp ? StorError.from(signal.reason) : StorError.from(thrown);
      const { code, message } = csiStatusOf(error);
      const fields = { call: name, code, error: message };
      if (code === 'INTERNAL') {
        this.#logger.error({ ...fields, stack: error.stack }, 'CSI call failed');
      } else {
        this.#logger.debug(fields, 'CSI call refused');
      }
      throw error;
    }
  }
}
