import { setTimeout as delay } from 'node:timers/promises';
import { NbdClient } from 'nbd-client-js';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { cpuTimeUs } from '../../measure/cpu-time.ts';
import { median } from '../../measure/statistics.ts';
import { openDescriptors, residentMiB } from './measure.ts';
import { note, onThreeNodes, type ScaleStage } from './stage.ts';

const MiB = 1024 ** 2;
const blockBytes = 4096;
/** Each connection reads and writes within so much, which is allocated before (bytes). */
const spanBytes = 16 * MiB;
/** One measurement; the variants take turns (ms). */
const spanMs = 3_000;
const rounds = 3;
/** A server looks every 7.5 s who has said nothing since the time before (ms). */
const quietMs = 20_000;
/** Of connecting all and leaving again; a leak of one descriptor shows at once, one of memory adds up. */
const loops = 20;

/**
 * 64 connections: to one volume, as a client that uses several (CAN_MULTI_CONN) makes them, and to 64
 * volumes of three replicas; beside one connection with the same number of requests under way.
 *
 * Why these targets: many connections carry the work of one less well (a socket read and a socket write for
 * each instead of for all), and may cost up to half of it; nobody may starve: the slowest gets half of what the
 * fastest gets; a connection may take a receive buffer and some objects, and nothing may be left of it.
 * The clients are in one process beside the agents, so the numbers of operations are lower than servers can do.
 */
export async function manyConnections(stage: ScaleStage): Promise<void> {
  const count = stage.quick ? 16 : 64;
  await onThreeNodes(stage, async (cluster) => {
    const names = Array.from({ length: count }, (_, i) => `c${i}`);
    for (const name of ['one', ...names]) {
      await cluster.api.createVolume({
        name,
        sizeBytes: name === 'one' ? count * spanBytes : spanBytes,
        replicas: 3,
        labels: {},
      });
      await cluster.api.attachVolume({ name, node: 'n1' });
    }
    await fill(cluster, 'one', count * spanBytes);
    for (const name of names) await fill(cluster, name, spanBytes);
    await operations(stage, cluster, names);
    await memoryOfConnections(stage, cluster, count);
    await nothingLeft(stage, cluster, count);
  });
}

async function fill(cluster: TestCluster, name: string, bytes: number): Promise<void> {
  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, name) });
  const block = Buffer.alloc(MiB, 5);
  for (let at = 0; at < bytes; at += MiB) await client.write(at, block);
  await client.flush();
  await client.disconnect();
}

interface Place {
  client: NbdClient;
  offset: number;
}

interface Run {
  /** of each connection */
  operations: number[];
  cpuUs: number;
}

/** Random writes of 4 KiB by all connections for a while. */
async function load(cluster: TestCluster, places: readonly Place[], depth: number): Promise<Run> {
  const block = Buffer.alloc(blockBytes, 3);
  const operations = places.map(() => 0);
  const beforeUs = cluster.agents.reduce((sum, { pid }) => sum + cpuTimeUs(pid), 0);
  const endMs = performance.now() + spanMs;
  const worker = async ({ client, offset }: Place, index: number): Promise<void> => {
    const blocks = (places.length === 1 ? client.sizeBytes : spanBytes) / blockBytes;
    while (performance.now() < endMs) {
      await client.write(offset + Math.floor(Math.random() * blocks) * blockBytes, block);
      operations[index] = (operations[index] ?? 0) + 1;
    }
  };
  await Promise.all(
    places.flatMap((place, index) => Array.from({ length: depth }, () => worker(place, index))),
  );
  const afterUs = cluster.agents.reduce((sum, { pid }) => sum + cpuTimeUs(pid), 0);
  return { operations, cpuUs: afterUs - beforeUs };
}

