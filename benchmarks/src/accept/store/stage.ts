import type { AcceptReport } from '../../harness/accept-report.ts';
import { TestCluster, type TestClusterOptions } from '../../harness/test-cluster.ts';

/** What each part of `npm run accept -- store` works on. */
export interface StoreStage {
  /** a folder of this part alone */
  dir: string;
  report: AcceptReport;
  /** interleaved rounds of everything that is compared */
  rounds: number;
  /** on a slow or busy machine: less data, the same checks */
  quick: boolean;
}

/** Runs something on a started cluster on loopback and takes it down again. */
export async function onLoopback(
  stage: StoreStage,
  options: Omit<TestClusterOptions, 'dir'>,
  run: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const cluster = await TestCluster.create({ ...options, dir: stage.dir });
  try {
    await cluster.start();
    await run(cluster);
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}
