import { StorError } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore, KeyValue, Operation } from '../cluster-store.ts';
import { chooseMembers } from '../core/store-move/choose-members.ts';
import {
  decodeFreeze,
  decodeOrigin,
  embeddedStore,
  encodeMoveRecord,
  freezeKey,
  originKey,
  storePrefix,
  type FreezeRecord,
  type MoveTls,
  type OriginRecord,
} from '../core/store-move/move-records.ts';
import { checkAbort, nextStep, type MoveStep } from '../core/store-move/next-step.ts';
import { sharesAppliedPrefix } from '../resources/keys.ts';

/** Keys and bytes of one transaction: below what etcd takes. */
const batchKeys = 100;
const batchBytes = 1_000_000;
/** Steps of one call: each is done once or twice, unless somebody works against it. */
const maxSteps = 100;
/** For one call to either store (ms). */
const callTimeoutMs = 10_000;

export type MoveStore = Pick<ClusterStore, 'get' | 'list' | 'transact'>;

/** What is said of the store that is moved to; an embedded one has an id and members. */
export type TargetOfMove = Pick<FreezeRecord, 'to' | 'tls'> & Partial<FreezeRecord>;
export type OpenTarget = (target: TargetOfMove) => Promise<MoveStore & { close(): void }>;

export interface StoreMoveOptions {
  clusterId: string;
  /** what the store that is left is called, as in `OriginRecord` */
  from: string;
  old: MoveStore;
  openTarget: OpenTarget;
  clock: Clock;
  random: Random;
  logger: Logger;
  /** before each step; a test ends it there */
  onStep?(step: MoveStep): void;
}

interface Seen<T> {
  record: T;
  modRevision: number;
}

interface Look {
  freeze: Seen<FreezeRecord> | null;
  /** everything in the store that is left */
  old: { revision: number; items: KeyValue[] };
  origin: Seen<OriginRecord> | null;
  operations: Operation[];
  targetHasKeys: boolean;
  keys: number;
}

/** Moves everything of one cluster store to another. May be called again, anywhere, at any time. */
export class StoreMove {
  readonly #options: StoreMoveOptions;

  constructor(options: StoreMoveOptions) {
    this.#options = options;
  }

  /**
   * Resolves with the number of keys when the new store has everything and the old one says so.
   * FAILED_PRECONDITION; UNAVAILABLE and OUTCOME_UNKNOWN: repeat it.
   */
  async run(to: string, tls: MoveTls | undefined): Promise<{ keys: number }> {
    const target = new Target(this.#options.openTarget);
    try {
      // one that cannot be reached is found before anything is frozen
      if (to !== embeddedStore) await target.open({ to, tls });
      for (let steps = 0; steps < maxSteps; steps++) {
        const freeze = await this.#freeze();
        const look = await this.#look(freeze, await target.ofMove(to, freeze?.record));
        const step = nextStep({
          clusterId: this.#options.clusterId,
          to,
          freeze: look.freeze?.record ?? null,
          origin: look.origin?.record ?? null,
          targetHasKeys: look.targetHasKeys,
          differs: look.operations.length > 0,
        });
        if (step === 'done') return { keys: look.keys };
        this.#options.onStep?.(step);
        this.#options.logger.info({ step, to }, 'the cluster store is being moved');
        await this.#do(step, look, target.opened, { to, tls });
      }
      throw new StorError('CONFLICT', 'somebody else works on the same move: try again');
    } finally {
      target.close();
    }
  }

  /** Gives a move up: the old store goes on. What was copied stays, and is overwritten next time. */
  async abort(): Promise<void> {
    const freeze = await this.#freeze();
    checkAbort(freeze?.record ?? null);
    const { succeeded } = await this.#options.old.transact(
      {
        compare: [{ key: freezeKey, modRevision: freeze?.modRevision ?? 0 }],
        operations: [{ type: 'delete', key: freezeKey }],
      },
      { timeoutMs: callTimeoutMs },
    );
    if (!succeeded) throw new StorError('CONFLICT', 'the move went on meanwhile: try again');
  }

