/** Calls of the disk store that meet each other at the one moment at which it matters. */
import t from 'tap';
import type { Files, OpenFile } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import type { ReplicaStore } from '../src/index.ts';
import { snapshotsOf } from '../src/replication/snapshots-of.ts';
import type { DiskReplica } from '../src/store/disk-replica.ts';
import {
  blockBytes,
  blocksOf,
  call,
  chunkBytes,
  Failures,
  flush,
  identity,
  openStore,
  read,
  write,
} from './store-fixture.ts';

function open(faulty: FaultyFiles, files: Files = faulty.process()): ReturnType<typeof openStore> {
  return openStore('/disk', files, { bootId: faulty.bootId, clock: new FakeClock() });
}

async function snapshot(replica: ReplicaStore, id: string): Promise<void> {
  await call((done) => {
    replica.takeSnapshot(id, 1, 'prepared', done);
  });
  await call((done) => {
    replica.confirmSnapshot(id, done);
  });
}

/** Syncs of files of this name take effect at once, and are answered when `open` is called. */
class Gate {
  isShut = false;
  readonly #name: string;
  #waiting: (() => void)[] = [];

  constructor(name: string) {
    this.#name = name;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  open(): void {
    this.isShut = false;
    for (const answer of this.#waiting.splice(0)) answer();
  }

  before(files: Files): Files {
    return new Proxy(files, {
      get: (target, key) => {
        if (key === 'open') return (path: string) => this.#file(target.open(path), path);
        const value = Reflect.get(target, key) as unknown;
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  }

  #file(file: OpenFile, path: string): OpenFile {
    if (!path.endsWith(this.#name)) return file;
    const { datasync } = file;
    file.datasync = (done) => {
      if (!this.isShut) {
        datasync.call(file, done);
        return;
      }
      this.isShut = false;
      file.datasyncSync();
      this.#waiting.push(() => {
        done(null);
      });
    };
    return file;
  }
}

async function until(holds: () => boolean): Promise<void> {
  for (let turns = 0; !holds(); turns++) {
    if (turns > 10_000) throw new Error('it never came');
    await new Promise((resolve) => setImmediate(resolve));
  }
}

t.test('a flush does not vouch for a copy that took a slot while it was under way', async (t) => {
  const faulty = new FaultyFiles({ seed: 1 });
  const gate = new Gate('/data');
  let store = await open(faulty, gate.before(faulty.process()));
  let replica: ReplicaStore | null = await store.createReplica(identity);
  await write(replica, 0, 2 * chunkBytes, 1);
  await flush(replica);
  await snapshot(replica, 's-1');
  await write(replica, 0, blockBytes, 2);
  gate.isShut = true;
  const flushed = flush(replica);
  await until(() => gate.waiting === 1);
  // its slot is freed, emptied, and given to the copy of another chunk
  const copied = replica as DiskReplica;
  const [slot] = copied.lineage.tables.pending.keys();
  await call((done) => {
    copied.zero(0, chunkBytes, false, done);
  });
  await until(() => copied.lineage.supply.dirty === 0);
  await write(replica, chunkBytes, blockBytes, 3);
  t.same([...copied.lineage.tables.pending.keys()], [slot], 'the same slot');
  gate.open();
  await flushed;
  faulty.powerLoss();
  store = await open(faulty);
  replica = store.replica(identity.replicaId);
  if (!replica) throw new Error('it is gone');
  const rest = await read(replica, chunkBytes + blockBytes, chunkBytes - blockBytes);
  t.ok(
    rest.every((byte) => byte === 1),
    'what was flushed before is there',
  );
  await store.close();
});

t.test('nothing is written to a snapshot that is being dropped', async (t) => {
  const faulty = new FaultyFiles({ seed: 1 });
  let store = await open(faulty);
  const replica = (await store.createReplica(identity)) as DiskReplica;
  const { tables } = replica.lineage;
  await write(replica, 0, 16 * chunkBytes, 1);
  await snapshot(replica, 's-1');
  await write(replica, 0, chunkBytes, 2);
  await call((done) => {
    replica.takeSnapshot('s-2', 1, 'incomplete', done);
  });
  // nothing stands on it: once it is dropped it goes at once
  await call((done) => {
    replica.rollback('s-1', done);
  });
  await until(() => tables.layers.layers.size === 3);
  let isOver = false;
  const dropped = call((done) => {
    replica.dropSnapshot('s-2', done);
  }).finally(() => {
    isOver = true;
  });
  // copies of a resync that come while the order is carried out
  const { bytes, sums } = blocksOf(1, 3);
  const writes: Promise<void>[] = [];
  for (let chunk = 1; !isOver; chunk = (chunk + 1) % 16) {
    await new Promise((resolve) => setImmediate(resolve));
    const view = replica.view('s-2');
    if (!view) continue;
    const copied = call((done) => {
      view.write(chunk * chunkBytes, blockBytes, bytes, 0, sums, 0, done);
    });
    writes.push(copied.catch(() => {}));
  }
  await dropped;
  await Promise.all(writes);
  await until(() => tables.layers.layers.size === 2);
  await replica.lineage.settled();
  await store.close();
  store = await open(faulty);
  t.equal(store.replica(identity.replicaId)?.failure ?? null, null);
  await store.close();
});

t.test('a replica that is deleted gives nobody a view any more', async (t) => {
  const faulty = new FaultyFiles({ seed: 1 });
  const store = await open(faulty);
  const replica = await store.createReplica(identity);
  await write(replica, 0, chunkBytes, 1);
  await snapshot(replica, 's-1');
  await store.deleteReplica(identity.replicaId);
  t.equal(snapshotsOf(replica)?.view('s-1') ?? null, null);
  await store.close();
});

t.test('a full disk has room again when snapshots of its replicas are dropped', async (t) => {
  const faulty = new FaultyFiles({ seed: 1, punches: true });
  const clock = new FakeClock();
  const store = await openStore('/disk', faulty.process(), { bootId: faulty.bootId, clock });
  const replica = (await store.createReplica(identity)) as DiskReplica;
  await write(replica, 0, 16 * chunkBytes, 1);
  await snapshot(replica, 's-1');
  await write(replica, 0, 16 * chunkBytes, 2);
  await flush(replica);
  // somebody else has taken the rest
  faulty.capacityBytes = faulty.usedBytes();
  await t.rejects(write(replica, 20 * chunkBytes, chunkBytes, 3), { code: 'NO_SPACE' });
  const fence = (): Promise<void> =>
    call((done) => {
      replica.fence(2, done);
    });
  await t.rejects(fence(), { code: 'NO_SPACE' });
  await call((done) => {
    replica.dropSnapshot('s-1', done);
  });
  await until(() => replica.space().snapshotBytes === 0);
  await until(() => replica.lineage.supply.dirty === 0);
  clock.advance(2_000);
  await fence();
  await write(replica, 20 * chunkBytes, chunkBytes, 3);
  t.equal(replica.failure, null);
  await store.close();
});

t.test('an order whose table cannot be made larger', async (t) => {
  const orders: Record<string, (replica: ReplicaStore) => Promise<void>> = {
    layers: async (replica) => {
      for (let n = 0; n < 200; n++) {
        await call((done) => {
          replica.takeSnapshot(`s-${n}`, 1, 'prepared', done);
        });
      }
    },
    regions: (replica) =>
      call((done) => {
        snapshotsOf(replica)?.resize(16 * 2 ** 30, done);
      }),
  };
  for (const [table, order] of Object.entries(orders)) {
    for (const [operation, code] of [
      ['write', 'ENOSPC'],
      ['write', 'EIO'],
      ['datasync', 'EIO'],
    ] as const) {
      const faulty = new FaultyFiles({ seed: 1 });
      const failures = new Failures();
      const bootId = faulty.bootId;
      const store = await openStore('/disk', faulty.process(), { failures, bootId });
      const replica = await store.createReplica(identity);
      await write(replica, 0, chunkBytes, 1);
      faulty.hook = (what, path) => (what === operation && path.endsWith(table) ? code : null);
      const outcome = await order(replica).catch((error: unknown) => error);
      faulty.hook = () => null;
      const what = `${operation} of ${table}: ${code}`;
      if (code === 'ENOSPC') {
        t.match(outcome, { code: 'NO_SPACE' }, what);
        t.equal(replica.failure, null, `${what}: nothing is lost`);
        await order(replica);
      } else {
        // the next sync of the table would be told that all is well
        t.match(outcome, { code: 'DISK_FAILED' }, what);
        t.match(replica.failure, { code: 'DISK_FAILED' }, what);
        t.equal(failures.all.length, 1, `${what}: it is recorded`);
      }
      await store.close();
    }
  }
});
