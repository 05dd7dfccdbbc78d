import { StorError } from '@stor/protocol';
import type {
  ClusterStore,
  StoreCallOptions,
  StoreMembers,
  Transaction,
  TransactionResult,
} from '../cluster-store.ts';
import { decodeFreeze, freezeKey } from '../core/store-move/move-records.ts';

/**
 * The store as everybody but a move of it sees it: each transaction compares that the store is not
 * frozen, so that nothing is committed in it after what was copied. Leases go on: the data path needs
 * them until the agents use the other store.
 */
export class FreezableStore implements ClusterStore {
  readonly #store: ClusterStore;
  readonly get: ClusterStore['get'];
  readonly list: ClusterStore['list'];
  readonly watch: ClusterStore['watch'];
  readonly grantLease: ClusterStore['grantLease'];
  readonly renewLease: ClusterStore['renewLease'];
  readonly revokeLease: ClusterStore['revokeLease'];
  readonly status: ClusterStore['status'];
  readonly onLeadership: ClusterStore['onLeadership'];
  readonly members?: StoreMembers;
  readonly address?: string;

  constructor(store: ClusterStore) {
    this.#store = store;
    this.get = store.get.bind(store);
    this.list = store.list.bind(store);
    this.watch = store.watch.bind(store);
    this.grantLease = store.grantLease.bind(store);
    this.renewLease = store.renewLease.bind(store);
    this.revokeLease = store.revokeLease.bind(store);
    this.status = store.status.bind(store);
    this.onLeadership = store.onLeadership.bind(store);
    if (store.members) this.members = store.members;
    if (store.address !== undefined) this.address = store.address;
  }

  /** UNAVAILABLE, and nothing is done, while the store is frozen. */
  async transact(
    { compare, operations }: Transaction,
    options?: StoreCallOptions,
  ): Promise<TransactionResult> {
    const isThawed = { key: freezeKey, modRevision: 0 };
    const result = await this.#store.transact(
      { compare: [...compare, isThawed], operations },
      options,
    );
    if (result.succeeded) return result;
    const freeze = await this.#store.get(freezeKey, options);
    if (!freeze) return result;
    throw new StorError(
      'UNAVAILABLE',
      `the cluster store is being moved to ${decodeFreeze(freeze.value).to}: try again in a moment`,
    );
  }

  close(): Promise<void> {
    return this.#store.close();
  }
}
