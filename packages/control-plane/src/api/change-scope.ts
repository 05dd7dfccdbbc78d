import { AsyncLocalStorage } from 'node:async_hooks';
import { StorError } from '@stor/protocol';
import type {
  ClusterStore,
  Operation,
  StoreCallOptions,
  Transaction,
  TransactionResult,
} from '../cluster-store.ts';

/** One call that changes an object, as far as the cluster store must know of it. */
export interface ChangeScope {
  objectKey: string;
  /** the revision that the object must have at the first write; null: any */
  expected: number | null;
  /** the request's entry, written together with the change; null: the request has no id */
  mark: {
    key: string;
    /** of the entry as this call knows it */
    modRevision: number;
    value: (operation: Operation) => Uint8Array;
    /** is this the write that makes the change? */
    isMade: (operation: Operation) => boolean;
  } | null;
  isMade: boolean;
  /** the call is over: what it has left running is none of it */
  isOver: boolean;
}

/** Another call with the same request id has made the change meanwhile. */
export class MadeElsewhere extends Error {}

const scopes = new AsyncLocalStorage<ChangeScope>();

/** Runs a call whose transactions are watched by `scopedStore`. */
export async function inChangeScope<T>(scope: ChangeScope, run: () => Promise<T>): Promise<T> {
  try {
    return await scopes.run(scope, run);
  } finally {
    scope.isOver = true;
  }
}

export function versionConflict(current: number, expected: number): StorError {
  return new StorError(
    'CONFLICT',
    `it has changed since version ${expected} (it is at ${current}): look at it again and repeat`,
    { details: { resourceVersion: String(current), expected: String(expected) } },
  );
}

/**
 * The store as the services of the API see it: the first write of a call to the object it is about
 * also compares the version that the caller wants, and the write that makes the change also records
 * the request. So neither can be true without the other, whoever dies when.
 */
export function scopedStore<S extends ClusterStore>(store: S): S {
  const transact = (
    transaction: Transaction,
    options?: StoreCallOptions,
  ): Promise<TransactionResult> => {
    const scope = scopes.getStore();
    const touches = transaction.operations.filter(({ key }) => key === scope?.objectKey);
    return scope && !scope.isOver && touches.length > 0
      ? transactIn(scope, store, { transaction, touches, options: options ?? {} })
      : store.transact(transaction, options);
  };
  return new Proxy(store, {
    get: (target, property) => {
      if (property === 'transact') return transact;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

async function transactIn(
  scope: ChangeScope,
  store: ClusterStore,
  change: { transaction: Transaction; touches: Operation[]; options: StoreCallOptions },
): Promise<TransactionResult> {
  const { objectKey, expected, mark } = scope;
  const compare = [...change.transaction.compare];
  const operations = [...change.transaction.operations];
  if (expected !== null) {
    const own = compare.find(({ key }) => key === objectKey);
    if (own && own.modRevision > expected) throw versionConflict(own.modRevision, expected);
    // this member lags behind what the caller has seen elsewhere: the service reads again
    if (own && own.modRevision < expected) return { succeeded: false, revision: 0 };
    if (!own) compare.push({ key: objectKey, modRevision: expected });
  }
  const made = scope.isMade ? undefined : change.touches.find((touch) => mark?.isMade(touch));
  if (mark && made) {
    compare.push({ key: mark.key, modRevision: mark.modRevision });
    operations.push({ type: 'put', key: mark.key, value: mark.value(made) });
  }
  const result = await store.transact({ compare, operations }, change.options);
  if (!result.succeeded) {
    await explainFailure(scope, store, change.options);
    return result;
  }
  scope.expected = null;
  if (mark && made) {
    scope.isMade = true;
    mark.modRevision = result.revision;
  }
  return result;
}

/** Returns when the service may read again and retry. */
async function explainFailure(
  { objectKey, expected, mark }: ChangeScope,
  store: ClusterStore,
  options: StoreCallOptions,
): Promise<void> {
  if (mark) {
    const entry = await store.get(mark.key, options);
    if (entry?.modRevision !== mark.modRevision) throw new MadeElsewhere();
  }
  if (expected === null) return;
  const current = (await store.get(objectKey, options))?.modRevision ?? 0;
  if (current !== expected) throw versionConflict(current, expected);
}
