/**
 * Disks that were written in format version 1 (fixtures/format-1) open with everything on them,
 * through whatever conversion there is, and through crashes at each of its file operations.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { type Files, systemFiles } from '@stor/runtime';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import type { DiskStore } from '../src/index.ts';
import { unpackFolder } from './fixture-archive.ts';
import { factsOf, type ReplicaFacts } from './store-facts.ts';
import {
  blockBytes,
  chunkBytes,
  Failures,
  flush,
  mib,
  openStore,
  read,
  write,
} from './store-fixture.ts';

interface Expected {
  bootId: string;
  mountIdentity: string;
  replicas: ReplicaFacts[];
}

const folder = path.join(import.meta.dirname, 'fixtures/format-1');
const suffix = '.json.gz';
const variants = readdirSync(folder)
  .filter((name) => name.endsWith(suffix))
  .map((name) => name.slice(0, -suffix.length));
const journalBytes = 16 * 4096;
const [a = '', b = '', c = ''] = ['aa', 'bb', 'cc'].map((end) => `r-00000000000000${end}`);

function archiveOf(variant: string): Buffer {
  return readFileSync(path.join(folder, `${variant}${suffix}`));
}

function expectedOf(variant: string): Expected {
  const text = readFileSync(path.join(folder, `${variant}.expected.json`), 'utf8');
  return JSON.parse(text) as Expected;
}

function worldOf(variant: string, seed = 1): FaultyFiles {
  const world = new FaultyFiles({ seed });
  unpackFolder(archiveOf(variant), world.process(), '/disk');
  world.mountIdentity = expectedOf(variant).mountIdentity;
  return world;
}

function open(
  files: Files,
  at: string,
  bootId: string,
  failures = new Failures(),
): Promise<DiskStore> {
  return openStore(at, files, {
    ...{ bootId, failures, create: false, clock: new FakeClock(), options: { journalBytes } },
  });
}

/** What must be there whatever happened to the host meanwhile. */
function withoutMemory(replicas: ReplicaFacts[]): Omit<ReplicaFacts, 'keptMemory'>[] {
  return replicas.map(({ keptMemory: _, ...rest }) => rest);
}

t.test('all variants are there', async (t) => {
  t.same(variants, ['clean', 'killed', 'power', 'torn']);
});

for (const variant of variants) {
  const { bootId, replicas } = expectedOf(variant);

  t.test(`${variant}: opens with every byte and fact`, async (t) => {
    const world = worldOf(variant);
    const failures = new Failures();
    const store = await open(world.process(), '/disk', bootId, failures);
    t.same(await factsOf(store), replicas);
    t.same(failures.all, []);
    await store.close();
    const again = await open(world.process(), '/disk', bootId);
    t.same(await factsOf(again), replicas, 'and a second time');
    world.kill();
    const third = await open(world.process(), '/disk', bootId);
    t.same(await factsOf(third), replicas, 'and after a kill');
    await third.close();
  });

  t.test(`${variant}: opens on real files`, async (t) => {
    const dir = mkdtempSync(path.join(tmpdir(), 'stor-format-1-'));
    t.teardown(() => {
      rmSync(dir, { recursive: true, force: true });
    });
    unpackFolder(archiveOf(variant), systemFiles, path.join(dir, 'disk'));
    const store = await open(systemFiles, path.join(dir, 'disk'), bootId);
    const facts = await factsOf(store);
    t.same(withoutMemory(facts), withoutMemory(replicas));
    // it was never mounted here: only a clean stop leaves nothing to doubt
    for (const { keptMemory } of facts) t.equal(keptMemory, variant === 'clean');
    await store.close();
  });

  t.test(`${variant}: survives a crash at each file operation of its opening`, async (t) => {
    const whole = worldOf(variant);
    const before = whole.operations;
    await (await open(whole.process(), '/disk', bootId)).close();
    const operations = whole.operations - before;
    t.ok(operations > 4, `${operations} operations`);
    for (const kind of ['kill', 'power'] as const) {
      for (let at = 1; at <= operations; at++) {
        // one kind at each; both in a long run
        if (process.env['STOR_ALL_CRASHES'] === undefined && (at % 2 === 0) !== (kind === 'kill')) {
          continue;
        }
        const world = worldOf(variant, at);
        await crashIn(world, at, kind, bootId);
        // and once more while it mends that
        await crashIn(world, 1 + ((at * 7) % operations), at % 2 === 0 ? 'power' : 'kill', bootId);
        world.cancelCrash();
        const failures = new Failures();
        const store = await open(world.process(), '/disk', world.bootId, failures);
        const same = JSON.stringify(withoutMemory(await factsOf(store)));
        if (same !== JSON.stringify(withoutMemory(replicas)) || failures.all.length > 0) {
          t.fail(`${kind} at operation ${at}`, { found: await factsOf(store), ...failures });
        }
        await store.close();
      }
    }
  });

  t.test(`${variant}: goes on working`, async (t) => {
    const world = worldOf(variant);
    let store = await open(world.process(), '/disk', bootId);
    const replica = (id: string) => {
      const found = store.replica(id);
      if (!found) throw new Error(`no replica ${id}`);
      return found;
    };
    const other = { replicaId: 'r-00000000000000ee', volumeId: 'v-00000000000000ee', segment: 1 };
    const created = await store.createReplica({ ...other, sizeBytes: 3 * mib });
    // chunks that were freed, never had a slot, and have one
    for (const chunk of [7, 25, 3]) await write(replica(a), chunk * chunkBytes, 2 * blockBytes, 7);
    await write(created, 0, chunkBytes, 9);
    await flush(replica(a));
    await flush(created);
    world.powerLoss();
    store = await open(world.process(), '/disk', world.bootId);
    for (const chunk of [7, 25, 3]) {
      const bytes = await read(replica(a), chunk * chunkBytes, 2 * blockBytes);
      t.ok(bytes.equals(Buffer.alloc(2 * blockBytes, 7)), `chunk ${chunk}`);
    }
    t.ok((await read(replica(a), 7 * chunkBytes + 2 * blockBytes, 62 * blockBytes)).every(isZero));
    t.ok((await read(replica(other.replicaId), 0, chunkBytes)).every((byte) => byte === 9));
    const untouched = await factsOf(store);
    for (const id of [b, c]) {
      const { chunks } = replicas.find((one) => one.replicaId === id) ?? {};
      t.same(untouched.find((one) => one.replicaId === id)?.chunks, chunks);
    }
    await store.close();
  });
}

