import type { SnapshotId } from '@stor/protocol';

import type { ReplicaSnapshot } from '../../replica-snapshots.ts';
import { findSnapshot } from './snapshot-list.ts';

/** The snapshots of one replica, and how they hang together. */
export interface SnapshotStructure {
  /** in the order in which they were taken */
  readonly snapshots: readonly ReplicaSnapshot[];
  readonly headParent: SnapshotId | null;
  readonly sizeBytes: number;
}

export interface StructureRules {
  /** The control plane does not have it deleted. */
  isWanted: (snapshotId: SnapshotId) => boolean;
  /** The control plane knows it as ready. */
  isRecorded: (snapshotId: SnapshotId) => boolean;
}

export type StructureStep =
  | { type: 'resize'; sizeBytes: number }
  | { type: 'drop' | 'rollback' | 'take'; snapshotId: SnapshotId };

/**
 * The next thing that a replica must do so that its size and its snapshots are those of the source,
 * or null. Afterwards it has every snapshot of the source, though not its content: those that it had
 * to take now are copies of what it holds, and are filled.
 *
 * The live image is rolled back to where a snapshot grew from, so that both sides share what they
 * share at the source; only to a snapshot whose content is known to be equal.
 */
export function nextStructureStep(
  source: SnapshotStructure,
  own: SnapshotStructure,
  rules: StructureRules,
): StructureStep | null {
  const unfit = own.snapshots.find((snapshot) => isUnfit(source, snapshot, rules));
  if (unfit) return { type: 'drop', snapshotId: unfit.snapshotId };
  for (const { snapshotId, parent, sizeBytes } of source.snapshots) {
    if (findSnapshot(own.snapshots, snapshotId) || !rules.isWanted(snapshotId)) continue;
    if (own.sizeBytes < sizeBytes) return { type: 'resize', sizeBytes };
    if (isElsewhere(own, parent)) return { type: 'rollback', snapshotId: parent };
    return { type: 'take', snapshotId };
  }
  if (own.sizeBytes < source.sizeBytes) return { type: 'resize', sizeBytes: source.sizeBytes };
  const { headParent } = source;
  if (isElsewhere(own, headParent)) return { type: 'rollback', snapshotId: headParent };
  return null;
}

/** The live image grew from another one, and could be put there. */
function isElsewhere(own: SnapshotStructure, parent: SnapshotId | null): parent is SnapshotId {
  if (parent === null || own.headParent === parent) return false;
  return findSnapshot(own.snapshots, parent)?.state === 'ready';
}

/**
 * The source has dropped it while the replica was away. What the control plane knows to be ready is not
 * dropped for that another replica lacks it. One that is prepared here and that the source has is
 * the same cut, for an id is used once: it is completed where it is.
 */
function isUnfit(
  source: SnapshotStructure,
  { snapshotId, state }: ReplicaSnapshot,
  rules: StructureRules,
): boolean {
  if (!rules.isWanted(snapshotId)) return true;
  if (findSnapshot(source.snapshots, snapshotId)) return false;
  return state !== 'ready' || !rules.isRecorded(snapshotId);
}
