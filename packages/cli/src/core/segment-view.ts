import type { Volume } from '@stor/protocol';

type Replica = Volume['status']['replicas'][number];

/** Replicas of each segment; one entry without any when nothing is placed. */
export function bySegment({ status }: Pick<Volume, 'status'>): Replica[][] {
  const segments = new Map<number, Replica[]>();
  for (const replica of status.replicas) {
    const known = segments.get(replica.segment);
    if (known) known.push(replica);
    else segments.set(replica.segment, [replica]);
  }
  return segments.size === 0 ? [[]] : [...segments.values()];
}

/**
 * On how many nodes replicas are `good` in the segment that has fewest: what the volume can count on. A
 * node that has two for a while, because one moves to another disk, counts once.
 */
export function leastReplicas(
  volume: Pick<Volume, 'status'>,
  good: (replica: Replica) => boolean,
): number {
  const nodes = (replicas: Replica[]): number =>
    new Set(replicas.filter(good).map(({ nodeId }) => nodeId)).size;
  return Math.min(...bySegment(volume).map(nodes));
}

/** Names of the nodes that hold replicas, each once, in the order of the replicas. */
export function nodesOf({ status }: Pick<Volume, 'status'>): string {
  return [...new Set(status.replicas.map(({ node }) => node))].join(', ');
}
