import { segmentCount, usualSegmentBytes } from '@stor/protocol';
import { NbdClient } from 'nbd-client-js';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { eachTimed, idlePercent, residentMiB, timed } from './measure.ts';
import { note, onThreeNodes, type ScaleStage } from './stage.ts';

const KiB = 1024;
const GiB = 1024 ** 3;
const blockBytes = 4 * KiB;
const chunkBytes = 256 * KiB;
/** Many answers of BLOCK_STATUS cover less than is asked for; one asks about so much. */
const statusSpanBytes = 2 * GiB;
/** Writes under way while chunks are allocated. */
const depth = 64;
const patience = ['--timeout', '300s'];

/**
 * A volume of 4 TiB and one of 64 TiB, three replicas each on three agents that share one disk, thin: one
 * block of a chunk is written where chunks are to be allocated, so that the chunk maps are as with data.
 *
 * Why these targets: nobody waits a minute for a disk however large, and what is not written costs close to
 * nothing. A map of the chunks of 64 TiB has 1 GiB of entries on each node; what no chunk is in is never
 * touched, and so takes no memory until then. An allocated TiB may cost 64 MiB: 4 M chunks of 16 bytes.
 */
export async function volumeOf4TiB(stage: ScaleStage): Promise<void> {
  await onThreeNodes(stage, async (cluster) => {
    await cluster.must('pool', 'set', '--overprovision', '100000%');
    await measure(stage, cluster, 4, stage.quick ? 0 : 20);
  });
}

export async function volumeOf64TiB(stage: ScaleStage): Promise<void> {
  if (stage.quick) return;
  await onThreeNodes(stage, async (cluster) => {
    await cluster.must('pool', 'set', '--overprovision', '100000%');
    await measure(stage, cluster, 64, 0);
  });
}

/** While it is attached, and to the largest size that there is. */
export async function growth(stage: ScaleStage): Promise<void> {
  await onThreeNodes(stage, async (cluster) => {
    await cluster.must('pool', 'set', '--overprovision', '100000%');
    await grow(stage, cluster, 1, stage.quick ? 16 : 64);
    if (!stage.quick) await grow(stage, cluster, 4, 64);
  });
}

/** One large volume, and what is measured of it. */
class Large {
  readonly name: string;
  readonly #stage: ScaleStage;
  readonly #cluster: TestCluster;
  readonly #sizeTiB: number;
  readonly #beforeMiB: number[];

  constructor(stage: ScaleStage, cluster: TestCluster, sizeTiB: number) {
    this.name = `large${sizeTiB}`;
    this.#stage = stage;
    this.#cluster = cluster;
    this.#sizeTiB = sizeTiB;
    this.#beforeMiB = memory(cluster);
  }