  async #freeze(): Promise<Seen<FreezeRecord> | null> {
    const item = await this.#options.old.get(freezeKey, { timeoutMs: callTimeoutMs });
    return item && { record: decodeFreeze(item.value), modRevision: item.modRevision };
  }

  /** `freeze` is read before: once the store is frozen, what is listed after that is all there will be. */
  async #look(freeze: Seen<FreezeRecord> | null, target: MoveStore | null): Promise<Look> {
    const listed = await this.#options.old.list('', { timeoutMs: callTimeoutMs });
    const wanted = copied(listed.items).filter(({ key }) => !key.startsWith(sharesAppliedPrefix));
    const { items } = target
      ? await target.list('', { timeoutMs: callTimeoutMs })
      : { items: [] as KeyValue[] };
    const item = items.find(({ key }) => key === originKey);
    const there = copied(items);
    return {
      freeze,
      old: listed,
      origin: item ? { record: decodeOrigin(item.value), modRevision: item.modRevision } : null,
      operations: difference(wanted, there),
      targetHasKeys: there.length > 0,
      keys: wanted.length,
    };
  }

  async #do(
    step: MoveStep,
    { freeze, old, origin, operations }: Look,
    target: MoveStore | null,
    { to, tls }: { to: string; tls: MoveTls | undefined },
  ): Promise<void> {
    const { clusterId, from, random, clock } = this.#options;
    const id = freeze?.record.id ?? Buffer.from(random.bytes(8)).toString('hex');
    switch (step) {
      case 'freeze':
        // refused before anything is frozen
        if (to === embeddedStore) chooseMembers(old);
        await this.#putFreeze(freeze, {
          id,
          to,
          tls,
          phase: 'copying',
          startedAtMs: clock.wallMs(),
        });
        return;
      case 'enlist':
        if (freeze) {
          await this.#putFreeze(freeze, { ...freeze.record, members: chooseMembers(old) });
        }
        return;
      case 'claim':
        if (target) await putOrigin(target, origin, { id, clusterId, from, phase: 'copying' });
        return;
      case 'copy':
        if (target) await this.#copy(target, origin?.modRevision ?? 0, operations);
        return;
      case 'seal':
        if (freeze) await this.#putFreeze(freeze, { ...freeze.record, phase: 'completing' });
        return;
      case 'complete':
        if (target && origin)
          await putOrigin(target, origin, { ...origin.record, phase: 'complete' });
        return;
      case 'close':
        if (freeze) await this.#putFreeze(freeze, { ...freeze.record, phase: 'moved' });
        return;
      case 'done':
    }
  }

  /** A lost compare is found by the next look. */
  async #putFreeze(old: Seen<FreezeRecord> | null, record: FreezeRecord): Promise<void> {
    await this.#options.old.transact(
      {
        compare: [{ key: freezeKey, modRevision: old?.modRevision ?? 0 }],
        operations: [{ type: 'put', key: freezeKey, value: encodeMoveRecord(record) }],
      },
      { timeoutMs: callTimeoutMs },
    );
  }

  /**
   * Each batch compares the origin: one that is late, because its process was stopped, must not
   * change a store that is in use by now.
   */
  async #copy(target: MoveStore, originRevision: number, operations: Operation[]): Promise<void> {
    const compare = [{ key: originKey, modRevision: originRevision }];
    for (const batch of batchesOf(operations)) {
      const { succeeded } = await target.transact(
        { compare, operations: batch },
        { timeoutMs: callTimeoutMs },
      );
      if (!succeeded) return;
    }
  }
}

/** The store that is moved to, opened when it is known which one that is. */
class Target {
  readonly #open: OpenTarget;
  #id: string | undefined;
  opened: (MoveStore & { close(): void }) | null = null;

  constructor(open: OpenTarget) {
    this.#open = open;
  }

  async open(target: TargetOfMove): Promise<void> {
    this.close();
    this.opened = await this.#open(target);
    this.#id = target.id;
  }

  /** An embedded one is there once its members are chosen, and is another one for each move. */
  async ofMove(to: string, freeze: FreezeRecord | undefined): Promise<MoveStore | null> {
    if (to === embeddedStore && freeze?.to === to && freeze.members && this.#id !== freeze.id) {
      await this.open(freeze);
    }
    return this.opened;
  }

  close(): void {
    this.opened?.close();
    this.opened = null;
  }
}

async function putOrigin(
  target: MoveStore,
  old: Seen<OriginRecord> | null,
  record: OriginRecord,
): Promise<void> {
  await target.transact(
    {
      compare: [{ key: originKey, modRevision: old?.modRevision ?? 0 }],
      operations: [{ type: 'put', key: originKey, value: encodeMoveRecord(record) }],
    },
    { timeoutMs: callTimeoutMs },
  );
}

/**
 * What is copied, oldest change first, so that it keeps its order. Not what lives as long as a lease:
 * nodes register anew. What nodes have confirmed of their shares (`sharesAppliedPrefix`) is not wanted
 * there either: it speaks of revisions of the store that is left, which mean nothing in the other one.
 */
function copied(items: readonly KeyValue[]): KeyValue[] {
  return items
    .filter(({ key, leaseId }) => leaseId === '' && !key.startsWith(storePrefix))
    .sort((a, b) => a.modRevision - b.modRevision);
}

/** What makes `there` hold the same as `wanted`. */
function difference(wanted: readonly KeyValue[], there: readonly KeyValue[]): Operation[] {
  const left = new Map(there.map((item) => [item.key, item.value]));
  const operations: Operation[] = [];
  for (const { key, value } of wanted) {
    const known = left.get(key);
    left.delete(key);
    if (!known || Buffer.compare(known, value) !== 0) operations.push({ type: 'put', key, value });
  }
  for (const key of left.keys()) operations.push({ type: 'delete', key });
  return operations;
}

function* batchesOf(operations: readonly Operation[]): Generator<Operation[]> {
  let batch: Operation[] = [];
  let bytes = 0;
  for (const operation of operations) {
    const size = operation.key.length + (operation.type === 'put' ? operation.value.length : 0);
    if (batch.length > 0 && (batch.length >= batchKeys || bytes + size > batchBytes)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(operation);
    bytes += size;
  }
  if (batch.length > 0) yield batch;
}