const isZero = (byte: number): boolean => byte === 0;

/** Opens until the crash comes; closes when it comes too late. */
async function crashIn(
  world: FaultyFiles,
  at: number,
  kind: 'kill' | 'power',
  bootId: string,
): Promise<void> {
  const crashed = new Promise<null>((resolve) => {
    world.onCrash = () => {
      resolve(null);
    };
  });
  const boot = world.bootId === 'boot-0' ? bootId : world.bootId;
  const opened = open(world.process(), '/disk', boot).then(async (store) => {
    await Promise.race([crashed, store.close()]);
  });
  world.crashAfter(at, kind);
  let alive = true;
  void crashed.then(() => (alive = false));
  await Promise.race([
    crashed,
    opened.catch((error: unknown) => {
      if (alive && world.crashPending) throw error;
    }),
  ]);
}

/**
 * One byte of any unit of the metadata rots. Whatever is found then is right, or said to be broken: the last
 * frame alone cannot be told from one that was torn.
 */
t.test('a power cut while folders get other names loses none', async (t) => {
  const { bootId, replicas } = expectedOf('clean');
  const whole = worldOf('clean');
  const before = whole.operations;
  const names: number[] = [];
  whole.hook = (operation, file) => {
    if (operation === 'rename' && /^\/disk\/replicas(\.2)?$/.test(file)) {
      names.push(whole.operations - before + 1);
    }
    return null;
  };
  await (await open(whole.process(), '/disk', bootId)).close();
  t.equal(names.length, 2, 'the old folder, then the new one');
  const [first = 0, second = 0] = names;
  for (let at = first; at <= second + 2; at++) {
    for (let seed = 7_919; seed <= 7_919 * 12; seed += 7_919) {
      const world = worldOf('clean', seed);
      await crashIn(world, at, 'power', bootId);
      world.cancelCrash();
      const store = await open(world.process(), '/disk', world.bootId);
      t.same(withoutMemory(await factsOf(store)), withoutMemory(replicas));
      await store.close();
    }
  }
});

t.test('rotten metadata never say something else', async (t) => {
  const { bootId, replicas } = expectedOf('killed');
  const right = new Map(
    withoutMemory(replicas).map((one) => [one.replicaId, JSON.stringify(one)] as const),
  );
  const reference = worldOf('killed').process();
  const tables = [a, b, c].flatMap((id) => ['map', 'regions'].map((f) => `replicas/${id}/${f}`));
  let [refused, failed, unharmed] = [0, 0, 0];
  for (const name of ['image.a', 'image.b', 'journal.0', 'journal.1', ...tables]) {
    const bytes = contentOf(reference, `/disk/${name}`);
    for (let unit = 0; unit < bytes.length; unit += 4096) {
      if (bytes.subarray(unit, unit + 4096).every(isZero)) continue;
      if (unit === lastFrame(reference, name)) continue;
      const world = worldOf('killed');
      const at = unit + (((unit / 4096) * 37) % 100);
      world.content(`/disk/${name}`).corrupt(at, Uint8Array.of((bytes[at] ?? 0) ^ 0x10));
      const failures = new Failures();
      const store = await open(world.process(), '/disk', bootId, failures).catch(() => null);
      if (!store) {
        refused += 1;
        continue;
      }
      for (const facts of withoutMemory(await factsOf(store))) {
        if (facts.failure !== null) failed += 1;
        else if (JSON.stringify(facts) === right.get(facts.replicaId)) unharmed += 1;
        else t.fail(`${name}, byte ${at}: ${facts.replicaId} is wrong`, { facts });
      }
      t.equal(store.replicas().length, 3, `${name}, byte ${at}`);
      await store.close();
    }
  }
  t.ok(failed > 0 && unharmed > 0, `${refused} refused, ${failed} failed, ${unharmed} unharmed`);
});

function contentOf(files: Files, at: string): Buffer {
  const file = files.open(at);
  const bytes = Buffer.alloc(file.size().sizeBytes);
  file.readSync(bytes, 0, bytes.length, 0);
  file.close();
  return bytes;
}

/** Where the newest frame of both journals begins, when it is in this file; else -1. */
function lastFrame(files: Files, name: string): number {
  let [newest, where, within] = [-1, -1, ''];
  for (const journal of ['journal.0', 'journal.1']) {
    const bytes = contentOf(files, `/disk/${journal}`);
    const generation = bytes.readBigUInt64LE(16);
    for (let at = 4096; at + 4096 <= bytes.length; at += 4096) {
      const ours = bytes.subarray(at, at + 8).equals(Buffer.from('StorFram'));
      if (!ours || bytes.readBigUInt64LE(at + 16) !== generation) continue;
      const lsn = Number(bytes.readBigUInt64LE(at + 24));
      if (lsn > newest) [newest, where, within] = [lsn, at, journal];
    }
  }
  return within === name ? where : -1;
}
