import { join } from 'node:path';
import type { VolumeExplanation } from '@stor/protocol';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { runVerifier, WriterProcess } from '../../harness/writer-process.ts';
import { probeNowMs, type StallProbe } from '../../measure/stall-probe.ts';
import { readAllReplicas } from '../replicas.ts';
import { addTimes, onCluster, probeAt, type Stage } from './stage.ts';

const volume = 'verbs';
const MiB = 1024 * 1024;
const volumeBytes = 128 * MiB;
/** The probe writes and reads the first part, the verifying writer the rest. */
const probeBytes = 32 * MiB;
/** A handover drains, releases and fences: far from what a failover takes (ms). */
const handoverTargetMs = 2_000;
const replacementWait = '5s';
/** Wait, placement, filling and joining (ms). */
const replacementDeadlineMs = 60_000;

/** What operators do to a volume in use, through storctl, with clients that cannot reconnect. */
export async function verbs(stage: Stage): Promise<void> {
  await onCluster(stage, 5, async (cluster) => {
    const size = ['--size', String(volumeBytes), '--replicas', '3'];
    await cluster.must('volume', 'create', volume, ...size);
    const home = 0;
    const probe = await probeAt(cluster, volume, home, { reconnects: false });
    const logPath = join(stage.dir, 'verbs.log');
    const writer = new WriterProcess({
      ...{ uri: cluster.tcpUri(home, volume), logPath, seed: 21, depth: 4, rate: 300 },
      ...{ offset: probeBytes, length: volumeBytes - probeBytes, flushEvery: 300, readShare: 20 },
    });
    try {
      await waitFor('the writer to write', () => writer.acknowledged > 500);
      await movePrimary(cluster, stage, probe);
      await changeReplicas(cluster, stage);
      await moveReplica(cluster, stage);
      await replaceLost(cluster, stage, home);
      await holdAndExplain(cluster, stage, home);
      const { errors, wrongReads, acknowledged } = await writer.stop();
      const failures = [...errors, ...wrongReads, ...(probe.error === null ? [] : [probe.error])];
      stage.report.add(
        'clients through all of it, on one connection each',
        `${acknowledged} writes, ${failures.length} errors ${failures.join('; ')}`,
        '0 errors',
        failures.length === 0 && acknowledged > 1_000,
      );
      await probe.stop();
      await fence(cluster, stage, home);
      await compare(cluster, stage, logPath);
    } finally {
      await probe.stop();
      await writer.kill();
    }
  });
}

async function movePrimary(cluster: TestCluster, stage: Stage, probe: StallProbe): Promise<void> {
  const stalls: number[] = [];
  let moved = 0;
  for (let attempt = 0; attempt < stage.tries; attempt += 1) {
    const to = (attempt + 1) % cluster.agents.length;
    const fromMs = probeNowMs();
    await cluster.must('volume', 'move-primary', volume, '--to', cluster.agent(to).place.name);
    await probe.waitAnswers(probeNowMs());
    stalls.push(probe.longestSince(fromMs));
    if ((await cluster.primary(volume)) === to) moved += 1;
  }
  stage.report.add(
    'move-primary under load',
    `${moved} of ${stage.tries} moved, errors: ${probe.error ?? 'none'}`,
    'all, no error',
    moved === stage.tries && probe.error === null,
  );
  addTimes(stage.report, 'stall: move-primary', stalls, handoverTargetMs);
}

async function changeReplicas(cluster: TestCluster, stage: Stage): Promise<void> {
  const seen: string[] = [];
  let ok = true;
  for (const count of [5, 1, 2, 4, 3]) {
    const startMs = Date.now();
    await cluster.must('volume', 'update', volume, '--replicas', String(count), '--yes');
    const { status, spec } = await waitForReplicas(cluster, count);
    ok &&= status.replicas.length === count && spec.replicas === count;
    seen.push(`${status.replicas.length} (${((Date.now() - startMs) / 1_000).toFixed(1)} s)`);
  }
  stage.report.add(
    'update --replicas 5, 1, 2, 4, 3',
    seen.join(', '),
    '5, 1, 2, 4, 3, healthy',
    ok,
  );
}

