import { hasCode } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type {
  ClusterStore,
  KeyValue,
  StoreCallOptions,
  StoreStatus,
  Transaction,
  TransactionResult,
  WatchEvent,
} from '../cluster-store.ts';
import { LatencyHistogram } from '../embedded/latency-histogram.ts';
import { longLivedController } from '../resources/long-lived.ts';
import { EtcdCalls } from './etcd-calls.ts';
import { EtcdCompactor } from './etcd-compactor.ts';
import { EtcdElection } from './etcd-election.ts';
import type { EtcdEndpoint } from './etcd-endpoint.ts';
import { EtcdHistory, type EtcdPin } from './etcd-history.ts';
import { EtcdKeys } from './etcd-keys.ts';
import { EtcdMirror } from './etcd-mirror.ts';
import { keysPrefix, openEtcdEndpoints, type EtcdFiles } from './open-etcd.ts';

/** Nobody is said to lead when etcd has been silent for this long: what was seen is old (ms). */
const silentMs = 5_000;

export interface EtcdStoreOptions {
  /** of this member among those that elect a leader */
  id: string;
  /** `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]` */
  address: string;
  /** absent: without TLS */
  tls?: EtcdFiles | undefined;
  /** which etcd it is @default whichever answers first */
  pin?: EtcdPin | undefined;
  clock: Clock;
  random: Random;
  logger: Logger;
}

/**
 * The cluster store in an etcd cluster (v3 API). Members are clients of etcd; among them one is
 * elected leader for the controllers. Reads and writes are linearizable by etcd's own Raft.
 */
export class EtcdClusterStore implements ClusterStore {
  readonly address: string;
  readonly #calls: EtcdCalls;
  readonly #keys: EtcdKeys;
  readonly #electionKeys: EtcdKeys;
  readonly #election: EtcdElection;
  readonly #compactor: EtcdCompactor;
  readonly #mirror: EtcdMirror;
  readonly #history: EtcdHistory | null;
  readonly #keysPrefix: string;
  readonly #clock: Clock;
  readonly #latency = new LatencyHistogram();
  readonly #closed = longLivedController();
  readonly #electionClosed = longLivedController();
  readonly #listeners = new Set<(isLeader: boolean) => void>();
  #closing: Promise<void> | null = null;

