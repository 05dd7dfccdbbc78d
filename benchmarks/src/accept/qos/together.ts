import { nbdTarget } from '../../fio/fio.ts';
import { randomWriteQd32, runRounds, summarise, type Workload } from '../../measure/rounds.ts';
import type { BlockServer } from '../../servers/block-server.ts';
import { mebibyte, onClusters, writtenVolume, type QosStage } from './stage.ts';

/** What all three may cost together at queue depth 32. */
const mostSlower = 0.15;
/** Fewer say nothing. */
const leastRounds = 9;

const workloads: readonly Workload[] = [
  randomWriteQd32,
  { name: '4 KiB random read, QD 32', options: { rw: 'randread', bs: '4k', iodepth: '32' } },
];

/**
 * QoS, metrics and checksums together: an agent that has none of them beside one with all, whose volume
 * has limits so that every request is counted. One replica, where they weigh most.
 */
export async function together(stage: QosStage): Promise<void> {
  const sizeBytes = 128 * mebibyte;
  await onClusters(stage, ['with', 'bare'], 1, async (clusters) => {
    const servers: BlockServer[] = [];
    const wanted = [
      { name: 'bare', cluster: clusters.bare },
      { name: 'all', cluster: clusters.with, qos: 'iops=50M,bps=500GiB' },
    ];
    for (const { name, cluster, qos } of wanted) {
      const volume = { name, sizeBytes, replicas: 1, ...(qos === undefined ? {} : { qos }) };
      const target = nbdTarget(await writtenVolume(stage, cluster, volume));
      servers.push({ name, target, pids: () => cluster.agents.map(({ pid }) => pid) });
    }
    const samples = await runRounds({
      ...{ servers, workloads, sizeBytes, dir: stage.dir },
      rounds: Math.max(leastRounds, stage.rounds),
      runtimeSeconds: stage.quick ? 1 : 3,
    });
    for (const { name } of workloads) {
      const [bare, all] = [summarise(samples, name, 'bare'), summarise(samples, name, 'all')];
      const slower = 1 - all.iops.median / bare.iops.median;
      const cpuUs = all.cpuUsPerIo.median - bare.cpuUsPerIo.median;
      const kilo = (iops: number): string => `${(iops / 1_000).toFixed(1)}k`;
      stage.report.add(
        `QoS, metrics and checksums together: ${name}`,
        `${(slower * 100).toFixed(1)} % fewer IOPS (${kilo(all.iops.median)} of ${kilo(bare.iops.median)}), ${cpuUs.toFixed(2)} us CPU per I/O more`,
        `less than ${mostSlower * 100} %`,
        slower < mostSlower,
      );
    }
  });
}
