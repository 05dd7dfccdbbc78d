import { StorError } from '@stor/protocol';
import { systemClock, systemRandom, type Clock, type Random } from '@stor/runtime';
import { ClusterStoreMachine } from '../cluster-store-machine.ts';
import { resultOrThrow } from '../cluster-store-result.ts';
import { copyOfItem, watchChanges } from '../cluster-store-watch.ts';
import type {
  ClusterStore,
  KeyValue,
  StoreCallOptions,
  StoreStatus,
  Transaction,
  TransactionResult,
  WatchEvent,
} from '../cluster-store.ts';
import { checkKey, encodeCommand, type KvCommandBody } from '../core/kv/kv-command.ts';
import { KvState, type KvResult } from '../core/kv/kv-state.ts';
import type { kvLimits } from '../core/kv/kv-limits.ts';
import { LeaseDeadlines } from '../core/kv/lease-deadlines.ts';

export interface MemoryClusterOptions {
  /** default ['n1'] */
  ids?: string[];
  clock?: Clock;
  random?: Random;
  /** smaller limits, to reach them in a test */
  limits?: Partial<Record<keyof typeof kvLimits, number>>;
}

/** How often leases are looked at (ms). */
const leaseCheckMs = 50;

/**
 * The cluster store of several members without Raft, disk or network: one state machine, and a
 * `ClusterStore` per member that shares it. A test says who leads; without a leader every call
 * fails as it does without a quorum.
 */
export class MemoryCluster {
  readonly machine: ClusterStoreMachine;
  readonly clock: Clock;
  readonly #random: Random;
  readonly #stores = new Map<string, MemoryClusterStore>();
  readonly #deadlines = new LeaseDeadlines();
  #cancelCheck: () => void = () => {};
  #leaderId: string | null = null;
  #term = 0;
  #commands = 0;

  constructor(options: MemoryClusterOptions = {}) {
    this.machine = new ClusterStoreMachine(new KvState(options.limits));
    this.clock = options.clock ?? systemClock;
    this.#random = options.random ?? systemRandom;
    const ids = options.ids ?? ['n1'];
    for (const id of ids) this.#stores.set(id, new MemoryClusterStore(this, id));
    this.setLeader(ids[0] ?? null);
  }

  get leaderId(): string | null {
    return this.#leaderId;
  }

  store(id: string): MemoryClusterStore {
    const store = this.#stores.get(id);
    if (!store) throw new StorError('NOT_FOUND', `no member ${id}`);
    return store;
  }

