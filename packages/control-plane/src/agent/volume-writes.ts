import { hasCode } from '@stor/protocol';
import type { NodeId, ReplicaId, VolumeId } from '@stor/protocol';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { maxBatchItems } from '../resources/batch-limits.ts';
import { forgottenKey, replicaReportKey, volumeKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StoredVolume } from '../resources/records.ts';

/** Bytes of one transaction: small enough to be no long turn. */
const maxBytes = 256 * 1024;

/** A new record of one volume, written only if it is still as it was seen. */
export interface VolumeWrite {
  volume: Versioned<StoredVolume>;
  record: StoredVolume;
  /** reports that are not needed any more */
  forgotten: readonly ReplicaId[];
  /** only while none of these has left the cluster @default none */
  nodes?: ReadonlySet<NodeId>;
  /** called when it is written */
  written: () => void;
}

interface Batch {
  writes: VolumeWrite[];
  compare: Compare[];
  operations: Operation[];
  bytes: number;
}

/**
 * Writes records of many volumes: the loss of a node changes all of its volumes, and a round of the quorum
 * for each would take seconds. Those that fit are one transaction; when one of them has changed meanwhile,
 * each stands for itself. Of two writes for one volume the first one counts: the other was planned on
 * what is not there any more, and the next look plans it anew. What the store finds wrong with one write
 * keeps no other one from being written, and is thrown at the end; after its other errors what was not
 * written yet is left out.
 */
export async function writeVolumes(
  store: Pick<ClusterStore, 'transact'>,
  writes: readonly VolumeWrite[],
): Promise<void> {
  const wrong: unknown[] = [];
  const commitAll = async (batches: Iterable<Batch>): Promise<void> => {
    for (const batch of batches) {
      const isOne = batch.writes.length === 1;
      try {
        if ((await commit(store, batch)) || isOne) continue;
      } catch (error) {
        if (!hasCode(error, 'INVALID_ARGUMENT', 'NO_SPACE')) throw error;
        if (isOne) wrong.push(error);
        if (isOne) continue;
      }
      for (const write of batch.writes) await commitAll(batchesOf([write]));
    }
  };
  await commitAll(batchesOf(firstOfEach(writes)));
  if (wrong.length > 0) throw wrong[0];
}

function firstOfEach(writes: readonly VolumeWrite[]): VolumeWrite[] {
  const first = new Map<VolumeId, VolumeWrite>();
  for (const write of writes) {
    const { id } = write.record.metadata;
    if (!first.has(id)) first.set(id, write);
  }
  return [...first.values()];
}

async function commit(
  store: Pick<ClusterStore, 'transact'>,
  { writes, compare, operations }: Batch,
): Promise<boolean> {
  const { succeeded } = await store.transact({ compare, operations });
  if (succeeded) for (const { written } of writes) written();
  return succeeded;
}

function* batchesOf(writes: readonly VolumeWrite[]): Generator<Batch> {
  let batch: Batch = { writes: [], compare: [], operations: [], bytes: 0 };
  for (const write of writes) {
    const key = volumeKey(write.record.metadata.id);
    const value = encodeRecord(write.record);
    const operations: Operation[] = [
      { type: 'put', key, value },
      ...write.forgotten.map((id): Operation => ({ type: 'delete', key: replicaReportKey(id) })),
    ];
    const guards = [...(write.nodes ?? [])]
      .map((nodeId): Compare => ({ key: forgottenKey(nodeId), modRevision: 0 }))
      // of a volume on more nodes than one transaction compares, the others are as they were seen
      .slice(0, maxBatchItems - 1);
    const isFull =
      batch.operations.length + operations.length > maxBatchItems ||
      batch.compare.length + guards.length >= maxBatchItems ||
      batch.bytes + value.length > maxBytes;
    if (isFull && batch.writes.length > 0) {
      yield batch;
      batch = { writes: [], compare: [], operations: [], bytes: 0 };
    }
    batch.writes.push(write);
    const known = new Set(batch.compare.map((one) => one.key));
    const fresh = guards.filter((guard) => !known.has(guard.key));
    batch.compare.push({ key, modRevision: write.volume.modRevision }, ...fresh);
    batch.operations.push(...operations);
    batch.bytes += value.length;
  }
  if (batch.writes.length > 0) yield batch;
}
