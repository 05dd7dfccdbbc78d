import { join } from 'node:path';
import type { TestCluster } from '../harness/test-cluster.ts';
import { waitFor } from '../harness/wait-for.ts';
import { runVerifier, WriterProcess } from '../harness/writer-process.ts';
import type { VerifyResult } from '../verify/verify-volume.ts';

export interface KillPrimaryResult {
  verified: VerifyResult;
  /** from the kill until everything had been read through another node */
  takeoverMs: number;
  /** the new primary's index */
  primary: number | null;
}

/**
 * Kills the primary with -9 under load and reads everything through a new connection to another
 * node. Leaves the killed agent dead.
 */
export async function killPrimary(
  cluster: TestCluster,
  name: string,
  sizeBytes: number,
  primary: number,
  other: number,
): Promise<KillPrimaryResult> {
  const logPath = join(cluster.dir, `${name}.log`);
  const uri = cluster.tcpUri(primary, name);
  const writer = new WriterProcess({ uri, logPath, length: sizeBytes, seed: 5, flushEvery: 300 });
  try {
    await waitFor('2,000 acknowledgements', () => writer.acknowledged >= 2_000);
    if ((await cluster.primary(name)) !== primary) {
      throw new Error(`the node that was connected to is not the primary of ${name}`);
    }
    await cluster.agent(primary).kill9();
    await writer.waitEnd();
  } finally {
    await writer.kill();
  }
  const startedMs = performance.now();
  const verified = await runVerifier(logPath, { uri: cluster.tcpUri(other, name) });
  const takeoverMs = performance.now() - startedMs;
  return { verified, takeoverMs, primary: await cluster.primary(name) };
}
