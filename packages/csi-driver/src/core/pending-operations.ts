import { csiError } from './csi-error.ts';

/** Operations at a time: an orchestrator of a large cluster keeps some hundreds under way. */
export const maxPendingOperations = 1_024;

/**
 * What is being done to which volume or snapshot. A second order for the same one is refused, so that a
 * request whose answer was lost never runs beside itself.
 */
export class PendingOperations {
  readonly #pending = new Map<string, string>();

  /** Returns what ends it. ABORTED: one is under way, or too many are. */
  begin(keys: readonly string[], operation: string): () => void {
    for (const key of keys) {
      const present = this.#pending.get(key);
      if (present !== undefined) {
        throw csiError('ABORTED', `${present} of ${key} is under way: ask again when it is done`);
      }
    }
    if (this.#pending.size + keys.length > maxPendingOperations) {
      throw csiError('ABORTED', `${this.#pending.size} operations are under way: ask again later`);
    }
    for (const key of keys) this.#pending.set(key, operation);
    return () => {
      for (const key of keys) this.#pending.delete(key);
    };
  }

  get size(): number {
    return this.#pending.size;
  }
}
