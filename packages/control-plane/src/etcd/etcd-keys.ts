import { hasCode, StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type {
  ClusterStore,
  KeyValue,
  StoreCallOptions,
  Transaction,
  TransactionResult,
  WatchEvent,
} from '../cluster-store.ts';
import type {
  EtcdHeader,
  EtcdLeaseResponse,
  EtcdRangeResponse,
  EtcdTxnResponse,
} from '../core/etcd/etcd-messages.ts';
import {
  checkEtcdTransaction,
  isLeaseId,
  itemOf,
  keyBytes,
  leaseIdFrom,
  rangeEnd,
  txnRequest,
} from '../core/etcd/etcd-values.ts';
import { checkId, checkKey, checkLeaseMs, checkTransaction } from '../core/kv/kv-command.ts';
import { CallDeadline } from '../embedded/call-deadline.ts';
import type { EtcdCalls } from './etcd-calls.ts';
import { watchEtcd } from './etcd-watch.ts';

/** Keys in one answer of a listing: some 100 KiB of records, and far below the largest message. */
const pageKeys = 500;
/** Calls that wait at once, without etcd up to their time limit. */
const maxCallsUnderWay = 10_000;

export type KeyStore = Pick<
  ClusterStore,
  'get' | 'list' | 'transact' | 'watch' | 'grantLease' | 'renewLease' | 'revokeLease'
>;

export interface EtcdKeysParts {
  calls: EtcdCalls;
  /** goes before every key; not empty */
  keyPrefix: string;
  clock: Clock;
  random: Random;
  logger: Logger;
  closed: AbortSignal;
}

/** The keys below a prefix of an etcd cluster, as a `ClusterStore` has them. */
export class EtcdKeys implements KeyStore {
  readonly #parts: EtcdKeysParts;
  readonly #calls: EtcdCalls;
  readonly #prefix: string;
  readonly #underWay = new Set<Promise<unknown>>();

  constructor(parts: EtcdKeysParts) {
    this.#parts = parts;
    this.#calls = parts.calls;
    this.#prefix = parts.keyPrefix;
  }

  get(key: string, options: StoreCallOptions & { local?: boolean } = {}): Promise<KeyValue | null> {
    return this.#call(options, async (deadline) => {
      checkKey(key);
      const range = { key: keyBytes(this.#prefix + key) };
      const { kvs } = await this.#range(range, options.local ?? false, deadline);
      return kvs[0] ? itemOf(kvs[0], this.#prefix) : null;
    });
  }

  list(
    prefix: string,
    options: StoreCallOptions & { local?: boolean } = {},
  ): Promise<{ revision: number; items: KeyValue[] }> {
    return this.#call(options, async (deadline) => {
      for (;;) {
        try {
          return await this.#listPages(this.#prefix + prefix, options.local ?? false, deadline);
        } catch (error) {
          // the revision of the first page was compacted before the last: begin again
          if (!hasCode(error, 'FAILED_PRECONDITION')) throw error;
        }
      }
    });
  }

  transact(transaction: Transaction, options: StoreCallOptions = {}): Promise<TransactionResult> {
    return this.#call(options, async (deadline) => {
      checkTransaction(transaction);
      checkEtcdTransaction(transaction, this.#prefix);
      for (const operation of transaction.operations) {
        if (operation.type === 'put' && operation.leaseId) checkLeaseExists(operation.leaseId);
      }
      const { succeeded, header } = await this.#calls.run(
        {
          service: 'KV',
          method: 'Txn',
          request: txnRequest(transaction, this.#prefix),
          once: transaction.operations.length > 0,
          decode: (response: EtcdTxnResponse) => response,
        },
        deadline,
      );
      return { succeeded, revision: Number(header.revision) };
    });
  }

  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<WatchEvent[]> {
    const range = { prefix: this.#prefix + prefix, keyPrefix: this.#prefix, afterRevision };
    return watchEtcd({ ...this.#parts, ...range, signal });
  }

  grantLease(ttlMs: number, options: StoreCallOptions = {}): Promise<{ leaseId: string }> {
    return this.#call(options, async (deadline) => {
      checkLeaseMs(ttlMs);
      const leaseId = leaseIdFrom(this.#parts.random.bytes(8));
      // etcd counts whole seconds, and lengthens what is shorter than it can do: never too short
      const request = { id: leaseId, ttl: Math.ceil(ttlMs / 1000) };
      const decode = (response: EtcdLeaseResponse): EtcdLeaseResponse => response;
      try {
        await this.#calls.run(
          { service: 'Lease', method: 'LeaseGrant', request, decode },
          deadline,
        );
      } catch (error) {
        // of an earlier try whose answer was lost: the id is ours alone
        if (!hasCode(error, 'ALREADY_EXISTS')) throw error;
      }
      return { leaseId };
    });
  }

  renewLease(leaseId: string, options: StoreCallOptions = {}): Promise<void> {
    return this.#call(options, async (deadline) => {
      checkId(leaseId, 'a lease id');
      checkLeaseExists(leaseId);
      while (!(await this.#renewOnce(leaseId, deadline))) {
        // leaders changed meanwhile: the new one may not know of the renewal
      }
    });
  }

  revokeLease(leaseId: string, options: StoreCallOptions = {}): Promise<void> {
    return this.#call(options, async (deadline) => {
      checkId(leaseId, 'a lease id');
      if (!isLeaseId(leaseId)) return;
      const decode = (response: EtcdLeaseResponse): EtcdLeaseResponse => response;
      const call = { service: 'Lease' as const, method: 'LeaseRevoke', request: { id: leaseId } };
      try {
        await this.#calls.run({ ...call, decode }, deadline);
      } catch (error) {
        if (!hasCode(error, 'NOT_FOUND')) throw error;
      }
    });
  }

  /** After the `closed` signal: resolves when no call is under way any more. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#underWay);
  }

  /**
   * A renewal is done by etcd's leader without asking anybody, so one that leads no more may answer
   * it too while the new one lets the lease end. The answer counts when a quorum confirms afterwards
   * that no leader of a later term has been elected: then the one who renewed it led all the time.
   */
  async #renewOnce(leaseId: string, deadline: CallDeadline): Promise<boolean> {
    const { ttl, header } = await this.#calls.run(
      {
        service: 'Lease',
        method: 'LeaseKeepAlive',
        request: { id: leaseId },
        decode: (response: EtcdLeaseResponse) => response,
      },
      deadline,
    );
    if (Number(ttl) <= 0) throw leaseNotFound(leaseId);
    const after = await this.#range(
      { key: keyBytes(this.#prefix), countOnly: true },
      false,
      deadline,
    );
    return after.header.raftTerm === header.raftTerm;
  }

  async #listPages(
    prefix: string,
    local: boolean,
    deadline: CallDeadline,
  ): Promise<{ revision: number; items: KeyValue[] }> {
    const end = rangeEnd(prefix);
    const items: KeyValue[] = [];
    let key = keyBytes(prefix);
    let revision = 0;
    for (;;) {
      const page = await this.#range(
        { key, rangeEnd: end, limit: pageKeys, revision },
        local,
        deadline,
      );
      if (revision === 0) revision = Number(page.header.revision);
      for (const kv of page.kvs) items.push(itemOf(kv, this.#prefix));
      const last = page.kvs.at(-1);
      if (!page.more || !last) return { revision, items };
      key = new Uint8Array([...last.key, 0]);
    }
  }

  async #range(
    request: { key: Uint8Array; revision?: number } & Record<string, unknown>,
    local: boolean,
    deadline: CallDeadline,
  ): Promise<EtcdRangeResponse> {
    if (!local) {
      const decode = (response: EtcdRangeResponse): EtcdRangeResponse => response;
      return this.#calls.run({ service: 'KV', method: 'Range', request, decode }, deadline);
    }
    // never older than what this store has told before
    const least = this.#calls.revision;
    const isRecent = ({ revision }: EtcdHeader): boolean => Number(revision) >= least;
    return this.#calls.run(
      {
        service: 'KV',
        method: 'Range',
        request: { ...request, serializable: true },
        local: true,
        decode: (response: EtcdRangeResponse) => (isRecent(response.header) ? response : null),
      },
      deadline,
    );
  }

  async #call<T>(
    options: StoreCallOptions,
    run: (deadline: CallDeadline) => Promise<T>,
  ): Promise<T> {
    const deadline = new CallDeadline(this.#parts.clock, options, this.#parts.closed);
    try {
      if (deadline.end !== null) throw deadline.error(false, null);
      if (this.#underWay.size >= maxCallsUnderWay) {
        throw new StorError('UNAVAILABLE', `${maxCallsUnderWay} calls to etcd wait already`);
      }
      const promise = run(deadline);
      this.#underWay.add(promise);
      return await promise.finally(() => this.#underWay.delete(promise));
    } finally {
      deadline.dispose();
    }
  }
}

function leaseNotFound(leaseId: string): StorError {
  return new StorError('NOT_FOUND', `lease ${leaseId} has ended`);
}

function checkLeaseExists(leaseId: string): void {
  if (!isLeaseId(leaseId)) throw leaseNotFound(leaseId);
}
