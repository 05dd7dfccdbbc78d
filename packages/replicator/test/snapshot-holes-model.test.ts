/** What snapshots of volumes and of their clones say of holes, beside a list of chunks for each image. */
import fc from 'fast-check';
import t from 'tap';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { LocalSnapshotReader, type ReplicaStore } from '../src/index.ts';
import {
  blockBytes,
  call,
  chunkBytes,
  Failures,
  identity,
  openStore,
  write,
} from './store-fixture.ts';

const chunks = 6;

/** The value of each chunk; 0: a hole. */
type Image = number[];

interface Step {
  kind: 'write' | 'zero' | 'snapshot' | 'clone' | 'rollback' | 'drop' | 'reopen';
  pick: number;
  chunk: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom(
    ...(['write', 'write', 'write', 'zero', 'snapshot', 'snapshot'] as const),
    ...(['clone', 'rollback', 'drop', 'reopen'] as const),
  ),
  pick: fc.nat(100),
  chunk: fc.nat(chunks - 1),
});

class Run {
  #store!: Awaited<ReturnType<typeof openStore>>;
  readonly #files = new FaultyFiles({ seed: 1 });
  readonly #heads = new Map<string, Image>();
  /** by replica and id */
  readonly #snapshots: { replicaId: string; id: string; image: Image }[] = [];
  #count = 0;

  async run(steps: readonly Step[]): Promise<void> {
    await this.#open();
    await this.#store.createReplica(identity);
    this.#heads.set(identity.replicaId, new Array<number>(chunks).fill(0));
    for (const each of steps) {
      await this.#do(each);
      await this.#verify();
    }
    await this.#store.close();
  }

  async #open(): Promise<void> {
    this.#store = await openStore('/disk', this.#files.process(), {
      ...{ failures: new Failures(), bootId: this.#files.bootId, clock: new FakeClock() },
    });
  }

  #replica(id: string): ReplicaStore {
    const found = this.#store.replica(id);
    if (!found) throw new Error(`replica ${id} is gone`);
    return found;
  }

  async #do({ kind, pick, chunk }: Step): Promise<void> {
    const [replicaId = '', image = []] = [...this.#heads][pick % this.#heads.size] ?? [];
    const replica = this.#replica(replicaId);
    const taken = this.#snapshots[pick % Math.max(1, this.#snapshots.length)];
    this.#count += 1;
    switch (kind) {
      case 'write':
        image[chunk] = 1 + (this.#count % 200);
        return write(replica, chunk * chunkBytes, chunkBytes, image[chunk]);
      case 'zero':
        image[chunk] = 0;
        return call((done) => {
          replica.zero(chunk * chunkBytes, chunkBytes, false, done);
        });
      case 'snapshot': {
        const id = `s-${this.#count}`;
        await call((done) => {
          replica.takeSnapshot(id, 1, 'prepared', done);
        });
        await call((done) => {
          replica.confirmSnapshot(id, done);
        });
        this.#snapshots.push({ replicaId, id, image: [...image] });
        return;
      }
      case 'clone': {
        if (!taken || this.#heads.size === 3) return;
        const cloneOf = { replicaId: taken.replicaId, snapshotId: taken.id };
        const clone = { ...identity, replicaId: `r-${this.#count}` };
        await this.#store.createReplica(clone, { cloneOf });
        this.#heads.set(clone.replicaId, [...taken.image]);
        return;
      }
      case 'rollback':
        if (!taken) return;
        this.#heads.set(taken.replicaId, [...taken.image]);
        return call((done) => {
          this.#replica(taken.replicaId).rollback(taken.id, done);
        });
      case 'drop':
        if (!taken) return;
        this.#snapshots.splice(this.#snapshots.indexOf(taken), 1);
        return call((done) => {
          this.#replica(taken.replicaId).dropSnapshot(taken.id, done);
        });
      case 'reopen':
        await this.#store.close();
        await this.#open();
    }
  }

  async #verify(): Promise<void> {
    for (const { replicaId, id, image } of this.#snapshots) {
      const reader = LocalSnapshotReader.of(this.#replica(replicaId), id);
      const told = new Array<boolean>(chunks).fill(false);
      reader.extents(0, chunks * chunkBytes, chunks, (error, extents) => {
        if (error) throw error;
        for (const { offset, length, allocated } of extents) {
          told.fill(allocated, offset / chunkBytes, (offset + length) / chunkBytes);
        }
      });
      for (let chunk = 0; chunk < chunks; chunk++) {
        const wanted = image[chunk] ?? 0;
        const at = `chunk ${chunk} of ${id} of ${replicaId}`;
        if (told[chunk] !== wanted > 0) throw new Error(`${at} is told as ${String(told[chunk])}`);
        const target = Buffer.alloc(blockBytes, 0xee);
        await call((done) => {
          reader.read(chunk * chunkBytes, blockBytes, target, 0, done);
        });
        if (target[7] !== wanted) throw new Error(`${at} reads ${String(target[7])}`);
      }
    }
  }
}

t.test('a snapshot has the holes that it had when it was taken', async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40, size: 'max' }), (steps) =>
      new Run().run(steps),
    ),
    { numRuns: Number(process.env['STOR_RUNS'] ?? 40), interruptAfterTimeLimit: 30_000 },
  );
  t.end();
});

t.test('what is written later is a hole, what a clone shares is data', async (t) => {
  const at = (kind: Step['kind'], chunk = 0, pick = 0): Step => ({ kind, chunk, pick });
  await new Run().run([
    at('write', 1),
    at('snapshot'),
    at('write', 2),
    at('zero', 1),
    at('clone'),
    at('write', 3, 1),
    at('snapshot', 0, 1),
    at('reopen'),
    at('drop', 0, 0),
  ]);
  t.end();
});