  /** A member that begins, under an id that none has or whose store is closed. */
  join(id: string): MemoryClusterStore {
    const known = this.#stores.get(id);
    if (known && !known.isClosed) throw new StorError('ALREADY_EXISTS', `member ${id} is open`);
    const store = new MemoryClusterStore(this, id);
    this.#stores.set(id, store);
    if (this.#leaderId === null || !this.#stores.has(this.#leaderId)) this.setLeader(id);
    return store;
  }

  /** A member that is not closed; null when all are. */
  openMember(): string | null {
    for (const store of this.#stores.values()) if (!store.isClosed) return store.id;
    return null;
  }

  /** Makes a member the leader; null: there is none, as without a quorum. */
  setLeader(id: string | null): void {
    if (id === this.#leaderId) return;
    const old = this.#leaderId;
    this.#leaderId = id;
    this.#cancelCheck();
    this.#deadlines.stop();
    if (old !== null) this.#stores.get(old)?.notifyLeadership(false);
    if (id === null) return;
    this.#term++;
    this.#deadlines.lead(this.#term);
    this.#checkLeases();
    this.#stores.get(id)?.notifyLeadership(true);
  }

  /** Ends leases, and the timer with them: the process may exit. */
  close(): void {
    this.setLeader(null);
  }

  statusOf(id: string): StoreStatus {
    return {
      leaderId: this.#leaderId,
      isLeader: this.#leaderId === id,
      term: this.#term,
      commitIndex: this.#commands,
      appliedIndex: this.#commands,
      revision: this.machine.state.revision,
    };
  }

  /** UNAVAILABLE without a leader. */
  checkLeader(): void {
    if (this.#leaderId === null) {
      throw new StorError('UNAVAILABLE', 'the cluster store has no leader');
    }
  }

  newId(): string {
    return Array.from(this.#random.bytes(8), (b) => b.toString(16).padStart(2, '0')).join('');
  }

  execute(body: KvCommandBody): KvResult {
    const request = { id: this.newId(), since: this.machine.state.sequence };
    // through the codec, as in a real member: limits are checked and values are copied
    const data = encodeCommand({ ...body, request });
    this.#commands++;
    return this.machine.apply([{ term: this.#term, data }])[0] as KvResult;
  }

  renewLease(leaseId: string): void {
    const lease = this.machine.state.lease(leaseId);
    if (!lease) throw new StorError('NOT_FOUND', `lease ${leaseId} has ended`);
    this.#deadlines.renew(lease, this.clock.monotonicMs());
  }

  #checkLeases(): void {
    const now = this.clock.monotonicMs();
    for (const { leaseId } of this.#deadlines.due(this.machine.state.leases(), now)) {
      this.execute({ type: 'revokeLease', leaseId, onlyInTerm: this.#term });
    }
    this.#cancelCheck = this.clock.after(leaseCheckMs, () => {
      this.#checkLeases();
    });
  }
}

/** One member of a `MemoryCluster`. */
export class MemoryClusterStore implements ClusterStore {
  readonly id: string;
  readonly cluster: MemoryCluster;
  readonly #listeners = new Set<(isLeader: boolean) => void>();
  readonly #closed = new AbortController();

  constructor(cluster: MemoryCluster, id: string) {
    this.cluster = cluster;
    this.id = id;
  }

  /** A store of one member of its own, which leads. */
  static open(options: MemoryClusterOptions = {}): MemoryClusterStore {
    return new MemoryCluster(options).store(options.ids?.[0] ?? 'n1');
  }

  async get(
    key: string,
    options: StoreCallOptions & { local?: boolean } = {},
  ): Promise<KeyValue | null> {
    checkKey(key);
    await this.#enter(options);
    const item = this.cluster.machine.state.get(key);
    return item ? copyOfItem(item) : null;
  }

  async list(
    prefix: string,
    options: StoreCallOptions & { local?: boolean } = {},
  ): Promise<{ revision: number; items: KeyValue[] }> {
    await this.#enter(options);
    const { state } = this.cluster.machine;
    return { revision: state.revision, items: state.list(prefix).map(copyOfItem) };
  }

  async transact(
    transaction: Transaction,
    options: StoreCallOptions = {},
  ): Promise<TransactionResult> {
    await this.#enter(options);
    const result = resultOrThrow(this.cluster.execute({ type: 'transact', transaction }));
    return { succeeded: result.succeeded, revision: result.revision };
  }

  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<WatchEvent[]> {
    const { machine } = this.cluster;
    return watchChanges(machine, prefix, afterRevision, signal, this.#closed.signal);
  }

  async grantLease(ttlMs: number, options: StoreCallOptions = {}): Promise<{ leaseId: string }> {
    await this.#enter(options);
    const leaseId = this.cluster.newId();
    resultOrThrow(this.cluster.execute({ type: 'grantLease', leaseId, ttlMs }));
    this.cluster.renewLease(leaseId);
    return { leaseId };
  }

  async renewLease(leaseId: string, options: StoreCallOptions = {}): Promise<void> {
    await this.#enter(options);
    this.cluster.renewLease(leaseId);
  }

  async revokeLease(leaseId: string, options: StoreCallOptions = {}): Promise<void> {
    await this.#enter(options);
    resultOrThrow(this.cluster.execute({ type: 'revokeLease', leaseId, onlyInTerm: null }));
  }

  status(): StoreStatus {
    return this.cluster.statusOf(this.id);
  }

  onLeadership(listener: (isLeader: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
    };
  }

  notifyLeadership(isLeader: boolean): void {
    for (const listener of [...this.#listeners]) listener(isLeader);
  }

  /** Ends this member; when it leads, the next open one leads, as after an election. */
  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    if (this.cluster.leaderId === this.id) this.cluster.setLeader(this.cluster.openMember());
  }

  get isClosed(): boolean {
    return this.#closed.signal.aborted;
  }

  /** What every call does first. It waits once, so that no caller sees its own call in its turn. */
  async #enter(options: StoreCallOptions & { local?: boolean }): Promise<void> {
    await Promise.resolve();
    if (options.signal?.aborted) throw new StorError('ABORTED', 'the call was aborted');
    if (this.isClosed) throw new StorError('UNAVAILABLE', 'the cluster store is closed');
    if (!options.local) this.cluster.checkLeader();
  }
}
