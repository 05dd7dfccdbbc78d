import type { KeyValue, Transaction, WatchEvent } from '../../cluster-store.ts';
import { ChangeHistory, type ChangeBatch } from './change-history.ts';
import type { KvCommand } from './kv-command.ts';
import { kvLimits } from './kv-limits.ts';
import { OrderedKeys } from './ordered-keys.ts';
import { RememberedRequests, type RememberedRequest } from './remembered-requests.ts';

/** What a command did. Only `done` with `succeeded` changed anything. */
export interface KvResult {
  status:
    /** applied; `succeeded` is false when a compare did not hold or an expiry came too late */
    | 'done'
    /** a put names a lease that does not exist */
    | 'leaseNotFound'
    /** a grant names a lease that exists */
    | 'leaseExists'
    /** a limit of the state (`maxStateBytes`, `maxLeases`) would be passed */
    | 'full'
    /** the request is so old that it may have been applied before and been forgotten */
    | 'forgotten';
  succeeded: boolean;
  /** revision after the command */
  revision: number;
}

export interface LeaseRecord {
  leaseId: string;
  ttlMs: number;
}

/** Everything that a snapshot holds; the history of changes is not in it. */
export interface KvImage {
  revision: number;
  sequence: number;
  /** see `kvLevel` @default 1 */
  level?: number;
  items: KeyValue[];
  leases: LeaseRecord[];
  forgottenUpTo: number;
  requests: RememberedRequest[];
  /** fields of a newer program, carried along */
  extra: Record<string, unknown>;
}

type KvStateLimits = { [name in keyof typeof kvLimits]: number };

/**
 * The replicated state machine: the same commands in the same order give the same state on every
 * member. It reads no clock; when a lease ends is the leader's business (`LeaseDeadlines`), that it
 * has ended is a command.
 */
export class KvState {
  readonly #limits: KvStateLimits;
  #items = new Map<string, KeyValue>();
  #keys = new OrderedKeys();
  #leases = new Map<string, { ttlMs: number; keys: Set<string> }>();
  #requests: RememberedRequests;
  #history: ChangeHistory;
  #revision = 0;
  #sequence = 0;
  #level = 1;
  #bytes = 0;
  #extra: Record<string, unknown> = {};

  constructor(limits: Partial<KvStateLimits> = {}) {
    this.#limits = { ...kvLimits, ...limits };
    this.#requests = new RememberedRequests(this.#limits.maxRememberedRequests);
    this.#history = this.#newHistory();
  }

  /** counts transactions that changed something */
  get revision(): number {
    return this.#revision;
  }
  /** counts commands */
  get sequence(): number {
    return this.#sequence;
  }
  /** by which commands are applied; see `kvLevel` */
  get level(): number {
    return this.#level;
  }
  /** Watches may start at this revision or later. */
  get droppedRevision(): number {
    return this.#history.droppedRevision;
  }

  /** The stored object: callers must not change it. */
  get(key: string): Readonly<KeyValue> | null {
    return this.#items.get(key) ?? null;
  }

  list(prefix: string): Readonly<KeyValue>[] {
    return this.#keys.withPrefix(prefix).map((key) => this.#items.get(key) as KeyValue);
  }