  private constructor(options: EtcdStoreOptions, endpoints: EtcdEndpoint[], prefix: string) {
    const { id, clock, random, logger } = options;
    this.address = options.address;
    this.#clock = clock;
    // members begin with different servers
    const startAt = Math.floor(random.next() * endpoints.length);
    const { pin } = options;
    this.#keysPrefix = keysPrefix(prefix);
    this.#history = pin ? new EtcdHistory({ pin, anyKey: this.#keysPrefix, clock, logger }) : null;
    this.#calls = new EtcdCalls(endpoints, { clock, logger, history: this.#history }, startAt);
    const common = { calls: this.#calls, clock, random, logger };
    this.#keys = new EtcdKeys({
      ...common,
      keyPrefix: keysPrefix(prefix),
      closed: this.#closed.signal,
    });
    this.#electionKeys = new EtcdKeys({
      ...common,
      keyPrefix: `${prefix}election/`,
      closed: this.#electionClosed.signal,
    });
    this.#election = new EtcdElection({
      id,
      keys: this.#electionKeys,
      clock,
      random,
      logger,
      changed: (isLeader) => {
        for (const listener of [...this.#listeners]) listener(isLeader);
      },
    });
    this.#mirror = new EtcdMirror({
      keys: this.#keys,
      clock,
      logger,
      closed: this.#closed.signal,
      heard: (key, revision) => this.#history?.heard(this.#keysPrefix + key, revision),
    });
    this.#compactor = new EtcdCompactor({
      calls: this.#calls,
      isLeader: () => this.#election.isLeader,
      clock,
      logger,
      closed: this.#closed.signal,
    });
  }

  /**
   * Returns before etcd was reached. Errors: INVALID_ARGUMENT (address, certificate files that
   * cannot be read).
   */
  static async open(options: EtcdStoreOptions): Promise<EtcdClusterStore> {
    const { endpoints, prefix } = await openEtcdEndpoints(options.address, options.tls);
    return new EtcdClusterStore(options, endpoints, prefix);
  }

  /**
   * Resolves when etcd was found to be the one that this node knows, or could not be asked (false).
   * FOREIGN_DATA when it is not.
   */
  async verify(timeoutMs: number): Promise<boolean> {
    try {
      await this.#keys.get('/', { timeoutMs });
      return true;
    } catch (error) {
      if (hasCode(error, 'FOREIGN_DATA')) throw error;
      return false;
    }
  }

  get(key: string, options?: StoreCallOptions & { local?: boolean }): Promise<KeyValue | null> {
    return this.#orMirror(options, this.#keys.get(key, options), () => this.#mirror.get(key));
  }

  list(
    prefix: string,
    options?: StoreCallOptions & { local?: boolean },
  ): Promise<{ revision: number; items: KeyValue[] }> {
    const read = this.#keys.list(prefix, options);
    return this.#orMirror(options, read, () => this.#mirror.list(prefix));
  }

  async transact(transaction: Transaction, options?: StoreCallOptions): Promise<TransactionResult> {
    const startMs = this.#clock.monotonicMs();
    const result = await this.#keys.transact(transaction, options);
    this.#latency.observe((this.#clock.monotonicMs() - startMs) / 1000);
    if (this.#history && result.succeeded && transaction.operations.length > 0) {
      const put = transaction.operations.find(({ type }) => type === 'put');
      await this.#history.wrote(put ? this.#keysPrefix + put.key : null, result.revision);
    }
    return result;
  }

  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<WatchEvent[]> {
    return this.#keys.watch(prefix, afterRevision, signal);
  }

  grantLease(ttlMs: number, options?: StoreCallOptions): Promise<{ leaseId: string }> {
    return this.#keys.grantLease(ttlMs, options);
  }

  renewLease(leaseId: string, options?: StoreCallOptions): Promise<void> {
    return this.#keys.renewLease(leaseId, options);
  }

  revokeLease(leaseId: string, options?: StoreCallOptions): Promise<void> {
    return this.#keys.revokeLease(leaseId, options);
  }

  /** `term` counts leaders; both indexes are the newest revision that etcd told of. */
  status(): StoreStatus {
    const { isLeader, seen } = this.#election;
    const { revision } = this.#calls;
    const isSilent = this.#clock.monotonicMs() - this.#calls.answeredMs > silentMs;
    return {
      leaderId: isSilent ? null : seen.leaderId,
      isLeader,
      term: seen.term,
      commitIndex: revision,
      appliedIndex: revision,
      revision,
    };
  }

  /** Time of committed transactions of this member, from call to result, for the metrics page. */
  commitLatency(): { bounds: readonly number[]; counts: readonly number[]; sum: number } {
    return this.#latency.read();
  }

  onLeadership(listener: (isLeader: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  /** Calls under way end with an error first. Works twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A local read for which no server is there is answered from what was seen last. */
  async #orMirror<T>(
    options: { local?: boolean } | undefined,
    read: Promise<T>,
    known: () => T,
  ): Promise<T> {
    try {
      return await read;
    } catch (error) {
      const mayBeOld = options?.local === true && !this.#closed.signal.aborted;
      if (!mayBeOld || !this.#mirror.isLoaded || !hasCode(error, 'UNAVAILABLE')) throw error;
      return known();
    }
  }

  async #close(): Promise<void> {
    this.#closed.abort();
    await this.#compactor.close();
    await this.#mirror.settled();
    // gives the seat back, which needs etcd
    await this.#election.close();
    this.#electionClosed.abort();
    await this.#keys.settled();
    await this.#electionKeys.settled();
    this.#calls.close();
    this.#history?.close();
  }
}
