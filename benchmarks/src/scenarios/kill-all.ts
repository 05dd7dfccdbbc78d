import { join } from 'node:path';
import type { TestCluster } from '../harness/test-cluster.ts';
import { waitFor } from '../harness/wait-for.ts';
import { runVerifier, WriterProcess } from '../harness/writer-process.ts';
import type { VerifyResult } from '../verify/verify-volume.ts';
import type { WriterSummary } from '../verify/verifying-writer.ts';

export const killAllVolume = { name: 'all-killed', sizeBytes: 256 * 1024 * 1024 };

/** Acknowledgements since the last FLUSH that must be there before everything is killed. */
export const minAcknowledgedSinceFlush = 10_000;

export interface KillAllResult {
  writer: WriterSummary;
  /** read through a node other than the one that was written to */
  verified: VerifyResult;
  logPath: string;
}

/**
 * Kills every agent at once with -9 while the verifying writer writes, starts them again, and looks
 * for every acknowledged write. Leaves the cluster running and the volume healthy.
 */
export async function killAllUnderLoad(cluster: TestCluster): Promise<KillAllResult> {
  const { name, sizeBytes } = killAllVolume;
  await cluster.must('volume', 'create', name, '--size', String(sizeBytes), '--replicas', '3');
  const logPath = join(cluster.dir, 'all-killed.log');
  const base = { uri: cluster.tcpUri(0, name), logPath, length: sizeBytes, seed: 11 };
  // A first run with FLUSHes, so that "since the last FLUSH" means something.
  const first = new WriterProcess({ ...base, depth: 8, writes: 2_000, flushEvery: 500 });
  const firstSummary = await first.waitEnd();
  if (firstSummary.errors.length > 0) throw new Error(firstSummary.errors.join('; '));
  const writer = new WriterProcess({ ...base, depth: 32, connections: 2 });
  let summary: WriterSummary;
  try {
    await waitFor(
      `${minAcknowledgedSinceFlush} acknowledgements`,
      () => writer.acknowledgedSinceFlush >= minAcknowledgedSinceFlush,
      { deadlineMs: 60_000 },
    );
    await cluster.kill9All();
    summary = await writer.waitEnd();
  } finally {
    await writer.kill();
  }
  await cluster.start();
  const verified = await runVerifier(logPath, { uri: cluster.tcpUri(1, name) });
  await cluster.waitHealth(name, 'healthy');
  return { writer: summary, verified, logPath };
}
