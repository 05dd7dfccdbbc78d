/**
 * The Raft log on LevelDB, on real file systems, on a disk that records its writes: what was saved
 * is there after a power cut, all of it and as a whole.
 *
 * STOR_CUTS=2000 STOR_ORDERS=3000: a longer run; STOR_SEED: the same orders and cuts again.
 */
import { isDeepStrictEqual } from 'node:util';
import { join } from 'node:path';
import t from 'tap';
import { LevelRaftStorage, MemoryRaftStorage } from '../../packages/raft-ts/src/index.ts';
import { SeededRandom } from '../../packages/runtime/src/testing/index.ts';
import { momentsOf } from './moments.ts';
import { batchOf, type RaftOrder, RaftScript } from './raft-orders.ts';
import { onImage } from './recorded-disk.ts';
import { canRecord, onRecordedDisk } from './recorded-test.ts';
import { WorkerLink } from './worker-link.ts';

const cuts = Number(process.env['STOR_CUTS'] ?? 15);
const orders = Number(process.env['STOR_ORDERS'] ?? 150);
const seed = Number(process.env['STOR_SEED'] ?? Math.floor(Math.random() * 2 ** 31));

interface Saved {
  order: Exclude<RaftOrder, { op: 'open' }>;
  asked: number;
  answered: number;
}

/** What is wrong with the log that a power cut left; null when nothing is. */
async function problem(path: string, saves: readonly Saved[], at: number): Promise<string | null> {
  const must = saves.filter(({ answered }) => answered <= at).length;
  const may = saves.filter(({ asked }) => asked <= at).length;
  const model = new MemoryRaftStorage();
  for (const { order } of saves.slice(0, must)) await model.save(batchOf(order));
  const storage = await LevelRaftStorage.open(path);
  try {
    const found = await storage.load();
    for (let count = must; count <= may; count++) {
      const save = saves[count - 1];
      if (count > must && save) await model.save(batchOf(save.order));
      if (isDeepStrictEqual(found, await model.load())) return null;
    }
    const [first, last] = [found?.entries[0]?.index, found?.entries.at(-1)?.index];
    return `not what was there after ${must} to ${may} saves: entries ${first ?? 0} to ${last ?? 0}, ${JSON.stringify(found?.hardState)}`;
  } catch (error) {
    return String(error);
  } finally {
    await storage.close();
  }
}

for (const kind of ['ext4', 'xfs'] as const) {
  t.test(`a Raft log on ${kind} keeps what was saved`, async (t) => {
    if (!canRecord(t)) return;
    t.comment(`STOR_SEED=${seed}`);
    const random = new SeededRandom(seed);
    const { disk, dir } = await onRecordedDisk(t, kind);
    const worker = new WorkerLink('raft-worker.ts', []);
    t.teardown(() => worker.kill());
    await worker.call({ op: 'open', path: join(disk.directory, 'raft') });
    const opened = disk.log.position;
    const script = new RaftScript(random);
    const saves: Saved[] = [];
    for (let i = 0; i <= orders; i++) {
      const order = i === 0 ? ({ op: 'begin' } as const) : script.next();
      const asked = disk.log.position;
      await worker.call(order);
      saves.push({ order, asked, answered: disk.log.position });
    }
    await worker.kill();
    await disk.close();
    t.comment(`${disk.log.position} writes, ${disk.log.flushes.length} flushes`);
    const image = join(dir, 'cut.img');
    for (const position of momentsOf(disk.log, opened, cuts, random)) {
      disk.log.cut(image, position, random);
      await onImage(image, join(dir, 'after'), async () => {
        const found = await problem(join(dir, 'after', 'raft'), saves, position);
        if (found !== null) t.fail(`cut at write ${position}: ${found}`);
      });
    }
    t.pass(`${cuts} cuts`);
  });
}
