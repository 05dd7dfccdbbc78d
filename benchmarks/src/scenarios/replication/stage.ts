import type { AcceptReport } from '../../harness/accept-report.ts';
import { TestCluster } from '../../harness/test-cluster.ts';
import { StallProbe } from '../../measure/stall-probe.ts';
import { spreadOf } from '../../measure/statistics.ts';
import type { NamespaceNetwork } from '../../namespaces/network.ts';
import { flushRules } from '../../namespaces/packet-rules.ts';

/** What each part of the acceptance run works on. */
export interface Stage {
  network: NamespaceNetwork;
  /** a folder of this part alone */
  dir: string;
  report: AcceptReport;
  /** tries of everything that is measured several times */
  tries: number;
}

/** Runs something on a started cluster in the namespaces and takes it down again. */
export async function onCluster(
  stage: Stage,
  nodes: number,
  run: (cluster: TestCluster) => Promise<void>,
): Promise<void> {
  const { network, dir } = stage;
  const cluster = await TestCluster.create({
    dir,
    nodes,
    netnsOf: (index) => network.node(index),
  });
  try {
    await cluster.start();
    await run(cluster);
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
    for (const [index, { name }] of network.nodes.entries()) {
      await flushRules(name);
      await network.setCable(index, 'up');
    }
  }
}

/** NBD addresses of a volume at every node, the given one first. */
export function urisFrom(cluster: TestCluster, first: number, volume: string): string[] {
  const { agents } = cluster;
  return agents.map((_, step) => cluster.tcpUri((first + step) % agents.length, volume));
}

/**
 * A probe whose volume has its primary on `node`: any client of before must be gone, so that the
 * attachment may move there.
 */
export async function probeAt(
  cluster: TestCluster,
  volume: string,
  node: number,
  options: { reconnects: boolean },
): Promise<StallProbe> {
  const uris = options.reconnects
    ? urisFrom(cluster, node, volume)
    : [cluster.tcpUri(node, volume)];
  const probe = await StallProbe.start(uris);
  const primary = await cluster.primary(volume);
  if (primary === node) return probe;
  await probe.stop();
  throw new Error(`the primary of ${volume} is node ${primary}, not ${node}`);
}

/** A line with median and maximum of times (ms), all of which must be below the target. */
export function addTimes(
  report: AcceptReport,
  name: string,
  timesMs: readonly number[],
  targetMs: number,
): void {
  const { median, max } = spreadOf(timesMs);
  const text = (ms: number): string => `${(ms / 1_000).toFixed(3)} s`;
  report.add(
    name,
    `median ${text(median)}, max ${text(max)} (${timesMs.length} tries)`,
    `max < ${targetMs / 1_000} s`,
    timesMs.length > 0 && max < targetMs,
  );
}
