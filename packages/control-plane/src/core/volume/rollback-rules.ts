import { StorError } from '@stor/protocol';
import type { SnapshotId, VolumeRollback } from '@stor/protocol';
import type { StoredVolume } from '../../resources/records.ts';
import { publicationsOf } from './publication-rules.ts';

/** UNAVAILABLE while the volume is being rolled back: some of it may be old, and some new. */
export function checkNotRollingBack(record: StoredVolume): void {
  if (!record.status.rollback) return;
  const { name } = record.metadata;
  throw new StorError(
    'UNAVAILABLE',
    `volume ${name} is being rolled back: try again in a moment, or look at "storctl volume inspect ${name}"`,
  );
}

/** FAILED_PRECONDITION for a snapshot that a rollback goes to, or would go back to. */
export function checkNotNeeded(record: StoredVolume, id: SnapshotId, snapshot: string): void {
  const { rollback } = record.status;
  if (rollback?.snapshotId !== id && rollback?.safetyId !== id) return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `volume ${record.metadata.name} is being rolled back, and snapshot ${snapshot} is needed for it: wait until that is over`,
  );
}

/**
 * The record with this rollback, whatever is under way. UNAVAILABLE while the volume is resized,
 * FAILED_PRECONDITION while a host uses it as a device, whose file system would not know.
 */
export function rollbackBegun(record: StoredVolume, rollback: VolumeRollback): StoredVolume {
  if (!rollback.force && publicationsOf(record).length > 0) {
    const { name } = record.metadata;
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${name} is used as a device by a host ("storctl volume inspect ${name}" says which): unmount and detach it there first`,
    );
  }
  if (record.status.growth) {
    throw new StorError(
      'UNAVAILABLE',
      `volume ${record.metadata.name} is being resized: try again in a moment`,
    );
  }
  return { ...record, status: { ...record.status, rollback } };
}

/**
 * The record without the rollback of this id, which the primary of this epoch has carried out or
 * refused; null when it is not that one any more: a later primary may have found anything.
 */
export function rollbackEnded(
  record: StoredVolume,
  { id, epoch }: { id: string; epoch: number },
): StoredVolume | null {
  const { rollback, attachment, ...status } = record.status;
  if (rollback?.id !== id || attachment?.epoch !== epoch) return null;
  return { ...record, status: { ...status, attachment } };
}

/**
 * The record with a rollback that has changed something and cannot go on turned back to what the
 * volume was before; null when that was not kept, or it is going back there already.
 */
export function rollbackTurned(
  record: StoredVolume,
  id: string,
  newId: string,
): StoredVolume | null {
  const { rollback } = record.status;
  if (rollback?.id !== id) return null;
  const { safetyId } = rollback;
  if (safetyId === '' || safetyId === rollback.snapshotId) return null;
  const turned = { ...rollback, id: newId, snapshotId: safetyId, force: true };
  return { ...record, status: { ...record.status, rollback: turned } };
}
