export interface KeyValue {
  key: string;
  value: Uint8Array;
  createRevision: number;
  /** revision of the last change; revisions count committed transactions that changed something */
  modRevision: number;
  /** the key is deleted when this lease ends; empty: none */
  leaseId: string;
}

/** `modRevision` 0 means: the key does not exist. */
export interface Compare {
  key: string;
  modRevision: number;
}

export type Operation =
  | { type: 'put'; key: string; value: Uint8Array; leaseId?: string }
  | { type: 'delete'; key: string };

export interface Transaction {
  /** all must hold, else nothing is done and `succeeded` is false */
  compare: Compare[];
  operations: Operation[];
}

export interface TransactionResult {
  succeeded: boolean;
  /** revision after the transaction (or the current one, when it did not succeed) */
  revision: number;
}

export interface WatchEvent {
  type: 'put' | 'delete';
  key: string;
  /** null for a delete */
  value: Uint8Array | null;
  revision: number;
  leaseId: string;
}

export interface StoreCallOptions {
  signal?: AbortSignal;
  /** ms; default 5,000 */
  timeoutMs?: number;
}

export interface StoreStatus {
  /** id of the leading member as this one sees it; null when there is none */
  leaderId: string | null;
  isLeader: boolean;
  term: number;
  commitIndex: number;
  appliedIndex: number;
  revision: number;
}

/** One member of a store that has members of its own. */
export interface StoreMember {
  id: string;
  role: 'leader' | 'voter' | 'learner';
  /** host:port; '' while it is not known */
  address: string;
  /** what the leader knows it to have of the log; 0: nothing yet */
  matchIndex: number;
  /** entries that it lacks */
  lagEntries: number;
  /** it has so much of the log that it may become a voter */
  isCaughtUp: boolean;
}

export interface MemberChange {
  /** `addVoter` promotes a learner, `addLearner` demotes a voter */
  type: 'addVoter' | 'addLearner' | 'remove';
  id: string;
}

/** The members of a store that is replicated by the nodes themselves. */
export interface StoreMembers {
  /** Changes when the store is made anew, from a backup or one survivor; '' is the first one. */
  readonly storeId: string;
  /** By this member's log, which may lag; nobody is asked. Both empty: it has heard nothing yet. */
  local(): { voters: string[]; learners: string[] };
  /** Where members are reached, as far as this one knows. */
  addresses(): { id: string; address: string }[];
  /** The leader says how far each is. UNAVAILABLE. */
  read(options?: StoreCallOptions): Promise<StoreMember[]>;
  /**
   * Leader only: changes members; resolves when the change is complete. UNAVAILABLE (nothing
   * happened), OUTCOME_UNKNOWN, FAILED_PRECONDITION.
   */
  change(changes: MemberChange[], signal: AbortSignal): Promise<void>;
}

/**
 * A small ordered key-value store with transactions, watches and leases; embedded on Raft, later
 * etcd. All calls work on every member. Reads are linearizable unless `local` is asked for.
 * Errors: UNAVAILABLE (no leader or quorum; nothing has happened), OUTCOME_UNKNOWN (the write may
 * or may not have happened), TIMEOUT, ABORTED.
 */
export interface ClusterStore {
  get(key: string, options?: StoreCallOptions & { local?: boolean }): Promise<KeyValue | null>;
  /** Keys that start with `prefix`, in order, and the revision at which they were read. */
  list(
    prefix: string,
    options?: StoreCallOptions & { local?: boolean },
  ): Promise<{ revision: number; items: KeyValue[] }>;
  transact(transaction: Transaction, options?: StoreCallOptions): Promise<TransactionResult>;
  /**
   * Changes of keys under `prefix` with revision > `afterRevision`, in order, each batch one
   * revision, until the signal aborts. Throws FAILED_PRECONDITION when those changes are no longer
   * kept: list again and watch from there.
   */
  watch(prefix: string, afterRevision: number, signal: AbortSignal): AsyncIterable<WatchEvent[]>;
  /** A lease that ends `ttlMs` after its last renewal, by the leader's clock. */
  grantLease(ttlMs: number, options?: StoreCallOptions): Promise<{ leaseId: string }>;
  /**
   * Renews. Resolves after a quorum round begun after the request arrived, so the holder may count
   * ttlMs from before it called. NOT_FOUND when the lease has ended.
   */
  renewLease(leaseId: string, options?: StoreCallOptions): Promise<void>;
  /** Ends a lease now: its keys are deleted. */
  revokeLease(leaseId: string, options?: StoreCallOptions): Promise<void>;
  status(): StoreStatus;
  /** absent when the members are not nodes of ours (etcd) */
  readonly members?: StoreMembers;
  /** of a store that is not kept by the nodes: what a node that joins has to use */
  readonly address?: string;
  /**
   * Called with true when this member becomes leader, false when it stops; returns the undo. Not
   * called for how it is at the time of the call: read `status()` for that.
   */
  onLeadership(listener: (isLeader: boolean) => void): () => void;
  close(): Promise<void>;
}
