import { setTimeout as delay } from 'node:timers/promises';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { probeNowMs, type StallProbe } from '../../measure/stall-probe.ts';
import { addRules } from '../../namespaces/packet-rules.ts';
import { onCluster, probeAt, type Stage } from './stage.ts';

const MiB = 1024 * 1024;
/** More than three node leases without a quorum (ms). */
const withoutQuorumMs = 20_000;
/** Without a quorum I/O goes on as with one: no request takes longer than this (ms). */
const unhinderedMs = 1_000;
const holdMs = 10_000;
/** From the quorum's return to the first answer: an election, a set change, reconnects (ms). */
const backMs = 15_000;

/** The control plane loses its quorum under volumes that are in use. */
export async function noQuorum(stage: Stage): Promise<void> {
  await onCluster(stage, 3, async (cluster) => {
    const three = ['--size', String(64 * MiB), '--replicas', '3'];
    const one = ['--size', String(64 * MiB), '--replicas', '1'];
    await cluster.must('volume', 'create', 'three', ...three);
    await cluster.must('volume', 'create', 'one', ...one);
    const [replica] = (await cluster.inspect('one')).status.replicas;
    const home = cluster.indexOfNode(replica?.node ?? '');
    const others = cluster.agents.map((_, index) => index).filter((index) => index !== home);
    const probes = {
      three: await probeAt(cluster, 'three', home, { reconnects: false }),
      one: await probeAt(cluster, 'one', home, { reconnects: false }),
    };
    try {
      const connect = await cutControlLinks(cluster, stage);
      await expectUnhindered(stage, 'control links cut', probes);
      await cluster.agent(others[0] ?? 0).kill9();
      await expectHeld(stage, probes);
      await connect();
      await expectBack(stage, probes.three);
      await cluster.start();
      await cluster.waitHealth('three', 'healthy');
      await probes.three.stop();
      await cluster.must('volume', 'rm', 'three', '--yes');
      for (const index of others) await cluster.agent(index).kill9();
      await expectUnhindered(stage, 'two of three agents dead', { one: probes.one });
    } finally {
      for (const probe of Object.values(probes)) await probe.stop();
    }
  });
}

/** No agent reaches the API of another, which carries Raft too; data links stay. */
async function cutControlLinks(cluster: TestCluster, stage: Stage): Promise<() => Promise<void>> {
  const undo: (() => Promise<void>)[] = [];
  for (const [index, { place }] of cluster.agents.entries()) {
    const others = stage.network.nodes.filter((_, other) => other !== index);
    const rules = others.map(({ address }) => [
      ...['INPUT', '-s', address, '-p', 'tcp'],
      ...['--dport', String(place.apiPort), '-j', 'DROP'],
    ]);
    undo.push(await addRules(stage.network.node(index).name, rules));
  }
  return async () => {
    for (const remove of undo) await remove();
  };
}

async function expectUnhindered(
  stage: Stage,
  what: string,
  probes: Record<string, StallProbe>,
): Promise<void> {
  const fromMs = probeNowMs();
  await delay(withoutQuorumMs);
  const stalls: string[] = [];
  let worstMs = 0;
  for (const [name, probe] of Object.entries(probes)) {
    await probe.waitAnswers(probeNowMs() - unhinderedMs, unhinderedMs);
    const longestMs = probe.longestSince(fromMs);
    worstMs = Math.max(worstMs, longestMs);
    stalls.push(`${name} ${(longestMs / 1_000).toFixed(3)} s`);
  }
  stage.report.add(
    `no quorum for ${withoutQuorumMs / 1_000} s (${what}): longest stall`,
    stalls.join(', '),
    `< ${unhinderedMs / 1_000} s`,
    worstMs < unhinderedMs,
  );
}

/** A replica is gone and nobody can take it out of the set: its volume holds, the other goes on. */
async function expectHeld(
  stage: Stage,
  probes: Record<'three' | 'one', StallProbe>,
): Promise<void> {
  const fromMs = probeNowMs();
  await delay(holdMs);
  // A read may have been under way to the local replica when the member was lost.
  const wentOn = await probes.three.waitAnswers(fromMs + holdMs / 2, 1).then(
    () => true,
    () => false,
  );
  await probes.one.waitAnswers(probeNowMs() - unhinderedMs, unhinderedMs);
  stage.report.add(
    'no quorum and a replica lost: its volume holds',
    wentOn ? 'it went on' : `held, without an error (${probes.three.error ?? 'none'})`,
    'held, others go on',
    !wentOn && probes.three.error === null,
  );
}

async function expectBack(stage: Stage, probe: StallProbe): Promise<void> {
  const fromMs = probeNowMs();
  await probe.waitAnswers(fromMs);
  const tookMs = probeNowMs() - fromMs;
  stage.report.add(
    'quorum back: the held volume goes on after',
    `${(tookMs / 1_000).toFixed(1)} s`,
    `< ${backMs / 1_000} s, no error`,
    tookMs < backMs && probe.error === null,
  );
}
