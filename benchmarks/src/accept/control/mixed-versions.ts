import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type * as Protocol from '@stor/protocol';
import { NbdClient } from 'nbd-client-js';
import { checkoutRoot } from '../../harness/checkout.ts';
import { TestCluster } from '../../harness/test-cluster.ts';
import { waitFor } from '../../harness/wait-for.ts';
import { buildCommit, buildPatched, type BuiltVersion } from './build-version.ts';
import type { ControlStage } from './stage.ts';

/** Before watches and ranges of versions: its formats are those of today. */
const earlierCommit = '2b82cc36c7b7abd8532f4abc3d1ed09505c13885';
const nextPatch = 'benchmarks/src/accept/control/mixed-versions/next-version.patch';
const ofNext = 'of N+1';
const volumeBytes = 8 * 2 ** 20;
/** A leader is restarted so often until one of the other version leads. */
const maxElections = 12;

/**
 * Agents of two versions in one cluster: an earlier commit with this one, and this one with a next one,
 * which is this one and a patch that adds a field to a record and to messages, and versions of both
 * protocols. Each version leads once, and volumes are written through both.
 */
export async function mixedVersions(stage: ControlStage): Promise<void> {
  process.stderr.write('building N+1 (this checkout with a patch)\n');
  const next = await buildPatched(join(stage.dir, 'next'), join(checkoutRoot(), nextPatch));
  await upgraded(stage, 'this and the next version', null, next);
  process.stderr.write(`building N (${earlierCommit})\n`);
  const earlier = await buildCommit(join(stage.dir, 'earlier'), earlierCommit);
  if (earlier) await upgraded(stage, 'an earlier version and this', earlier, null);
  else {
    const isCi = process.env['CI'] === 'true';
    const why = 'skipped: no commit in the history here';
    stage.report.add(`an earlier version and this (${earlierCommit})`, why, 'runs', !isCi);
  }
}

/** Volumes, one byte for each: what they must be full of. */
type Contents = Map<string, number>;

/** `null` stands for this checkout. */
async function upgraded(
  { dir, report }: ControlStage,
  what: string,
  older: BuiltVersion | null,
  newer: BuiltVersion | null,
): Promise<void> {
  const folder = join(dir, what.replaceAll(' ', '-'));
  const cluster = await TestCluster.create({ nodes: 3, dir: folder });
  const contents: Contents = new Map();
  const say = (name: string, value: string, ok: boolean): void => {
    report.add(`${what}: ${name}`, value, 'holds', ok);
  };
  try {
    for (const agent of cluster.agents) agent.mainFile = older?.mainFile ?? null;
    await cluster.start();
    await cluster.waitFit();
    await create(cluster, 'before', 0, contents);
    await become(cluster, 2, newer);
    await create(cluster, 'mixed', 2, contents);
    for (const [at, byte] of [
      [0, 21],
      [2, 22],
      [1, 23],
      [2, 24],
    ] as const) {
      for (const name of contents.keys()) await fill(cluster, at, name, byte, contents);
    }
    say('written through both', await verdict(cluster, contents), true);
    if (newer) {
      await checkNext(cluster, newer, say);
      await checkRefusal(cluster, newer, say);
    }
    await letLead(cluster, (index) => index === 2);
    await create(cluster, 'newer-leads', 0, contents);
    say('the newer one leads', await verdict(cluster, contents), true);
    await letLead(cluster, (index) => index !== 2);
    await create(cluster, 'older-leads', 2, contents);
    say('the older one leads', await verdict(cluster, contents), true);
    await become(cluster, 1, newer);
    await fill(cluster, 1, 'before', 31, contents);
    await become(cluster, 0, newer);
    await fill(cluster, 0, 'mixed', 32, contents);
    say('all are upgraded', await verdict(cluster, contents), true);
  } catch (error) {
    process.stderr.write(`${cluster.logTails()}\n`);
    throw error;
  } finally {
    await cluster.close();
  }
}

async function create(
  cluster: TestCluster,
  name: string,
  through: number,
  contents: Contents,
): Promise<void> {
  const { place } = cluster.agent(through);
  const { openApiClient } = await import('@stor/protocol');
  const client = openApiClient({ endpoints: [`${place.host}:${place.apiPort}`] });
  await client.createVolume({ name, sizeBytes: volumeBytes, replicas: 3, labels: {} });
  await client.close();
  await fill(cluster, through, name, contents.size + 1, contents);
}

/** Writes the whole volume through a node, and reads it back there. */
async function fill(
  cluster: TestCluster,
  through: number,
  name: string,
  byte: number,
  contents: Contents,
): Promise<void> {
  const { place } = cluster.agent(through);
  const to = { host: place.host, port: place.nbdPort, exportName: name };
  // the volume may be on its way from the node that had it last
  const client = await waitFor(`volume ${name} at ${place.name}`, () => NbdClient.connect(to), {
    deadlineMs: 30_000,
  });
  const known = contents.get(name);
  if (known !== undefined) await check(client, name, known);
  await client.write(0, Buffer.alloc(volumeBytes, byte));
  await client.flush();
  contents.set(name, byte);
  await check(client, name, byte);
  await client.close();
}

