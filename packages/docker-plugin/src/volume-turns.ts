import { StorError } from '@stor/protocol';
import { maxCallsPerVolume } from './core/limits.ts';

interface Turns {
  /** settles when the last one that was let in is over */
  last: Promise<unknown>;
  count: number;
}

/** Lets the calls for one volume go one after another, in the order in which they came. */
export class VolumeTurns {
  readonly #turns = new Map<string, Turns>();

  /** FAILED_PRECONDITION when too many wait already. */
  async run<T>(name: string, work: () => Promise<T>): Promise<T> {
    const turns = this.#turns.get(name) ?? { last: Promise.resolve(), count: 0 };
    if (turns.count >= maxCallsPerVolume) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `${turns.count} calls for volume ${name} wait for an earlier one: try again later`,
      );
    }
    turns.count += 1;
    this.#turns.set(name, turns);
    const done = turns.last.then(work);
    turns.last = done.catch(() => undefined);
    try {
      return await done;
    } finally {
      turns.count -= 1;
      if (turns.count === 0) this.#turns.delete(name);
    }
  }

  /** Everybody who was let in is done. */
  async idle(): Promise<void> {
    await Promise.all([...this.#turns.values()].map(({ last }) => last));
  }
}
