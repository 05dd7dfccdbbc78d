import { setTimeout as delay } from 'node:timers/promises';
import { NbdClient, ReconnectingNbdClient } from 'nbd-client-js';
import { waitFor } from '../../harness/wait-for.ts';
import { readAllReplicas } from '../replicas.ts';
import { onCluster, urisFrom, type Stage } from './stage.ts';

const volume = 'paused';
const MiB = 1024 * 1024;
const blockBytes = 4096;
/** Each side writes these blocks; few enough to be in flight at once. */
const blocks = 48;
const pausedMs = 30_000;
const fill = { before: 0x11, old: 0x22, fresh: 0x33 };

interface Outcome {
  acknowledged: number;
  refused: number;
  /** reads that were answered with what the new primary had replaced */
  stale: number;
}

/** A primary is stopped for 30 s with requests under way; meanwhile another node takes over. */
export async function pausedPrimary(stage: Stage): Promise<void> {
  await onCluster(stage, 3, async (cluster) => {
    const { report } = stage;
    const size = ['--size', String(16 * MiB), '--replicas', '3'];
    await cluster.must('volume', 'create', volume, ...size);
    const old = await NbdClient.connect({ uri: cluster.tcpUri(0, volume) });
    await Promise.all(writeAll(old, fill.before));
    const startMs = Date.now();
    cluster.agent(0).pause();
    // Sent to a process that does not run: it finds them in its sockets when it goes on.
    const waiting = collect(writeAll(old, fill.old), readAll(old));
    const fresh = await ReconnectingNbdClient.connect({
      addresses: urisFrom(cluster, 1, volume).slice(0, 2),
      firstGiveUpMs: pausedMs,
    });
    try {
      await Promise.all(writeAll(fresh, fill.fresh));
      await delay(Math.max(0, startMs + pausedMs - Date.now()));
      cluster.agent(0).resume();
      const first = await waiting;
      const later = await collect(writeAll(old, fill.old), readAll(old));
      report.add(
        'paused primary: its client after SIGCONT',
        `${first.acknowledged + later.acknowledged} writes acknowledged, ${first.refused + later.refused} requests refused, ${first.stale + later.stale} stale reads`,
        '0 acknowledged, 0 stale reads',
        first.acknowledged + later.acknowledged + first.stale + later.stale === 0 &&
          first.refused + later.refused === 4 * blocks,
      );
      const wrong = await countWrong(fresh);
      await old.close();
      await waitFor('the paused node to serve the volume', async () => {
        await fresh.flush();
        return true;
      });
      report.add(
        'paused primary: what the new primary wrote',
        `${blocks - wrong} of ${blocks} blocks`,
        'all',
        wrong === 0,
      );
    } finally {
      await fresh.close();
    }
    const { servedHash, replicas } = await readAllReplicas(cluster, volume, stage.dir);
    const same = replicas.filter(({ contentHash }) => contentHash === servedHash).length;
    report.add(
      'paused primary: replicas on disk like the new primary',
      `${same} of ${replicas.length}`,
      '3 of 3',
      same === 3,
    );
  });
}

type Client = Pick<NbdClient, 'write' | 'read'>;

function writeAll(client: Client, byte: number): Promise<void>[] {
  const block = Buffer.alloc(blockBytes, byte);
  return Array.from({ length: blocks }, (_, index) => client.write(index * blockBytes, block));
}

function readAll(client: Client): Promise<Buffer>[] {
  return Array.from({ length: blocks }, (_, index) => client.read(index * blockBytes, blockBytes));
}

async function collect(
  writes: readonly Promise<void>[],
  reads: readonly Promise<Buffer>[],
): Promise<Outcome> {
  const written = await Promise.allSettled(writes);
  const read = await Promise.allSettled(reads);
  const isFulfilled = ({ status }: { status: string }): boolean => status === 'fulfilled';
  return {
    acknowledged: written.filter(isFulfilled).length,
    refused: [...written, ...read].filter((result) => !isFulfilled(result)).length,
    stale: read.filter((result) => result.status === 'fulfilled' && result.value[0] !== fill.fresh)
      .length,
  };
}

async function countWrong(client: Client): Promise<number> {
  const expected = Buffer.alloc(blockBytes, fill.fresh);
  const read = await Promise.all(readAll(client));
  return read.filter((block) => !block.equals(expected)).length;
}
