import { beginFault } from '../../namespaces/faults.ts';
import { probeNowMs } from '../../measure/stall-probe.ts';
import { addTimes, onCluster, probeAt, type Stage } from './stage.ts';

const volume = 'failover';
const MiB = 1024 * 1024;
const targetMs = 10_000;
/** What is written before a node dies, so that there is something to settle (ms). */
const loadMs = 2_000;

/** The primary's node dies: from then to the first write that another node has acknowledged. */
export async function failover(stage: Stage): Promise<void> {
  await onCluster(stage, 3, async (cluster) => {
    const size = ['--size', String(64 * MiB), '--replicas', '3'];
    await cluster.must('volume', 'create', volume, ...size);
    const times = { leads: [] as number[], follows: [] as number[] };
    for (let attempt = 0; attempt < stage.tries; attempt += 1) {
      const leader = await cluster.leader();
      const role = attempt % 2 === 0 ? 'leads' : 'follows';
      const node = role === 'leads' ? leader : (leader + 1) % 3;
      const probe = await probeAt(cluster, volume, node, { reconnects: true });
      try {
        await cluster.waitHealth(volume, 'healthy');
        await probe.waitAnswers(probeNowMs() + loadMs);
        const fromMs = probeNowMs();
        const end = await beginFault(cluster, stage.network, {
          ...{ kind: 'node-death' as const, node, other: node, delayMs: 0 },
        });
        await probe.waitAnswers(fromMs + 1_000);
        const answeredMs = probe.firstWriteAfter(fromMs);
        if (answeredMs === null) throw new Error('no write was under way when the node died');
        times[role].push(answeredMs - fromMs);
        process.stderr.write(`failover, node ${role}: ${(answeredMs - fromMs).toFixed(0)} ms\n`);
        const primary = await cluster.primary(volume);
        if (primary === node) throw new Error('the dead node is still the primary');
        await end();
        await cluster.waitHealth(volume, 'healthy');
      } finally {
        await probe.stop();
      }
    }
    const { report } = stage;
    addTimes(report, 'failover to first write: node of primary killed', times.follows, targetMs);
    addTimes(report, 'failover to first write: and it was Raft leader', times.leads, targetMs);
  });
}