async function check(client: NbdClient, name: string, byte: number): Promise<void> {
  const read = await client.read(0, volumeBytes);
  const wrong = read.findIndex((each) => each !== byte);
  if (wrong >= 0) throw new Error(`${name} has ${read[wrong]} at ${wrong} in place of ${byte}`);
}

/** Every volume is whole and in sync on all nodes. */
async function verdict(cluster: TestCluster, contents: Contents): Promise<string> {
  for (const name of contents.keys()) await cluster.waitHealth(name, 'healthy');
  return `${contents.size} volumes as written, in sync`;
}

/** The node goes on with another version. */
async function become(
  cluster: TestCluster,
  index: number,
  version: BuiltVersion | null,
): Promise<void> {
  const agent = cluster.agent(index);
  await agent.stop();
  agent.mainFile = version?.mainFile ?? null;
  await cluster.start();
  await cluster.waitFit();
  const { volumes } = await cluster.api.listVolumes({});
  for (const { metadata } of volumes) await cluster.waitHealth(metadata.name, 'healthy');
}

/** Restarts leaders until one leads that is wanted. */
async function letLead(cluster: TestCluster, isWanted: (index: number) => boolean): Promise<void> {
  for (let i = 0; i < maxElections; i++) {
    const leader = await cluster.leader();
    if (isWanted(leader)) return;
    await cluster.agent(leader).stop();
    await cluster.start();
    await cluster.waitFit();
  }
  throw new Error(`none of the wanted agents led after ${maxElections} elections`);
}

/** What only the next version has: n3 is one, n1 and n2 are not. */
async function checkNext(
  cluster: TestCluster,
  next: BuiltVersion,
  say: (name: string, value: string, ok: boolean) => void,
): Promise<void> {
  const { openApiClient } = (await import(
    pathToFileURL(next.protocolFile).href
  )) as typeof Protocol;
  const at = (index: number): Protocol.ApiClient => {
    const { place } = cluster.agent(index);
    return openApiClient({ endpoints: [`${place.host}:${place.apiPort}`] });
  };
  const [older, newer] = [at(0), at(2)];
  const noteOf = async (client: Protocol.ApiClient): Promise<string> => {
    const { status } = await client.getVolume({ name: 'mixed' });
    return (status as { nextNote?: string }).nextNote ?? '';
  };
  await older.updateVolume({ name: 'mixed', policy: { replacementWaitMs: 1_234_000 } });
  const note = await noteOf(newer);
  say('a field of a record that N has rewritten', JSON.stringify(note), note === ofNext);
  const hidden = await noteOf(older);
  say('the same field from N, which knows it not', JSON.stringify(hidden), hidden === '');
  await newer.detachVolume({ name: 'mixed' });
  await newer.attachVolume({ name: 'mixed', node: 'n1' });
  await newer.detachVolume({ name: 'mixed' });
  await older.attachVolume({ name: 'mixed', node: 'n3' });
  await older.detachVolume({ name: 'mixed' });
  const heard = /hint: none/.test(cluster.agent(2).log());
  say('a message with a field more, and one less', heard ? 'both done' : 'not seen', heard);
  const { versions } = await older.planUpgrade({});
  const told = versions.map(({ version, nodes }) => `${version}: ${nodes.join(',')}`).join('; ');
  say('upgrade plan tells both versions', told, versions.length === 2);
  await Promise.all([older.close(), newer.close()]);
  const spoken = [
    ...cluster
      .agent(2)
      .log()
      .matchAll(/"version":(\d)[^\n]*peer link is up/g),
  ];
  const versionsSpoken = [...new Set(spoken.map(([, version]) => version))].join(',');
  say('the peer protocol between N and N+1', `version ${versionsSpoken}`, versionsSpoken === '4');
}

/** A version that N has nothing in common with: n2 speaks it alone for a while, and then N again. */
async function checkRefusal(
  cluster: TestCluster,
  next: BuiltVersion,
  say: (name: string, value: string, ok: boolean) => void,
): Promise<void> {
  const agent = cluster.agent(1);
  await agent.stop();
  agent.mainFile = next.mainFile;
  agent.place.env = { STOR_NEXT_ONLY: '1' };
  agent.start();
  const told = await waitFor('the refusal of a version that is not known', () => {
    const logs = cluster.agents.map((each) => each.log()).join('\n');
    const [found] =
      /(node|member) n-\w+ speaks version[^"]*: upgrade (node|member) [^"]*/.exec(logs) ?? [];
    return Promise.resolve(found ?? null);
  });
  say('a version that N does not know is refused', told.split(': ').at(-1) ?? told, true);
  delete agent.place.env;
  await become(cluster, 1, null);
}
