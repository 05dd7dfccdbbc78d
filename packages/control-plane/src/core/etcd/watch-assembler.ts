import { StorError } from '@stor/protocol';
import type { WatchEvent } from '../../cluster-store.ts';
import type { EtcdEvent, EtcdWatchResponse } from './etcd-messages.ts';
import { keyText, leaseText } from './etcd-values.ts';

/**
 * Makes batches of one revision each from the responses of one etcd watch. etcd never splits a
 * revision over responses, except by fragments, which are put together here. What was given out
 * before is left out, so a watch that begins anew at any point gives nothing twice.
 */
export class WatchAssembler {
  readonly #keyPrefix: string;
  #after: number;
  #fragments: EtcdEvent[] = [];

  /** `keyPrefix`: taken off the keys. Only changes after the revision are given out. */
  constructor(keyPrefix: string, afterRevision: number) {
    this.#keyPrefix = keyPrefix;
    this.#after = afterRevision;
  }

  /** Changes up to it have been given out. */
  get afterRevision(): number {
    return this.#after;
  }

  /** A new stream begins: what is left of a response that never ended does not count. */
  restart(): void {
    this.#fragments = [];
  }

  /** PROTOCOL when the revisions go back. */
  add(response: Pick<EtcdWatchResponse, 'events' | 'fragment'>): WatchEvent[][] {
    this.#fragments.push(...response.events);
    if (response.fragment) return [];
    const events = this.#fragments;
    this.#fragments = [];
    const batches: WatchEvent[][] = [];
    let batch: WatchEvent[] = [];
    let last = 0;
    for (const event of events) {
      const revision = Number(event.kv.modRevision);
      if (revision < last) {
        throw new StorError('PROTOCOL', `etcd told of revision ${revision} after ${last}`);
      }
      if (revision > last && batch.length > 0) {
        batches.push(batch);
        batch = [];
      }
      last = revision;
      if (revision > this.#after) batch.push(this.#eventOf(event, revision));
    }
    if (batch.length > 0) batches.push(batch);
    this.#after = Math.max(this.#after, last);
    return batches;
  }

  #eventOf({ type, kv, prevKv }: EtcdEvent, revision: number): WatchEvent {
    const key = keyText(kv.key).slice(this.#keyPrefix.length);
    if (type === 'PUT') {
      const value = new Uint8Array(kv.value);
      return { type: 'put', key, value, revision, leaseId: leaseText(kv.lease) };
    }
    return { type: 'delete', key, value: null, revision, leaseId: leaseText(prevKv?.lease ?? '0') };
  }
}