/** Replicas that leave are deleted after the command has returned. */
function waitForReplicas(cluster: TestCluster, count: number) {
  return waitFor(
    `${count} replicas in sync`,
    async () => {
      const seen = await cluster.inspect(volume);
      const { replicas, health } = seen.status;
      if (replicas.length !== count || health !== 'healthy') {
        throw new Error(`${replicas.length} replicas, ${health}`);
      }
      return seen;
    },
    { deadlineMs: replacementDeadlineMs },
  );
}

async function moveReplica(cluster: TestCluster, stage: Stage): Promise<void> {
  const { replicas } = (await cluster.inspect(volume)).status;
  const nodes = replicas.map(({ node }) => node);
  const [from = ''] = nodes;
  const to = cluster.agents.map(({ place }) => place.name).find((name) => !nodes.includes(name));
  await cluster.must('volume', 'move', volume, from, '--to', to ?? '');
  const after = (await waitForReplicas(cluster, 3)).status.replicas.map(({ node }) => node);
  stage.report.add(
    `move ${from} --to ${to}`,
    `replicas on ${after.sort().join(', ')}`,
    `on ${to}, not on ${from}`,
    after.includes(to ?? '') && !after.includes(from),
  );
}

function isVictim(cluster: TestCluster, spared: readonly (number | null)[]) {
  return ({ node }: { node: string }): boolean => !spared.includes(cluster.indexOfNode(node));
}

/** A replica's node dies for longer than the volume waits: another node gets a new one. */
async function replaceLost(cluster: TestCluster, stage: Stage, home: number): Promise<void> {
  const before = await cluster.inspect(volume);
  const primary = await cluster.primary(volume);
  const lost = before.status.replicas.find(isVictim(cluster, [home, primary]));
  if (!lost) throw new Error('every replica is on a node that must stay');
  const victim = cluster.agent(cluster.indexOfNode(lost.node));
  await victim.kill9();
  await cluster.waitHealth(volume, 'degraded');
  await waitNodeDown(cluster);
  await explain(cluster, stage, 'degraded', [
    `node ${lost.node}, which has a replica, is down`,
    `if node ${lost.node} is not back by `,
    'its replica is replaced on another node',
    `start the agent on node ${lost.node}`,
  ]);
  await cluster.must(
    'volume',
    'update',
    volume,
    '--replacement-wait',
    replacementWait,
    '--no-wait',
  );
  const startMs = Date.now();
  const { status } = await waitFor(
    'the replacement to be in sync',
    async () => {
      const seen = await cluster.inspect(volume);
      const inSync = seen.status.replicas.filter(({ state }) => state === 'in-sync');
      return inSync.length === 3 && seen;
    },
    { deadlineMs: replacementDeadlineMs },
  );
  const nodes = status.replicas.filter(({ state }) => state === 'in-sync').map(({ node }) => node);
  stage.report.add(
    `replica on a dead node replaced after ${replacementWait}`,
    `in sync on ${nodes.sort().join(', ')} after ${((Date.now() - startMs) / 1_000).toFixed(1)} s`,
    `3 in sync, none on ${lost.node}`,
    !nodes.includes(lost.node),
  );
  victim.start();
  await victim.waitReady();
  const { status: after } = await waitForReplicas(cluster, 3);
  stage.report.add(
    'the dead node returns',
    `${after.replicas.length} replicas, old one ${after.replicas.some(({ id }) => id === lost.id) ? 'kept' : 'gone'}`,
    '3 replicas, old one gone',
    after.replicas.length === 3 && !after.replicas.some(({ id }) => id === lost.id),
  );
  await cluster.must('volume', 'update', volume, '--replacement-wait', '1h', '--no-wait');
}

