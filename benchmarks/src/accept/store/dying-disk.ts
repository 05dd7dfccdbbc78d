import { join } from 'node:path';
import { seconds } from '../../harness/accept-report.ts';
import { killDisk, maxRebuiltMs, type DiskFault } from '../../scenarios/dying-disk.ts';
import { onLoopback, type StoreStage } from './stage.ts';

const cases: { what: string; fault: DiskFault; onPrimary: boolean }[] = [
  { what: 'cut off, beside the primary', fault: 'truncated', onPrimary: true },
  { what: 'cut off, on a secondary', fault: 'truncated', onPrimary: false },
  { what: 'errors, beside the primary', fault: 'errors', onPrimary: true },
  { what: 'errors, on a secondary', fault: 'errors', onPrimary: false },
];

/**
 * The block device under one of two replicas dies while a client writes and reads. Needs root, loop
 * devices, xfsprogs, nbdkit and libnbd-bin.
 */
export async function dyingDisk(stage: StoreStage): Promise<void> {
  const { report } = stage;
  for (const [index, { what, fault, onPrimary }] of cases.entries()) {
    if (stage.quick && index % 3 !== 0) continue;
    const dir = join(stage.dir, String(index));
    await onLoopback({ ...stage, dir }, { nodes: 3 }, async (cluster) => {
      const { rebuiltMs, disk, writer, verified, removed } = await killDisk(cluster, fault, {
        spare: 'third-node',
        onPrimary,
      });
      report.add(
        `disk dies (${what}): rebuilt elsewhere`,
        `${seconds(rebuiltMs)}, disk ${disk.status.state}`,
        `< ${seconds(maxRebuiltMs)}, without the replacement wait`,
        rebuiltMs < maxRebuiltMs,
      );
      const trouble = writer.errors.length + writer.wrongReads.length + verified.problems.length;
      report.add(
        `disk dies (${what}): writes, reads and data`,
        `${writer.acknowledged} writes, ${writer.reads} reads, ${trouble} wrong`,
        '0 wrong',
        trouble === 0 && verified.stamped > 0,
      );
      report.add(`disk dies (${what}): taken out`, removed ? 'yes' : 'no', 'yes', removed);
    });
  }
}
