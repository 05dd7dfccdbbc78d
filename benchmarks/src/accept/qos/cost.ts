import { nbdTarget } from '../../fio/fio.ts';
import { runRounds, summarise, type Workload } from '../../measure/rounds.ts';
import type { BlockServer } from '../../servers/block-server.ts';
import { mebibyte, onClusters, writtenVolume, type QosStage } from './stage.ts';

const workloads: readonly Workload[] = [
  { name: '4 KiB random write, QD 1', options: { rw: 'randwrite', bs: '4k', iodepth: '1' } },
  { name: '4 KiB random write, QD 32', options: { rw: 'randwrite', bs: '4k', iodepth: '32' } },
  { name: '4 KiB random read, QD 32', options: { rw: 'randread', bs: '4k', iodepth: '32' } },
];

/** An agent that looks at no request beside one that does: a volume alone, and one with limits. */
export async function cost(stage: QosStage): Promise<void> {
  const sizeBytes = 128 * mebibyte;
  await onClusters(stage, ['with', 'without'], 1, async (clusters) => {
    const servers: BlockServer[] = [];
    const wanted = [
      { name: 'without', cluster: clusters.without },
      { name: 'alone', cluster: clusters.with },
      // far above what it can do: every request is counted, none waits
      { name: 'limited', cluster: clusters.with, qos: 'iops=50M,bps=500GiB' },
    ];
    for (const { name, cluster, qos } of wanted) {
      const volume = { name, sizeBytes, replicas: 1, ...(qos === undefined ? {} : { qos }) };
      const target = nbdTarget(await writtenVolume(stage, cluster, volume));
      servers.push({ name, target, pids: () => cluster.agents.map(({ pid }) => pid) });
    }
    const samples = await runRounds({
      ...{ servers, workloads, rounds: stage.rounds, sizeBytes, dir: stage.dir },
      runtimeSeconds: stage.quick ? 1 : 3,
    });
    for (const { name } of workloads) {
      const base = summarise(samples, name, 'without');
      for (const [server, most] of [
        ['alone', 0.05],
        ['limited', 0.1],
      ] as const) {
        const seen = summarise(samples, name, server);
        const slower = 1 - seen.iops.median / base.iops.median;
        const cpuUs = seen.cpuUsPerIo.median - base.cpuUsPerIo.median;
        stage.report.add(
          `cost of QoS, ${server}: ${name}`,
          `${slower >= 0 ? '-' : '+'}${(Math.abs(slower) * 100).toFixed(1)} % IOPS, ${cpuUs.toFixed(2)} us CPU per I/O`,
          `less than ${most * 100} % (the machine's own spread)`,
          slower < most,
        );
      }
    }
  });
}
