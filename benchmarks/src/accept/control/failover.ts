import { setTimeout as delay } from 'node:timers/promises';
import { openApiClient, type ApiClient } from '@stor/protocol';
import { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { spreadOf } from '../../measure/statistics.ts';
import { underLoad } from './cpu-load.ts';
import type { ControlStage } from './stage.ts';

const targetMs = 2_000;
/** For a time without any fault, in which nobody may be elected (ms). */
const quietMs = 30_000;
/** A member that came back has this long to follow before the next leader dies (ms). */
const settleMs = 1_500;

interface Times {
  leader: number[];
  write: number[];
}

/**
 * The leader of the cluster store is killed again and again: from then to a new leader that the others
 * know, and to the first write that the control plane has answered. Then the same machine is kept
 * busy, and nobody may be elected while no leader dies.
 */
export async function failover(stage: ControlStage): Promise<void> {
  const cluster = await TestCluster.create({ nodes: 3, dir: stage.dir });
  try {
    await cluster.start();
    await cluster.waitFit();
    report(stage, 'idle machine', await killLeaders(cluster, stage.tries));
    await underLoad(async () => {
      await checkQuiet(stage, cluster);
      report(
        stage,
        'all cores busy',
        await killLeaders(cluster, Math.ceil(stage.tries / 2)),
        false,
      );
    });
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}

async function killLeaders(cluster: TestCluster, tries: number): Promise<Times> {
  const times: Times = { leader: [], write: [] };
  for (let attempt = 0; attempt < tries; attempt += 1) {
    const victim = cluster.agent(await cluster.leader());
    const left = cluster.agents.filter((agent) => agent !== victim);
    const endpoints = left.map(({ place }) => `${place.host}:${place.apiPort}`);
    const clients = endpoints.map((endpoint) => openApiClient({ endpoints: [endpoint] }));
    // connected before: what is measured is the cluster, not the start of a client
    await Promise.all(clients.map((client) => client.listNodes({})));
    const killedMs = performance.now();
    await victim.kill9();
    const [leaderMs, writeMs] = await Promise.all([
      newLeader(clients, victim.place.name),
      firstWrite(clients, left.map(({ place }) => place.name)[0] ?? '', attempt),
    ]);
    times.leader.push(leaderMs - killedMs);
    times.write.push(writeMs - killedMs);
    const text = `${(leaderMs - killedMs).toFixed(0)} ms, write ${(writeMs - killedMs).toFixed(0)} ms`;
    process.stderr.write(`${victim.place.name} killed: leader after ${text}\n`);
    await Promise.all(clients.map((client) => client.close()));
    await cluster.start();
    await delay(settleMs);
  }
  return times;
}

/** When each that is left names the same leader, which is not the one that died. */
async function newLeader(clients: readonly ApiClient[], dead: string): Promise<number> {
  return waitFor(
    'a new leader',
    async () => {
      const found = await Promise.all(
        clients.map(async (client) => (await client.getClusterStatus({})).leader?.node),
      );
      const [first] = found;
      const isOne = found.every((name) => name !== undefined && name === first);
      return isOne && first !== dead ? performance.now() : null;
    },
    { intervalMs: 5 },
  );
}

/** When the first of writes that are tried at each survivor was answered. */
async function firstWrite(
  clients: readonly ApiClient[],
  node: string,
  attempt: number,
): Promise<number> {
  const label = { name: node, set: { try: String(attempt) }, remove: [] };
  const done = await Promise.any(
    clients.map((client) =>
      waitFor(
        'a write to be answered',
        async () => {
          await client.labelNode(label, { timeoutMs: 10_000 });
          return performance.now();
        },
        { intervalMs: 5 },
      ),
    ),
  );
  return done;
}

async function checkQuiet({ report, figures }: ControlStage, cluster: TestCluster): Promise<void> {
  const before = elections(cluster);
  await delay(quietMs);
  const count = elections(cluster) - before;
  figures['electionsUnderLoad'] = count;
  report.add(
    `elections in ${quietMs / 1_000} s, twice as many busy processes as cores`,
    String(count),
    '0',
    count === 0,
  );
}

/** How often an agent has become leader, by the logs. */
function elections(cluster: TestCluster): number {
  return cluster.agents
    .map((agent) => agent.log().match(/"role":"leader"/g)?.length ?? 0)
    .reduce((sum, count) => sum + count, 0);
}

function report(stage: ControlStage, when: string, times: Times, isBound = true): void {
  const key = isBound ? 'Idle' : 'Busy';
  for (const [what, list] of Object.entries(times) as [keyof Times, number[]][]) {
    const { median, max } = spreadOf(list);
    stage.figures[`${what}Median${key}`] = Math.round(median);
    stage.figures[`${what}Max${key}`] = Math.round(max);
    stage.report.add(
      `leader killed, ${when}: ${what === 'leader' ? 'new leader' : 'first write'}`,
      `median ${median.toFixed(0)} ms, max ${max.toFixed(0)} ms (${list.length} tries)`,
      isBound ? `max <= ${targetMs} ms` : 'measured',
      list.length > 0 && (!isBound || max <= targetMs),
    );
  }
}
