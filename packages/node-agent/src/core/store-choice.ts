import { parseEtcdAddress, type MoveTls, type SeenEtcd } from '@stor/control-plane';

/** What the data folder says of where the cluster's state is. */
export interface StoreNote {
  /** `embedded` or the address of an etcd */
  store: string;
  /** of a move, when the config has none */
  tls?: MoveTls | undefined;
  /** stores that the cluster has left for good, as in `storeIdentity` */
  movedFrom?: string[];
  /** of the etcd that `store` is in: an etcd without it is another one, or has gone back */
  seen?: SeenEtcd;
  /** an embedded store that this node is a member of, and that the cluster is to move to: its id */
  entering?: string;
}

/** What stays the same when the list of servers changes. */
export function storeIdentity(address: string): string {
  return address === 'embedded' ? address : `etcd ${parseEtcdAddress(address).prefix}`;
}

/**
 * - `use`: the store that the config names (`isOld` false), or the one that the cluster has moved to
 *   from there (`isOld` true)
 * - `verify`: another store than the known one; only right when the cluster has moved to it
 */
export type StoreChoice =
  | { type: 'use'; address: string; isOld: boolean }
  | { type: 'verify'; address: string; known: string };

/** `note`: null for a node that never had a store. */
export function chooseStore(note: StoreNote | null, wanted: string): StoreChoice {
  const identity = storeIdentity(wanted);
  if (!note || storeIdentity(note.store) === identity) {
    return { type: 'use', address: wanted, isOld: false };
  }
  if (note.movedFrom?.includes(identity)) {
    return { type: 'use', address: note.store, isOld: true };
  }
  return { type: 'verify', address: wanted, known: note.store };
}

/**
 * The note of a node whose cluster is in an embedded store again that was made anew: what it was in
 * before is left for good, and whoever still names that in a config means this one.
 */
export function embeddedAnew({ store, movedFrom = [] }: StoreNote): StoreNote {
  const left = new Set([...movedFrom, storeIdentity(store)]);
  left.delete('embedded');
  return left.size === 0 ? { store: 'embedded' } : { store: 'embedded', movedFrom: [...left] };
}
