import type { KeyValue } from '../../cluster-store.ts';
import {
  deletedPrefix,
  membersPrefix,
  nodeNamesPrefix,
  tokensPrefix,
  trashPrefix,
  volumesPrefix,
} from '../../resources/keys.ts';
import { storePrefix } from '../store-move/move-records.ts';

/** Epochs of a store that is made anew begin with the seconds since then (ms since 1970: 2020). */
const beginMs = 1_577_836_800_000;
/** For a volume whose epochs have outrun the seconds: more than were granted since, it is hoped. */
const epochsAbove = 1_000_000;

/**
 * An epoch above all that the lost store can have granted since, and above those of a store that was
 * made anew before from the same state: so it comes from the time. Volumes change their primary less
 * often than once in a second.
 */
export function raisedEpoch(epoch: number, nowMs: number): number {
  const seconds = Math.floor((nowMs - beginMs) / 1_000);
  return epoch < seconds ? seconds : epoch + epochsAbove;
}

/** What a store that is made anew does not take over: its members and their tokens are its own. */
const leftOut = [membersPrefix, nodeNamesPrefix, tokensPrefix];
const withEpochs = [volumesPrefix, trashPrefix, deletedPrefix];

/** What a store that is made anew takes over: no lease outlives the processes that held it. */
export function isKept({ key, leaseId }: Pick<KeyValue, 'key' | 'leaseId'>): boolean {
  return leaseId === '' && !leftOut.some((prefix) => key.startsWith(prefix));
}

/**
 * What a backup holds of it: nothing that speaks of the store itself. Put back, a note that the store is
 * being left would stop all writes of the new one for ever.
 */
export function isBackedUp(item: Pick<KeyValue, 'key' | 'leaseId'>): boolean {
  return isKept(item) && !item.key.startsWith(storePrefix);
}

/**
 * The items of another store as those of a new one. What was granted by the lost store after this
 * state was read must not be granted again: so every epoch is raised, nobody holds an attachment or a
 * publication, and whoever is primary next asks all replicas which set is the newest (ARCHITECTURE, "Who may write").
 * Throws what `JSON.parse` throws for a record that cannot be read.
 */
export function raisedItems(items: readonly KeyValue[], nowMs: number): KeyValue[] {
  return items.filter(isKept).map((item) => {
    const hasEpoch = withEpochs.some((prefix) => item.key.startsWith(prefix));
    return hasEpoch ? { ...item, value: raised(item.value, nowMs) } : item;
  });
}

function raised(value: Uint8Array, nowMs: number): Uint8Array {
  const record = JSON.parse(new TextDecoder().decode(value)) as {
    status: { epoch: number; attachment: unknown; publications?: unknown; cleanRelease: boolean };
    trash?: { agedMs?: number };
  };
  const { trash } = record;
  // one that ended after this state was read would let its host in again, with all that it has kept since
  const { publications: _void, ...status } = record.status;
  const next = {
    ...record,
    // it may have been brought back since: there is all the time again to see that it is in the trash
    ...(trash ? { trash: { ...trash, agedMs: 0 } } : {}),
    status: {
      ...status,
      epoch: raisedEpoch(status.epoch, nowMs),
      attachment: null,
      cleanRelease: false,
    },
  };
  return new TextEncoder().encode(JSON.stringify(next));
}