  async took(what: string, key: string, most: number, run: () => Promise<unknown>): Promise<void> {
    const value = await timed(run);
    const name = `${this.#sizeTiB} TiB: ${what}`;
    note(this.#stage, { name, key: `${key}_${this.#sizeTiB}TiB_ms`, value, unit: 'ms', most });
  }

  /** What the largest of the agents has grown by since before the volume. */
  memory(what: string, key: string): void {
    const grown = memory(this.#cluster).map((mib, i) => mib - (this.#beforeMiB[i] ?? 0));
    note(this.#stage, {
      name: `${this.#sizeTiB} TiB: memory of an agent for each TiB of size, ${what}`,
      key: `${key}_${this.#sizeTiB}TiB_MiB`,
      value: Math.max(...grown) / this.#sizeTiB,
      unit: 'MiB',
      most: 32,
    });
  }
}

function memory(cluster: TestCluster): number[] {
  return cluster.agents.map(({ pid }) => residentMiB(pid));
}

async function measure(
  stage: ScaleStage,
  cluster: TestCluster,
  sizeTiB: number,
  allocatedGiB: number,
): Promise<void> {
  const large = new Large(stage, cluster, sizeTiB);
  const { name } = large;
  const must = (...args: string[]) => cluster.must(...args, ...patience);
  const size = `${sizeTiB}TiB`;
  await large.took('create', 'create', 60_000, () =>
    must('volume', 'create', name, '--size', size, '--replicas', '3'),
  );
  await large.took('attach', 'attach', 10_000, () =>
    must('volume', 'attach', name, '--node', 'n1'),
  );
  large.memory('attached', 'attachedMemory');
  const client = await NbdClient.connect({ uri: cluster.tcpUri(0, name) });
  await flushes(large, client);
  if (allocatedGiB > 0) await allocate(stage, cluster, client, allocatedGiB);
  await large.took('BLOCK_STATUS over all of it', 'blockStatus', 60_000, () => statusOver(client));
  note(stage, {
    name: `${sizeTiB} TiB: idle CPU while attached, busiest agent`,
    key: `idle_${sizeTiB}TiB_percent`,
    value: Math.max(...(await idlePercent(cluster, 10_000))),
    unit: '% of a core',
    most: 5,
  });
  await large.took('snapshot create', 'snapshot', 10_000, () =>
    must('snapshot', 'create', `${name}@s1`),
  );
  await touch(client, 1);
  await large.took(
    'all killed with -9, until a block is read again',
    'killAll',
    60_000,
    async () => {
      await cluster.kill9All();
      await cluster.start();
      await again(cluster, name);
    },
  );
  await client.close().catch(() => {});
  await large.took(
    'all stopped and started, until a block is read again',
    'restart',
    60_000,
    async () => {
      await cluster.stop();
      await cluster.start();
      await again(cluster, name);
    },
  );
  large.memory('after a restart', 'restartedMemory');
  await large.took('detach', 'detach', 30_000, () => must('volume', 'detach', name));
  await large.took('delete', 'delete', 60_000, () =>
    must('volume', 'rm', name, '--keep', '0', '--yes'),
  );
}

/** Writes one block to each segment. */
function touch(client: NbdClient, chunk: number): Promise<unknown> {
  const segmentBytes = usualSegmentBytes(client.sizeBytes);
  const count = segmentCount(client.sizeBytes, segmentBytes);
  const block = Buffer.alloc(blockBytes, 7);
  return Promise.all(
    Array.from({ length: count }, (_, i) =>
      client.write(i * segmentBytes + chunk * chunkBytes, block),
    ),
  );
}

async function flushes(large: Large, client: NbdClient): Promise<void> {
  await large.took('first write to each segment', 'firstWrites', 20_000, () => touch(client, 0));
  await large.took('FLUSH after it', 'flushAll', 5_000, () => client.flush());
  await large.took('FLUSH with nothing to do', 'flushNone', 100, () => client.flush());
  await large.took('write of one block and FLUSH', 'flushOne', 500, async () => {
    await client.write(2 * blockBytes, Buffer.alloc(blockBytes, 7));
    await client.flush();
  });
}

/** The order to attach it to n1 stands; a client there waits for that. */
async function again(cluster: TestCluster, name: string): Promise<void> {
  const endMs = performance.now() + 120_000;
  for (;;) {
    try {
      const client = await NbdClient.connect({ uri: cluster.tcpUri(0, name) });
      await client.read(0, 4096);
      await client.disconnect();
      return;
    } catch (error) {
      if (performance.now() > endMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

async function allocate(
  stage: ScaleStage,
  cluster: TestCluster,
  client: NbdClient,
  allocatedGiB: number,
): Promise<void> {
  const before = memory(cluster);
  const chunks = (allocatedGiB * GiB) / chunkBytes;
  const block = Buffer.alloc(blockBytes, 9);
  const first = 64 * 4;
  const all = Array.from({ length: chunks }, (_, i) => (first + i) * chunkBytes);
  const ms = await timed(() => eachTimed(all, depth, (offset) => client.write(offset, block)));
  await client.flush();
  const name = `new chunks, QD ${depth}`;
  note(stage, {
    name,
    key: 'newChunksPerSecond',
    value: (chunks * 1_000) / ms,
    unit: '/s',
    least: 1_000,
  });
  const grown = Math.max(...memory(cluster).map((mib, i) => mib - (before[i] ?? 0)));
  note(stage, {
    name: `memory of an agent for each allocated TiB, from ${allocatedGiB} GiB`,
    key: 'allocatedTiBMemory_MiB',
    value: (grown * 1024) / allocatedGiB,
    unit: 'MiB',
    most: 4_096,
  });
}

async function statusOver(client: NbdClient): Promise<void> {
  for (let at = 0; at < client.sizeBytes;) {
    const length = Math.min(statusSpanBytes, client.sizeBytes - at);
    const extents = await client.blockStatus(at, length);
    const covered = extents.reduce((sum, extent) => sum + extent.length, 0);
    if (covered === 0) throw new Error('BLOCK_STATUS made no progress');
    at += covered;
  }
}

async function grow(
  stage: ScaleStage,
  cluster: TestCluster,
  fromTiB: number,
  toTiB: number,
): Promise<void> {
  const name = `from${fromTiB}`;
  const segmentSize = toTiB > 16 ? '256GiB' : '64GiB';
  await cluster.must(
    ...['volume', 'create', name, '--size', `${fromTiB}TiB`, '--segment-size', segmentSize],
    ...['--replicas', '3', ...patience],
  );
  await cluster.must('volume', 'attach', name, '--node', 'n2', ...patience);
  note(stage, {
    name: `${fromTiB} TiB: resize to ${toTiB} TiB while attached`,
    key: `resize_${fromTiB}_${toTiB}TiB_ms`,
    value: await timed(() => cluster.must('volume', 'resize', name, `${toTiB}TiB`, ...patience)),
    unit: 'ms',
    most: 60_000,
  });
  await cluster.must('volume', 'detach', name, ...patience);
  await cluster.must('volume', 'rm', name, '--keep', '0', '--yes', ...patience);
}