async function operations(
  stage: ScaleStage,
  cluster: TestCluster,
  names: readonly string[],
): Promise<void> {
  const count = names.length;
  const connect = (name: string): Promise<NbdClient> =>
    NbdClient.connect({ uri: cluster.tcpUri(0, name) });
  const single = [{ client: await connect('one'), offset: 0 }];
  const shared = await Promise.all(
    names.map(async (_, i) => ({ client: await connect('one'), offset: i * spanBytes })),
  );
  const apart = await Promise.all(
    names.map(async (name) => ({ client: await connect(name), offset: 0 })),
  );
  for (const depth of stage.quick ? [1] : [1, 8]) {
    const variants = {
      single: { places: single, depth: depth * count, runs: [] as Run[] },
      shared: { places: shared, depth, runs: [] as Run[] },
      apart: { places: apart, depth, runs: [] as Run[] },
    };
    for (let round = 0; round < rounds; round++) {
      for (const variant of Object.values(variants)) {
        variant.runs.push(await load(cluster, variant.places, variant.depth));
      }
    }
    const rate = (runs: Run[]): number => median(runs.map(perSecond));
    const base = rate(variants.single.runs);
    const at = `QD ${depth} each`;
    const key = `Qd${depth}`;
    note(stage, {
      name: `1 connection, QD ${depth * count}`,
      key: `single${key}Iops`,
      value: base,
      unit: 'IOPS',
    });
    for (const [variant, what] of [
      ['shared', `${count} connections to one volume, ${at}`],
      ['apart', `${count} connections to ${count} volumes, ${at}`],
    ] as const) {
      const { runs } = variants[variant];
      note(stage, { name: what, key: `${variant}${key}Iops`, value: rate(runs), unit: 'IOPS' });
      note(stage, {
        name: `${what}, beside 1 connection`,
        key: `${variant}${key}Ratio`,
        value: rate(runs) / base,
        unit: 'times',
        least: 0.5,
      });
      note(stage, {
        name: `${what}, slowest beside fastest`,
        key: `${variant}${key}Fairness`,
        value: median(
          runs.map(({ operations }) => Math.min(...operations) / Math.max(...operations)),
        ),
        unit: 'times',
        least: 0.5,
      });
      note(stage, {
        name: `${what}, CPU of all agents`,
        key: `${variant}${key}CpuUs`,
        value: median(runs.map(({ cpuUs, operations }) => cpuUs / sum(operations))),
        unit: 'us per write',
      });
    }
  }
  const all = [...single, ...shared, ...apart];
  await Promise.all(all.map(({ client }) => client.disconnect()));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function perSecond({ operations }: Run): number {
  return (sum(operations) * 1_000) / spanMs;
}

async function memoryOfConnections(
  stage: ScaleStage,
  cluster: TestCluster,
  count: number,
): Promise<void> {
  const { pid } = cluster.agent(0);
  const uri = cluster.tcpUri(0, 'one');
  const beforeMiB = residentMiB(pid);
  const clients = await Promise.all(
    Array.from({ length: 4 * count }, () => NbdClient.connect({ uri })),
  );
  await delay(1_000);
  note(stage, {
    name: `memory of an idle connection, ${clients.length} of them`,
    key: 'idleConnectionKiB',
    value: ((residentMiB(pid) - beforeMiB) * 1024) / clients.length,
    unit: 'KiB',
    most: 512,
  });
  await Promise.all(
    clients.map((client, i) => client.write((i % count) * spanBytes, Buffer.alloc(MiB))),
  );
  note(stage, {
    name: 'memory of a connection after a write of 1 MiB on each',
    key: 'usedConnectionKiB',
    value: ((residentMiB(pid) - beforeMiB) * 1024) / clients.length,
    unit: 'KiB',
    most: 4_096,
  });
  await delay(quietMs);
  note(stage, {
    name: '... when it has been quiet for some 20 s',
    key: 'quietConnectionKiB',
    value: ((residentMiB(pid) - beforeMiB) * 1024) / clients.length,
    unit: 'KiB',
    most: 512,
  });
  await Promise.all(clients.map((client) => client.disconnect()));
}

async function nothingLeft(stage: ScaleStage, cluster: TestCluster, count: number): Promise<void> {
  const { pid } = cluster.agent(0);
  const round = async (): Promise<void> => {
    const clients = await Promise.all(
      Array.from({ length: count }, () => NbdClient.connect({ uri: cluster.tcpUri(0, 'one') })),
    );
    await Promise.all(clients.map((client) => client.read(0, blockBytes)));
    await Promise.all(clients.map((client) => client.disconnect()));
  };
  // what is made once is there after the first rounds
  for (let i = 0; i < loops; i++) await round();
  await delay(2_000);
  const [descriptors, memoryMiB] = [openDescriptors(pid), residentMiB(pid)];
  for (let i = 0; i < loops; i++) await round();
  await delay(2_000);
  note(stage, {
    name: `${loops} times ${count} connects: descriptors left`,
    key: 'descriptorsLeft',
    value: openDescriptors(pid) - descriptors,
    unit: 'files',
    // a call of storctl or of another node may have come meanwhile
    most: 4,
  });
  note(stage, {
    name: `${loops} times ${count} connects: memory left for each`,
    key: 'leftConnectionKiB',
    value: ((residentMiB(pid) - memoryMiB) * 1024) / (loops * count),
    unit: 'KiB',
    most: 8,
  });
}