  leases(): LeaseRecord[] {
    return Array.from(this.#leases, ([leaseId, { ttlMs }]) => ({ leaseId, ttlMs }));
  }

  lease(leaseId: string): LeaseRecord | null {
    const lease = this.#leases.get(leaseId);
    return lease ? { leaseId, ttlMs: lease.ttlMs } : null;
  }

  nextChangeAfter(revision: number): ChangeBatch | null {
    return this.#history.nextAfter(revision);
  }

  /** `term` is the Raft term of the entry. Never throws for a command that passed `checkCommand`. */
  apply(command: KvCommand, term: number): KvResult {
    const { id, since } = command.request;
    const known = this.#requests.find(id);
    if (known) return known;
    if (since < this.#requests.forgottenUpTo) return this.#result('forgotten');
    this.#sequence++;
    const result = this.#applyNew(command, term);
    this.#requests.add({ id, sequence: this.#sequence, result });
    return result;
  }

  image(): KvImage {
    return {
      revision: this.#revision,
      sequence: this.#sequence,
      ...(this.#level > 1 ? { level: this.#level } : {}),
      items: this.list(''),
      leases: this.leases(),
      forgottenUpTo: this.#requests.forgottenUpTo,
      requests: [...this.#requests.all()],
      extra: this.#extra,
    };
  }

  /** Replaces everything. Watches from before the image's revision find their changes gone. */
  restore(image: KvImage): void {
    this.#items = new Map(image.items.map((item) => [item.key, item]));
    this.#keys = new OrderedKeys([...this.#items.keys()]);
    this.#leases = new Map(
      image.leases.map(({ leaseId, ttlMs }) => [leaseId, { ttlMs, keys: new Set<string>() }]),
    );
    for (const item of image.items) this.#leases.get(item.leaseId)?.keys.add(item.key);
    this.#requests.restore(image.forgottenUpTo, image.requests);
    this.#revision = image.revision;
    this.#sequence = image.sequence;
    this.#level = image.level ?? 1;
    this.#bytes = image.items.reduce((sum, item) => sum + this.#bytesOf(item), 0);
    this.#extra = image.extra;
    this.#history = this.#newHistory();
  }

  #newHistory(): ChangeHistory {
    const { maxHistoryChanges, maxHistoryBytes } = this.#limits;
    return new ChangeHistory(this.#revision, {
      maxChanges: maxHistoryChanges,
      maxBytes: maxHistoryBytes,
    });
  }

  #applyNew(command: KvCommand, term: number): KvResult {
    switch (command.type) {
      case 'transact':
        return this.#transact(command.transaction);
      case 'grantLease':
        if (this.#leases.has(command.leaseId)) return this.#result('leaseExists');
        if (this.#leases.size >= this.#limits.maxLeases) return this.#result('full');
        this.#leases.set(command.leaseId, { ttlMs: command.ttlMs, keys: new Set() });
        return this.#result('done', true);
      case 'raiseLevel':
        this.#level = Math.max(this.#level, command.level);
        return this.#result('done', true);
      case 'revokeLease':
        if (command.onlyInTerm !== null && command.onlyInTerm !== term) return this.#result('done');
        return this.#revoke(command.leaseId);
    }
  }

  #transact({ compare, operations }: Transaction): KvResult {
    const holds = compare.every(
      ({ key, modRevision }) => (this.#items.get(key)?.modRevision ?? 0) === modRevision,
    );
    if (!holds) return this.#result('done');
    let growthBytes = 0;
    for (const operation of operations) {
      const old = this.#items.get(operation.key);
      if (old) growthBytes -= this.#bytesOf(old);
      if (operation.type === 'delete') continue;
      if (operation.leaseId && !this.#leases.has(operation.leaseId)) {
        return this.#result('leaseNotFound');
      }
      growthBytes += this.#bytesOf(operation);
    }
    // what frees space is always let through, or a full store could not be helped
    if (growthBytes > 0 && this.#bytes + growthBytes > this.#maxStateBytes) {
      return this.#result('full');
    }
    const revision = this.#revision + 1;
    const events: WatchEvent[] = [];
    for (const operation of operations) {
      if (operation.type === 'delete') this.#delete(operation.key, revision, events);
      else this.#put(operation, revision, events);
    }
    this.#commit(revision, events);
    return this.#result('done', true);
  }

  get #maxStateBytes(): number {
    const { maxStateBytes, maxStateBytesOfLevel2 } = this.#limits;
    return this.#level >= 2 ? maxStateBytesOfLevel2 : maxStateBytes;
  }

  #revoke(leaseId: string): KvResult {
    const lease = this.#leases.get(leaseId);
    if (!lease) return this.#result('done');
    const revision = this.#revision + 1;
    const events: WatchEvent[] = [];
    for (const key of [...lease.keys].sort()) this.#delete(key, revision, events);
    this.#leases.delete(leaseId);
    this.#commit(revision, events);
    return this.#result('done', true);
  }

  #commit(revision: number, events: WatchEvent[]): void {
    if (events.length === 0) return;
    this.#revision = revision;
    this.#history.add({ revision, events });
  }

  #put(
    { key, value, leaseId = '' }: { key: string; value: Uint8Array; leaseId?: string },
    revision: number,
    events: WatchEvent[],
  ): void {
    const old = this.#items.get(key);
    if (old) this.#forget(old);
    else this.#keys.add(key);
    const createRevision = old?.createRevision ?? revision;
    const item = { key, value, createRevision, modRevision: revision, leaseId };
    this.#items.set(key, item);
    this.#bytes += this.#bytesOf(item);
    this.#leases.get(leaseId)?.keys.add(key);
    events.push({ type: 'put', key, value, revision, leaseId });
  }

  #delete(key: string, revision: number, events: WatchEvent[]): void {
    const old = this.#items.get(key);
    if (!old) return;
    this.#forget(old);
    this.#items.delete(key);
    this.#keys.remove(key);
    events.push({ type: 'delete', key, value: null, revision, leaseId: old.leaseId });
  }

  #forget(item: KeyValue): void {
    this.#bytes -= this.#bytesOf(item);
    this.#leases.get(item.leaseId)?.keys.delete(item.key);
  }

  #bytesOf(item: { key: string; value: Uint8Array }): number {
    return item.key.length + item.value.length + this.#limits.keyOverheadBytes;
  }

  #result(status: KvResult['status'], succeeded = false): KvResult {
    return { status, succeeded, revision: this.#revision };
  }
}
