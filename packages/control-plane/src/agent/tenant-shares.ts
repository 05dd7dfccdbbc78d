import { StorError } from '@stor/protocol';
import type { NodeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { awaitedShares } from '../core/qos/tenant-rules.ts';
import type { ShareStep } from '../core/qos/tenant-rules.ts';
import { sharesAppliedKey, tenantSharesKey } from '../resources/keys.ts';
import { pause } from '../resources/pause.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';

/** What the leader has decided; nothing happens when the division has changed since. */
export async function writeShares(step: ShareStep, store: ClusterStore): Promise<void> {
  const key = tenantSharesKey(step.name);
  await store.transact({
    compare: [{ key, modRevision: step.modRevision }],
    operations: [
      step.shares
        ? { type: 'put', key, value: encodeRecord(step.shares) }
        : { type: 'delete', key },
    ],
  });
}

/**
 * A grant that was made with what was known before is in its lane after this (ms): then its primary is
 * told like the others.
 */
const grantMs = 1_000;

interface ConfirmationOptions {
  store: ClusterStore;
  cache: StateCache;
  nodeId: NodeId;
  clock: Clock;
  logger: Logger;
  /** Tells the primaries everything again; resolves once they know it, false when not all do. */
  tell: () => Promise<boolean>;
}

/**
 * Confirms that the primaries of this node use no more than the divisions give them now, when others
 * wait for that. It is written only after all of them were told.
 */
export class ShareConfirmation {
  readonly #options: ConfirmationOptions;
  readonly #closing = new AbortController();
  #running: Promise<void> | null = null;

  constructor(options: ConfirmationOptions) {
    this.#options = options;
  }

  look(): void {
    const { cache, nodeId } = this.#options;
    if (this.#running || awaitedShares(cache.state, nodeId) === null) return;
    this.#running = this.#confirm().finally(() => {
      this.#running = null;
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #confirm(): Promise<void> {
    const { store, cache, nodeId, clock, logger, tell } = this.#options;
    const { signal } = this.#closing;
    const revision = awaitedShares(cache.state, nodeId);
    await pause(clock, grantMs, signal);
    if (revision === null || signal.aborted || !(await tell())) return;
    const key = sharesAppliedKey(nodeId);
    const before = cache.state.sharesApplied.get(nodeId);
    try {
      await store.transact({
        compare: [{ key, modRevision: before?.modRevision ?? 0 }],
        operations: [{ type: 'put', key, value: encodeRecord({ ...before?.value, revision }) }],
      });
    } catch (error) {
      // the next look does it again
      logger.debug({ error: StorError.from(error).message }, 'shares are not confirmed yet');
    }
  }
}
