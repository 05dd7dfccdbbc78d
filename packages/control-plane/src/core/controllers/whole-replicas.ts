import type { ReplicaId, SegmentStatus } from '@stor/protocol';

/**
 * Replicas that have every acknowledged write: the in-sync set, and while the change to it is not
 * confirmed those of the set before it as well. `epoch` is the volume's: a node that knows nothing of
 * confirming may have granted it since, and acknowledged without.
 */
export function wholeReplicas(
  { inSync, unconfirmed }: Pick<SegmentStatus, 'inSync' | 'unconfirmed'>,
  epoch: number,
): readonly ReplicaId[] {
  return unconfirmed?.epoch === epoch ? unconfirmed.members : inSync;
}
