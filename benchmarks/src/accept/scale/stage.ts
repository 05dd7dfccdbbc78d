import type { AcceptReport } from '../../harness/accept-report.ts';
import { TestCluster, type TestClusterOptions } from '../../harness/test-cluster.ts';

/** What each part of `npm run accept -- scale` works on. */
export interface ScaleStage {
  /** a folder of this part alone */
  dir: string;
  report: AcceptReport;
  /** a tenth of the volumes and connections, the same checks */
  quick: boolean;
  /** figures that are kept, by name with the unit at its end */
  figures: Record<string, number>;
}

/** Keeps a figure and prints it beside its target; without a target it is a number only. */
export function note(
  { report, figures }: ScaleStage,
  what: { name: string; key: string; value: number; unit: string; most?: number; least?: number },
): void {
  const { name, key, value, unit, most, least } = what;
  figures[key] = Number(value.toPrecision(4));
  const targets = [
    most === undefined ? '' : `at most ${most} ${unit}`,
    least === undefined ? '' : `at least ${least} ${unit}`,
  ].filter((text) => text !== '');
  const isOk = value <= (most ?? Infinity) && value >= (least ?? -Infinity);
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  report.add(name, `${value.toFixed(digits)} ${unit}`, targets.join(', ') || 'a number', isOk);
}

/** Runs something on a started cluster of three nodes and takes it down again. */
export async function onThreeNodes(
  stage: ScaleStage,
  run: (cluster: TestCluster) => Promise<void>,
  options: Omit<TestClusterOptions, 'dir' | 'nodes'> = {},
): Promise<void> {
  const cluster = await TestCluster.create({ ...options, nodes: 3, dir: stage.dir });
  try {
    await cluster.start();
    await cluster.waitFit();
    await run(cluster);
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}
