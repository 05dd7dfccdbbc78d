import type { TestCluster } from '../../harness/test-cluster.ts';
import { beginFault, type FaultKind } from '../../namespaces/faults.ts';
import { probeNowMs, type StallProbe } from '../../measure/stall-probe.ts';
import { addTimes, onCluster, probeAt, type Stage } from './stage.ts';

const volume = 'stalls';
const MiB = 1024 * 1024;
/** A stall that begins so long after the fault is not its doing (ms); longer than every target. */
const watchMs = 6_000;
/** On a busy machine a resync gives way to everything else (ms). */
const healDeadlineMs = 180_000;

interface StallCase {
  kind: FaultKind;
  victimLeads: boolean;
  name: string;
  targetMs: number;
}

const cases: StallCase[] = [
  { kind: 'kill', victimLeads: false, name: 'replica process killed', targetMs: 100 },
  {
    kind: 'kill',
    victimLeads: true,
    name: 'replica process and Raft leader killed',
    targetMs: 2_500,
  },
  { kind: 'cable', victimLeads: false, name: 'replica node silently cut off', targetMs: 3_000 },
  {
    kind: 'cable',
    victimLeads: true,
    name: 'replica node and Raft leader silently cut off',
    targetMs: 5_000,
  },
];

/** The longest stall that a client of the primary sees when a secondary goes away. */
export async function secondaryStalls(stage: Stage): Promise<void> {
  await onCluster(stage, 3, async (cluster) => {
    const size = ['--size', String(64 * MiB), '--replicas', '3'];
    await cluster.must('volume', 'create', volume, ...size);
    const rig = new StallRig(cluster, stage);
    try {
      for (const stallCase of cases) {
        const times: number[] = [];
        for (let attempt = 0; attempt < stage.tries; attempt += 1) {
          times.push(await rig.attempt(stallCase));
          process.stderr.write(`${stallCase.name}: ${times.at(-1)?.toFixed(0)} ms\n`);
        }
        addTimes(stage.report, `stall: ${stallCase.name}`, times, stallCase.targetMs);
      }
    } finally {
      await rig.close();
    }
  });
}

class StallRig {
  readonly #cluster: TestCluster;
  readonly #stage: Stage;
  #probe: StallProbe | null = null;
  #primary = -1;

  constructor(cluster: TestCluster, stage: Stage) {
    this.#cluster = cluster;
    this.#stage = stage;
  }

  async attempt(stallCase: StallCase): Promise<number> {
    const { kind, victimLeads } = stallCase;
    const cluster = this.#cluster;
    const leader = await cluster.leader();
    const probe = await this.#probeAwayFrom(leader);
    await cluster.waitHealth(volume, 'healthy', healDeadlineMs);
    // A busy machine may have held an election meanwhile.
    if ((await cluster.leader()) !== leader) return this.attempt(stallCase);
    const all = cluster.agents.map((_, index) => index);
    const neither = all.find((index) => index !== leader && index !== this.#primary) ?? 0;
    const node = victimLeads ? leader : neither;
    await probe.waitAnswers(probeNowMs() + 500);
    const fromMs = probeNowMs();
    const end = await beginFault(cluster, this.#stage.network, {
      ...{ kind, node, other: node, delayMs: 0 },
    });
    await probe.waitAnswers(fromMs + watchMs);
    const longestMs = probe.longestSince(fromMs);
    await end();
    await cluster.waitHealth(volume, 'healthy', healDeadlineMs);
    return longestMs;
  }

  async close(): Promise<void> {
    await this.#probe?.stop();
  }

  /**
   * The primary must not lead, or the victim could not. It is another node each time: a primary lets a
   * replica that leaves again and again wait for minutes, and here they all do.
   */
  async #probeAwayFrom(leader: number): Promise<StallProbe> {
    await this.#probe?.stop();
    const all = this.#cluster.agents.map((_, index) => index);
    this.#primary = all.find((index) => index !== leader && index !== this.#primary) ?? 0;
    this.#probe = await probeAt(this.#cluster, volume, this.#primary, { reconnects: false });
    return this.#probe;
  }
}
