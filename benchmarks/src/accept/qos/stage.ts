import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { prefill } from '../../fio/fio.ts';
import type { AcceptReport } from '../../harness/accept-report.ts';
import { compiledProgram } from '../../harness/checkout.ts';
import { TestCluster } from '../../harness/test-cluster.ts';

export const mebibyte = 1024 * 1024;

/** What each part of `npm run accept -- qos` works on. */
export interface QosStage {
  /** a folder of this part alone */
  dir: string;
  report: AcceptReport;
  /** interleaved rounds of everything that is compared */
  rounds: number;
  /** on a slow or busy machine: less time, the same checks */
  quick: boolean;
}

/** What is loaded into the agents of a cluster: `bare` ones have no metrics and no checksums either. */
const preloads = {
  with: [],
  without: ['without-qos'],
  bare: ['without-qos', 'without-metrics', 'without-checksums'],
} as const;

/** Runs something on started clusters of one kind, with and without what is measured. */
export async function onClusters<Name extends keyof typeof preloads>(
  stage: QosStage,
  names: readonly Name[],
  nodes: number,
  run: (clusters: Record<Name, TestCluster>) => Promise<void>,
): Promise<void> {
  const clusters: Partial<Record<Name, TestCluster>> = {};
  try {
    for (const name of names) {
      const dir = join(stage.dir, name);
      mkdirSync(dir);
      const imports = preloads[name].map((each) => {
        return `--import ${pathToFileURL(compiledProgram(`measure/${each}.js`)).href}`;
      });
      const agentEnv: Record<string, string> =
        imports.length > 0 ? { NODE_OPTIONS: imports.join(' ') } : {};
      const cluster = await TestCluster.create({ dir, nodes, agentEnv });
      clusters[name] = cluster;
      await cluster.start();
      await cluster.waitFit();
    }
    await run(clusters as Record<Name, TestCluster>);
  } catch (error) {
    for (const cluster of Object.values<TestCluster | undefined>(clusters)) {
      process.stderr.write(`${cluster?.logTails() ?? ''}\n`);
    }
    throw error;
  } finally {
    for (const cluster of Object.values<TestCluster | undefined>(clusters)) await cluster?.close();
  }
}

/** A written volume of the first node of a cluster; its NBD URI. */
export async function writtenVolume(
  stage: QosStage,
  cluster: TestCluster,
  volume: { name: string; sizeBytes: number; replicas: number; qos?: string },
): Promise<string> {
  const { name, sizeBytes, replicas, qos } = volume;
  const size = String(sizeBytes);
  await cluster.must('volume', 'create', name, '--size', size, '--replicas', String(replicas));
  const uri = cluster.unixUri(0, name);
  await prefill(uri, sizeBytes, '4k', stage.dir);
  if (qos !== undefined) await cluster.must('volume', 'update', name, '--qos', qos);
  return uri;
}
