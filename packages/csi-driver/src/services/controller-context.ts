import type { Clock, Logger } from '@stor/runtime';
import type { Digest } from '../core/csi-names.ts';
import type { PendingOperations } from '../core/pending-operations.ts';
import type { TopologyKeys } from '../core/topology.ts';
import type { CsiApi } from '../csi-api.ts';

/** What the services of the cluster's side share. */
export interface ControllerContext {
  api: CsiApi;
  clusterId: string;
  keys: TopologyKeys;
  digest: Digest;
  pending: PendingOperations;
  /** publications that one host may have; 0: any number */
  maxVolumesPerNode: number;
  /** how long deleted volumes stay in the trash (ms); null: as long as the cluster keeps them */
  trashKeepMs: number | null;
  clock: Clock;
  logger: Logger;
}

/** Runs an order while no other one concerns the same things. ABORTED. */
export async function exclusively<T>(
  pending: PendingOperations,
  keys: readonly string[],
  operation: string,
  run: () => Promise<T>,
): Promise<T> {
  const end = pending.begin(keys, operation);
  try {
    return await run();
  } finally {
    end();
  }
}
