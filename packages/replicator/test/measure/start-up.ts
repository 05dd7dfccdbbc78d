/**
 * How long a disk takes to open. A process of its own each time, started by
 * `npm run accept -- store start-up`:
 *
 *   start-up.js fill DISK ALLOCATED_GIB   one replica, one block in each of its chunks
 *   start-up.js open DISK clean|killed    opens it, prints the time, and ends as said
 */
import { chunkBytes } from '@stor/protocol';
import { type Files, systemFiles } from '@stor/runtime';
import { defaultJournalBytes } from '../../src/store/open-disk-store.ts';
import { openStore, write } from '../store-fixture.ts';

const gib = 1024 ** 3;
/** Calls at a time while filling: they share journal frames. */
const callsAtOnce = 512;
/** What is promised to slots is never written here, so the disk may be smaller than that. */
const files: Files = {
  ...systemFiles,
  space: () => ({ totalBytes: 2 ** 42, freeBytes: 2 ** 42 }),
};
const replicaId = 'r-0000000000000001';
const volumeId = 'v-0000000000000001';

async function fill(disk: string, allocatedBytes: number): Promise<void> {
  const store = await openStore(disk, files, {
    options: { journalBytes: defaultJournalBytes },
  });
  const identity = { replicaId, volumeId, segment: 0, sizeBytes: allocatedBytes };
  const replica = await store.createReplica(identity);
  const chunks = allocatedBytes / chunkBytes;
  for (let first = 0; first < chunks; first += callsAtOnce) {
    const count = Math.min(callsAtOnce, chunks - first);
    await Promise.all(
      Array.from({ length: count }, (_, i) =>
        write(replica, (first + i) * chunkBytes, 4096, (first + i) & 0xff),
      ),
    );
  }
  await store.close();
}

async function open(disk: string, end: string): Promise<void> {
  const beganMs = performance.now();
  const store = await openStore(disk, files, {
    create: false,
    options: { journalBytes: defaultJournalBytes },
  });
  const openMs = performance.now() - beganMs;
  const replica = store.replica(replicaId);
  if (!replica || replica.failure) throw new Error('the replica is not there, or it has failed');
  const { allocatedBytes } = replica;
  const rssBytes = process.memoryUsage.rss();
  process.stdout.write(`${JSON.stringify({ openMs, allocatedBytes, rssBytes })}\n`);
  if (end === 'killed') process.kill(process.pid, 'SIGKILL');
  await store.close();
}

const [what, disk = '', argument = ''] = process.argv.slice(2);
if (what === 'fill') await fill(disk, Number(argument) * gib);
else if (what === 'open') await open(disk, argument);
else throw new Error('say fill or open');
