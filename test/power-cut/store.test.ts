/**
 * A disk store in a real process on real file systems, on a disk that records its writes. The
 * power is cut at flushes and between them, the writes since the last flush partly lost and torn; then
 * the file system is mounted, the store opened, and everything compared with what was promised.
 *
 * STOR_CUTS=2000 STOR_ORDERS=3000: a longer run; STOR_SEED: the same orders and cuts again.
 */
import { join } from 'node:path';
import t from 'tap';
import {
  type DiskStore,
  openDiskStore,
  type ReplicaStore,
} from '../../packages/replicator/src/index.ts';
import { silentLogger, systemClock, systemFiles } from '../../packages/runtime/src/index.ts';
import { SeededRandom } from '../../packages/runtime/src/testing/index.ts';
import { momentsOf } from './moments.ts';
import { onImage, type RecordedDisk } from './recorded-disk.ts';
import { canRecord, onRecordedDisk } from './recorded-test.ts';
import { diskIds, journalBytes, valueOf } from './store-disk.ts';
import { ReplicaHistory, type Span } from './store-history.ts';
import type { StoreOrder } from './store-worker.ts';
import { WorkerLink } from './worker-link.ts';

const cuts = Number(process.env['STOR_CUTS'] ?? 20);
const orders = Number(process.env['STOR_ORDERS'] ?? 250);
const seed = Number(process.env['STOR_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
const chunkBlocks = 64;
const regionBlocks = 1024;
/** Orders under way at a time. */
const mostPending = 12;

/** Gives random orders and notes when each was asked for and answered. */
class Workload {
  readonly replicas: ReplicaHistory[] = [];
  /** the store was opened, and may be expected to open again */
  ready = 0;
  readonly #disk: RecordedDisk;
  readonly #worker: WorkerLink;
  readonly #random: SeededRandom;
  readonly #pending = new Set<Promise<void>>();
  #orders = 0;
  #value = 0;
  #n = 0;

  constructor(disk: RecordedDisk, worker: WorkerLink, random: SeededRandom) {
    this.#disk = disk;
    this.#worker = worker;
    this.#random = random;
  }

  async run(count: number): Promise<void> {
    await this.#order({ op: 'open', path: join(this.#disk.directory, 'disk') }).done;
    this.ready = this.#disk.log.position;
    await this.#create();
    for (let i = 0; i < count; i++) {
      while (this.#pending.size >= mostPending) await Promise.race(this.#pending);
      await this.#any();
    }
    await Promise.all(this.#pending);
  }

  #order(order: StoreOrder): { span: Span; number: number; done: Promise<void> } {
    const { log } = this.#disk;
    this.#orders += 1;
    const span: Span = { asked: log.position, answered: null };
    const done = this.#worker.call(order).then(() => {
      span.answered = log.position;
    });
    this.#pending.add(done);
    const over = (): void => void this.#pending.delete(done);
    done.then(over, over);
    return { span, number: this.#orders, done };
  }

  #pick(count: number): number {
    return Math.floor(this.#random.next() * count);
  }

  async #create(): Promise<void> {
    const id = `r-${this.replicas.length + 1}`;
    const sizeBlocks = [3 * regionBlocks, 2 * regionBlocks + 70][this.#pick(2)] ?? regionBlocks;
    const { span, done } = this.#order({
      ...{ op: 'create', replica: id, sizeBytes: sizeBlocks * 4096 },
    });
    this.replicas.push(new ReplicaHistory(id, sizeBlocks, span));
    await done;
  }

  async #any(): Promise<void> {
    const living = this.replicas.filter((one) => !one.deleted);
    const replica = living[this.#pick(living.length)];
    if (!replica) return this.#create();
    const dice = this.#random.next();
    if (dice < 0.55) this.#write(replica);
    else if (dice < 0.65) this.#zero(replica);
    else if (dice < 0.8) {
      const { span, number } = this.#order({ op: 'flush', replica: replica.id });
      replica.flushed(span, number);
    } else if (dice < 0.88) {
      const epoch = ++this.#n;
      const { span } = this.#order({ op: 'fence', replica: replica.id, epoch });
      replica.fenced(span, epoch);
    } else if (dice < 0.94) {
      this.#order({ op: 'checkpoint', replica: replica.id, n: ++this.#n });
    } else if (dice < 0.97 && living.length < 3) await this.#create();
    else if (dice < 0.98 && living.length > 1) {
      await Promise.all(this.#pending);
      const { span, done } = this.#order({ op: 'delete', replica: replica.id });
      replica.deleted = span;
      await done;
    }
  }

  #place(replica: ReplicaHistory, most: number): [number, number] {
    const chunk = [0, 1, 2, 15, 16, 17, 31][this.#pick(7)] ?? 0;
    const block = chunk * chunkBlocks + ([0, 1, 30, 63][this.#pick(4)] ?? 0);
    return [block, Math.min(1 + this.#pick(most), replica.sizeBlocks - block)];
  }

  #write(replica: ReplicaHistory): void {
    const [block, count] = this.#place(replica, this.#random.next() < 0.2 ? 100 : 4);
    const values = Array.from({ length: count }, () => ++this.#value);
    const { span, number } = this.#order({ op: 'write', replica: replica.id, block, values });
    replica.wrote(block, values, span, number);
  }

  #zero(replica: ReplicaHistory): void {
    const [block, count] = this.#place(replica, 3);
    const first = this.#random.next() < 0.6 ? block - (block % chunkBlocks) : block;
    const blocks = first === block ? count : Math.min(chunkBlocks, replica.sizeBlocks - first);
    const order = { op: 'zero', replica: replica.id, block: first, count: blocks } as const;
    const { span, number } = this.#order(order);
    replica.wrote(first, new Array<number>(blocks).fill(0), span, number);
  }
}

function openAfterwards(path: string, failures: string[]): Promise<DiskStore> {
  return openDiskStore({
    path,
    ...diskIds,
    files: systemFiles,
    clock: systemClock,
    logger: silentLogger,
    bootId: 'boot-1',
    failures: { record: ({ reason }) => failures.push(reason), failuresOf: () => [] },
    options: { journalBytes, reserveBytes: 0 },
  });
}

/** Opens the store on what a power cut left, and says what is wrong with it. */
async function problems(path: string, workload: Workload, position: number): Promise<string[]> {
  const found: string[] = [];
  const failures: string[] = [];
  const store = await openAfterwards(path, failures).catch((error: unknown) => String(error));
  if (typeof store === 'string') return [store];
  try {
    for (const replica of workload.replicas) {
      const { must, may } = replica.existsAt(position);
      const one = store.replica(replica.id);
      if (!one && must) found.push(`${replica.id} is gone`);
      if (one && !may) found.push(`${replica.id} is there`);
      if (one && may) found.push(...(await replicaProblems(one, replica, position)));
    }
  } finally {
    await store.close();
  }
  return [...found, ...failures];
}

async function replicaProblems(
  one: ReplicaStore,
  history: ReplicaHistory,
  position: number,
): Promise<string[]> {
  if (one.failure) return [`${history.id} failed: ${one.failure.message}`];
  const found: string[] = [];
  const epoch = history.epochAt(position);
  if (one.highestEpoch < epoch) found.push(`fence ${one.highestEpoch}, not ${epoch}`);
  const durable = history.durableAt(position);
  const marked = new Set(one.marks());
  const written = new Set([...history.blocks].map((block) => Math.floor(block / chunkBlocks)));
  for (let chunk = 0; chunk * chunkBlocks < history.sizeBlocks; chunk++) {
    if (!written.has(chunk) && !one.isAllocated(chunk)) continue;
    const first = chunk * chunkBlocks;
    const count = Math.min(chunkBlocks, history.sizeBlocks - first);
    const bytes = Buffer.alloc(count * 4096);
    const valid = new Uint8Array(count);
    await new Promise<void>((resolve, reject) => {
      one.readUnverified(first * 4096, bytes.length, bytes, 0, valid, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
    const isMarked = marked.has(Math.floor(first / regionBlocks));
    for (let i = 0; i < count; i++) {
      const values = history.valuesAt(first + i, position, durable);
      const value = valueOf(bytes, i);
      const right = value !== null && values.includes(value);
      if (valid[i] === 1 ? right : values.length > 1 && isMarked) continue;
      found.push(
        `${history.id}: block ${first + i} holds ${value ?? 'a mixture'}, allowed ${values.join()}, ${valid[i] === 1 ? 'verifies' : 'does not verify'}, ${isMarked ? 'marked' : 'unmarked'}`,
      );
    }
  }
  return found.slice(0, 5);
}

for (const kind of ['ext4', 'xfs'] as const) {
  t.test(`a disk on ${kind} keeps its promises through power cuts`, async (t) => {
    if (!canRecord(t)) return;
    t.comment(`STOR_SEED=${seed}`);
    const random = new SeededRandom(seed);
    const { disk, dir } = await onRecordedDisk(t, kind);
    const made = disk.log.position;
    const worker = new WorkerLink('store-worker.ts', []);
    t.teardown(() => worker.kill());
    const workload = new Workload(disk, worker, random);
    await workload.run(orders);
    await worker.kill();
    await disk.close();
    t.ok(
      disk.log.flushes.length > 50,
      `${disk.log.position} writes, ${disk.log.flushes.length} flushes`,
    );
    const image = join(dir, 'cut.img');
    for (const position of momentsOf(disk.log, made, cuts, random)) {
      disk.log.cut(image, position, random);
      await onImage(image, join(dir, 'after'), async () => {
        const path = join(dir, 'after', 'disk');
        const found = await problems(path, workload, position);
        if (found.length > 0) t.fail(`cut at write ${position}`, { found });
      });
    }
    t.pass(`${cuts} cuts`);
  });
}
