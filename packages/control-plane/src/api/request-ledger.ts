import { createHash } from 'node:crypto';
import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore, Compare } from '../cluster-store.ts';
import { maxBatchItems } from '../resources/batch-limits.ts';
import { requestKey, requestsPrefix } from '../resources/keys.ts';
import { decodeRequest, encodeRecord } from '../resources/records.ts';
import type { RequestRecord } from '../resources/records.ts';

/** How long a request is remembered (ms): a client has given up its retries long before. */
export const requestMemoryMs = 3_600_000;
/** More than these are not kept, the oldest go first: with their answers at most some 4 MiB. */
export const maxRequests = 1_000;
/** A longer answer is not kept but read again (characters of JSON). */
const maxAnswerLength = 4_096;
/** How often the leader drops old ones (ms). */
const trimMs = 60_000;
/** Time for what is only a convenience to later calls (ms). */
const noteTimeoutMs = 2_000;

export interface KnownRequest {
  key: string;
  modRevision: number;
  record: RequestRecord;
}

/** Requests with an id that were taken, and what became of them; in the cluster store, bounded. */
export class RequestLedger {
  readonly #store: ClusterStore;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #cancelTrim: () => void = () => {};

  constructor(options: { store: ClusterStore; clock: Clock; logger: Logger }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#trimLater();
  }

  close(): void {
    this.#cancelTrim();
  }

  async get(requestId: string): Promise<KnownRequest | null> {
    const key = requestKey(requestId);
    const item = await this.#store.get(key);
    return item && { key, modRevision: item.modRevision, record: decodeRequest(key, item.value) };
  }

  /** Takes a request, as long as `compare` holds; null when it does not or the id is known. */
  async begin(
    requestId: string,
    wanted: { text: string; objectId: string },
    compare: Compare[],
  ): Promise<KnownRequest | null> {
    const key = requestKey(requestId);
    const record: RequestRecord = {
      hash: hashOf(wanted.text),
      objectId: wanted.objectId,
      state: 'begun',
      sinceMs: this.#clock.wallMs(),
    };
    const { succeeded, revision } = await this.#store.transact({
      compare: [{ key, modRevision: 0 }, ...compare],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
    return succeeded ? { key, modRevision: revision, record } : null;
  }

  /** Keeps the answer. A failure costs a later repetition some work, so it is no error of this call. */
  async finish(known: KnownRequest, answer: object): Promise<void> {
    const text = JSON.stringify(answer);
    const record: RequestRecord = {
      ...known.record,
      state: 'made',
      ...(text.length <= maxAnswerLength ? { answer: text } : {}),
    };
    await this.#note(known, { type: 'put', key: known.key, value: encodeRecord(record) });
  }

  /** A request that was refused and has changed nothing: a later one with the id is a new one. */
  async forget(known: KnownRequest): Promise<void> {
    await this.#note(known, { type: 'delete', key: known.key });
  }

  async #note(
    { key, modRevision }: KnownRequest,
    operation: Parameters<ClusterStore['transact']>[0]['operations'][number],
  ): Promise<void> {
    const transaction = { compare: [{ key, modRevision }], operations: [operation] };
    try {
      await this.#store.transact(transaction, { timeoutMs: noteTimeoutMs });
    } catch (error) {
      const { message } = StorError.from(error);
      this.#logger.debug({ key, error: message }, 'what became of a request is not noted');
    }
  }

  #trimLater(): void {
    this.#cancelTrim = this.#clock.after(trimMs, () => {
      this.#trimLater();
      if (this.#store.status().isLeader) void this.trim();
    });
  }

  /** Drops what is too old or too much; the leader does it now and then. */
  async trim(): Promise<void> {
    try {
      const { items } = await this.#store.list(requestsPrefix, { local: true });
      const nowMs = this.#clock.wallMs();
      const aged = items
        .map(({ key, value, modRevision }) => {
          return { key, modRevision, ageMs: nowMs - decodeRequest(key, value).sinceMs };
        })
        .sort((a, b) => a.ageMs - b.ageMs);
      const surplus = aged.filter(({ ageMs }, i) => i >= maxRequests || ageMs > requestMemoryMs);
      for (let at = 0; at < surplus.length; at += maxBatchItems) {
        const some = surplus.slice(at, at + maxBatchItems);
        await this.#store.transact({
          compare: [],
          operations: some.map(({ key }) => ({ type: 'delete' as const, key })),
        });
      }
    } catch (error) {
      const { message } = StorError.from(error);
      this.#logger.debug({ error: message }, 'old requests are not dropped yet');
    }
  }
}

export function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
