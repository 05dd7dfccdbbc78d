import { blockBytes } from '@stor/protocol';

import type { SimCluster, SimVolume } from '../cluster/sim-cluster.ts';

/** In-sync replicas hold the same bytes, and every block matches its checksum. */
export async function compareReplicas(
  cluster: SimCluster,
  volume: SimVolume,
  isStopped: boolean,
): Promise<string[]> {
  const problems: string[] = [];
  const { inSync } = cluster.committed(volume);
  let first: Buffer | null = null;
  for (const replica of cluster.replicasOf(volume)) {
    const { replicaId } = replica;
    if (replica.failed !== null || !inSync.includes(replicaId)) continue;
    if (isStopped && replica.marks.length > 0) {
      problems.push(`${replicaId} has marks after a clean stop: ${replica.marks.join()}`);
    }
    if (isStopped && !replica.keptMemory) problems.push(`${replicaId} is suspect and in sync`);
    const content = await replica.content();
    if (!content) {
      problems.push(`${replicaId} cannot be read`);
      continue;
    }
    const bad = content.valid.findIndex((state) => state !== 1);
    if (bad >= 0) problems.push(`${replicaId}: block ${bad} does not match its checksum`);
    if (!first) first = content.bytes;
    else if (!first.equals(content.bytes)) {
      const expected = first;
      const at = content.bytes.findIndex((byte, i) => byte !== expected[i]);
      problems.push(`${replicaId} differs at block ${Math.floor(at / blockBytes)}`);
    }
  }
  if (!first) problems.push('no in-sync replica is there');
  return problems;
}