/** A volume in mode hard holds its writes when a replica is lost, and goes on when it is back. */
async function holdAndExplain(cluster: TestCluster, stage: Stage, home: number): Promise<void> {
  await cluster.must('volume', 'update', volume, '--failure-mode', 'hard');
  const { status } = await cluster.inspect(volume);
  const primary = await cluster.primary(volume);
  const lost = status.replicas.find(isVictim(cluster, [home, primary]));
  if (!lost) throw new Error('every replica is on a node that must stay');
  const victim = cluster.agent(cluster.indexOfNode(lost.node));
  await victim.kill9();
  await cluster.waitHealth(volume, 'suspended');
  await waitNodeDown(cluster);
  await explain(cluster, stage, 'suspended', [
    'failure mode hard needs 3',
    `node ${lost.node}, which has a replica, is down`,
    'held writes go on as soon as 1 more replica is in sync',
    `start the agent on node ${lost.node}`,
    `storctl volume update ${volume} --failure-mode`,
  ]);
  victim.start();
  await victim.waitReady();
  await cluster.waitHealth(volume, 'healthy');
  await cluster.must('volume', 'update', volume, '--failure-mode', 'soft');
}

/** A node counts as down when its lease has ended: from then on the explanation names it. */
async function waitNodeDown(cluster: TestCluster): Promise<void> {
  await waitFor('the node to be down', async () => {
    const { nodes } = await cluster.status();
    return nodes.up === nodes.total - 1;
  });
}

/** Every text must be in the explanation somewhere. */
async function explain(
  cluster: TestCluster,
  stage: Stage,
  health: string,
  wanted: readonly string[],
): Promise<void> {
  const json = await cluster.must('volume', 'explain', volume, '-o', 'json');
  const said = JSON.parse(json) as VolumeExplanation;
  const { state, causes, next, advice } = said;
  const all = [state, ...causes.map(({ text }) => text), ...next, ...advice];
  const missing = wanted.filter((text) => !all.some((line) => line.includes(text)));
  const ok = said.health === health && missing.length === 0 && said.sinceMs !== null;
  if (!ok) process.stderr.write(`${json}\n`);
  stage.report.add(
    `explain of a ${health} volume`,
    missing.length === 0 ? `${said.health}: ${state}` : `does not say: ${missing.join('; ')}`,
    'state, cause, since when, next, command',
    ok,
  );
}

/** The holder answers, so it must be insisted on; then another node serves the volume. */
async function fence(cluster: TestCluster, stage: Stage, home: number): Promise<void> {
  const probe = await probeAt(cluster, volume, home, { reconnects: false });
  const refused = await cluster.storctl('volume', 'fence', volume);
  const before = (await cluster.inspect(volume)).status.epoch;
  await cluster.must('volume', 'fence', volume, '--yes');
  await waitFor('the old connection to end', () => probe.error !== null);
  await probe.stop();
  const other = await probeAt(cluster, volume, (home + 1) % 5, { reconnects: false });
  await other.stop();
  const { epoch } = (await cluster.inspect(volume)).status;
  stage.report.add(
    'fence of a holder that answers',
    `exit ${refused.code} without --yes; with it epoch ${before} to ${epoch}, served by another`,
    'exit 11, a larger epoch',
    refused.code === 11 && epoch > before,
  );
}

async function compare(cluster: TestCluster, stage: Stage, logPath: string): Promise<void> {
  const { servedHash, replicas } = await readAllReplicas(cluster, volume, stage.dir);
  let wrong = 0;
  let same = 0;
  for (const { imagePath, contentHash } of replicas) {
    if (contentHash === servedHash) same += 1;
    const verified = await runVerifier(logPath, { image: imagePath });
    wrong += verified.wrong + verified.torn;
  }
  stage.report.add(
    'replicas on disk after all of it',
    `${same} of ${replicas.length} equal, ${wrong} wrong sectors`,
    '3 of 3, 0 wrong',
    same === 3 && replicas.length === 3 && wrong === 0,
  );
}
