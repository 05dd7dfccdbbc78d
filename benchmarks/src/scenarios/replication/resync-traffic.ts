import { setTimeout as delay } from 'node:timers/promises';
import { NbdClient } from 'nbd-client-js';
import type { TestCluster } from '../../harness/test-cluster.ts';
import { networkBytes } from '../../namespaces/packet-rules.ts';
import { onCluster, type Stage } from './stage.ts';

const volume = 'resync';
const MiB = 1024 * 1024;
const GiB = 1024 * MiB;
const regionBytes = 4 * MiB;
const volumeBytes = 2 * GiB;
/** Every other region is written while the replica is away: 1 GiB of distinct blocks. */
const changedBytes = volumeBytes / 2;
const awayMs = 60_000;
/** Marks are cleared when regions have rested for 30 s and a checkpoint has come after that (ms). */
const restMs = 60_000;
const requestBytes = MiB;
const depth = 8;
const maxShare = 1.1;
/** Registration, Raft, pings and the talk about what is marked: far from a chunk for each region. */
const maxSmallTalkBytes = 2 * MiB;

/** What a returning replica receives, counted at the network of its node. */
export async function resyncTraffic(stage: Stage): Promise<void> {
  await onCluster(stage, 3, async (cluster) => {
    const size = ['--size', String(volumeBytes), '--replicas', '3'];
    await cluster.must('volume', 'create', volume, ...size);
    const victim = 2;
    const client = await NbdClient.connect({ uri: cluster.tcpUri(0, volume) });
    try {
      await writeRegions(client, () => true);
      await client.flush();
      await delay(restMs);
      await cluster.agent(victim).kill9();
      const startMs = Date.now();
      await writeRegions(client, (region) => region % 2 === 0);
      await client.flush();
      await delay(Math.max(0, startMs + awayMs - Date.now()));
      const { bytes, elapsedMs } = await countReturn(cluster, stage, victim);
      stage.report.add(
        'resync after 60 s away, 1 GiB written: received',
        `${(bytes / MiB).toFixed(1)} MiB = ${(bytes / changedBytes).toFixed(3)}x in ${(elapsedMs / 1_000).toFixed(1)} s`,
        `<= ${maxShare}x of the changed chunks (${changedBytes / MiB} MiB)`,
        bytes <= changedBytes * maxShare && bytes >= changedBytes,
      );
      await delay(restMs);
      const exit = await cluster.agent(victim).stop();
      if (exit.code !== 0) throw new Error(`the agent ended with ${JSON.stringify(exit)}`);
      const back = await countReturn(cluster, stage, victim);
      stage.report.add(
        'replica back after a clean restart: received',
        `${(back.bytes / 1024).toFixed(0)} KiB in ${(back.elapsedMs / 1_000).toFixed(1)} s`,
        `no data: < ${maxSmallTalkBytes / MiB} MiB of talk`,
        back.bytes < maxSmallTalkBytes,
      );
    } finally {
      await client.close();
    }
  });
}

async function countReturn(
  cluster: TestCluster,
  stage: Stage,
  node: number,
): Promise<{ bytes: number; elapsedMs: number }> {
  const { name } = stage.network.node(node);
  const before = await networkBytes(name);
  const startMs = Date.now();
  cluster.agent(node).start();
  await cluster.agent(node).waitReady();
  await cluster.waitHealth(volume, 'healthy', 300_000);
  const after = await networkBytes(name);
  return { bytes: after.received - before.received, elapsedMs: Date.now() - startMs };
}

/** Writes the wanted regions with bytes that exist nowhere else. */
async function writeRegions(
  client: NbdClient,
  isWanted: (region: number) => boolean,
): Promise<void> {
  const offsets: number[] = [];
  for (let offset = 0; offset < volumeBytes; offset += requestBytes) {
    if (isWanted(Math.floor(offset / regionBytes))) offsets.push(offset);
  }
  const worker = async (): Promise<void> => {
    const bytes = Buffer.alloc(requestBytes);
    for (;;) {
      const offset = offsets.shift();
      if (offset === undefined) return;
      fillDistinct(bytes);
      await client.write(offset, bytes);
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
}

let state = 0x2545f491;

/** xorshift32: no two blocks of a run are equal, and nothing compresses them. */
function fillDistinct(bytes: Buffer): void {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  for (let index = 0; index < words.length; index += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[index] = state;
  }
}
