/**
 * Random calls on replicas, snapshots and clones of one disk, with crashes, against full copies.
 * A failure prints what replays it: STOR_SEED=… STOR_PATH=… (fast-check's seed and path).
 * A long run: STOR_STEPS=5000000.
 */
import fc from 'fast-check';
import t from 'tap';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { type SnapshotCommand, snapshotCommand } from './snapshots-commands.ts';
import { SnapshotsRun } from './snapshots-run.ts';
import { blockBytes, call, Failures, flush, identity, openStore, write } from './store-fixture.ts';

/** Calls in one run, at most. */
const longest = 120;
const wantedSteps = Number(process.env['STOR_STEPS'] ?? 3_000);
const { STOR_SEED: seed, STOR_PATH: path } = process.env;

t.test('images are what they must be, whatever happens', async (t) => {
  let [steps, crashes, faults, runs] = [0, 0, 0, 0];
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 2 ** 31 - 1 }),
      fc.array(snapshotCommand, { minLength: 5, maxLength: longest, size: 'max' }),
      async (worldSeed, commands) => {
        const run = new SnapshotsRun(worldSeed);
        await run.run(commands);
        steps += run.steps;
        crashes += run.crashes;
        faults += run.faults;
        runs += 1;
        if (wantedSteps > 1e5 && runs % 1000 === 0) t.comment(`${steps} steps, ${crashes} crashes`);
      },
    ),
    {
      numRuns: Math.ceil(wantedSteps / (longest / 2)),
      // a busy machine does fewer
      ...(wantedSteps > 1e5 ? {} : { interruptAfterTimeLimit: 60_000 }),
      // always the same in the tests that everybody runs, another each time in a long run
      ...(seed === undefined && wantedSteps > 3_000 ? {} : { seed: Number(seed ?? 1) }),
      ...(path === undefined ? {} : { path }),
    },
  );
  t.pass(`${steps} steps, ${crashes} crashes, ${faults} failed operations, ${runs} runs`);
});

const at = { replica: 0, chunk: 2, count: 1 };
const on = { replica: 0, pick: 0 };
const settle = { kind: 'settle', replica: 0 } as const;
const verify = { kind: 'verify', replica: 0 } as const;

/** What was found once. */
const found: Record<string, SnapshotCommand[]> = {
  'a copy that was not flushed frees nothing below it when the snapshot is dropped': [
    { kind: 'write', ...at, block: 0, inline: false },
    { kind: 'flush', replica: 0 },
    settle,
    { kind: 'take', replica: 0, incomplete: false },
    settle,
    { kind: 'write', ...at, block: 1, inline: false },
    settle,
    { kind: 'drop', ...on },
    ...[settle, verify, verify, verify],
    { kind: 'power', replica: 0 },
  ],
  'a copy that was begun before the layer below was hidden': [
    { kind: 'zero', ...at, block: 0, keep: true },
    { kind: 'take', replica: 0, incomplete: false },
    ...[settle, { kind: 'drop', ...on } as const],
    { kind: 'write', ...at, block: 0, inline: false },
    { kind: 'take', replica: 0, incomplete: false },
    verify,
    { kind: 'drop', ...on },
    ...[settle, verify, verify],
    { kind: 'kill', replica: 0 },
  ],
  'a sync after one that failed calls no copy final': [
    { kind: 'write', ...at, chunk: 0, block: 0, count: 64, inline: false },
    { kind: 'take', replica: 0, incomplete: false },
    { kind: 'flush', replica: 0 },
    { kind: 'rollback', ...on },
    { kind: 'write', ...at, chunk: 0, block: 0, inline: false },
    { kind: 'confirm', ...on },
    { kind: 'take', replica: 0, incomplete: false },
    { kind: 'write', ...at, chunk: 0, block: 0, inline: false },
    { kind: 'flush', replica: 0 },
    {
      kind: 'fault',
      operation: 'datasync',
      code: 'EIO',
      file: 'data',
      skip: 0,
      times: 1,
      replica: 0,
    },
    { kind: 'confirm', ...on },
    { kind: 'take', replica: 0, incomplete: false },
  ],
  'a flush waits for what another sync has recorded': [
    { kind: 'write', ...at, chunk: 0, block: 0, inline: false },
    { kind: 'take', replica: 0, incomplete: false },
    { kind: 'rollback', ...on },
    { kind: 'rollback', ...on },
    { kind: 'write', ...at, chunk: 15, block: 0, inline: false },
    { kind: 'write', ...at, chunk: 2, block: 0, count: 3, inline: false },
    { kind: 'reopen', replica: 0 },
    { kind: 'write', ...at, chunk: 0, block: 0, inline: false },
    { kind: 'drop', ...on },
    { kind: 'rollback', ...on },
    { kind: 'flush', replica: 0 },
    {
      kind: 'fault',
      operation: 'datasync',
      code: 'EIO',
      file: 'journal',
      skip: 0,
      times: 1,
      replica: 0,
    },
    { kind: 'reopen', replica: 0 },
  ],
  'a copy that came when the layer below was hidden and looked through': [
    { kind: 'write', ...at, chunk: 0, block: 0, inline: false },
    { kind: 'crash', after: 15, power: false, again: { after: 1, power: true }, replica: 0 },
    { kind: 'take', replica: 0, incomplete: false },
    { kind: 'write', ...at, chunk: 16, block: 0, inline: false },
    { kind: 'take', replica: 0, incomplete: false },
    { kind: 'take', replica: 0, incomplete: false },
    { kind: 'write', ...at, chunk: 33, block: 0, inline: false },
    ...[settle, settle],
    { kind: 'rollback', replica: 0, pick: 1 },
    { kind: 'confirm', ...on },
  ],
};

for (const [name, commands] of Object.entries(found)) {
  t.test(name, async (t) => {
    for (let seed = 1; seed <= 20; seed++) await new SnapshotsRun(seed).run(commands);
    t.pass('as it must be');
  });
}

t.test('a failed sync fails every replica that shares the data file (I7)', async (t) => {
  const files = new FaultyFiles({ seed: 1 });
  const failures = new Failures();
  const store = await openStore('/disk', files.process(), { failures, clock: new FakeClock() });
  const replica = await store.createReplica(identity);
  const snapshotId = 's-0000000000000001';
  await write(replica, 0, blockBytes, 1);
  await call((done) => {
    replica.takeSnapshot(snapshotId, 1, 'prepared', done);
  });
  await flush(replica);
  await call((done) => {
    replica.confirmSnapshot(snapshotId, done);
  });
  const cloneOf = { replicaId: identity.replicaId, snapshotId };
  const clone = await store.createReplica({ ...identity, replicaId: 'r-2' }, { cloneOf });
  await write(clone, 0, blockBytes, 2);
  files.hook = (operation, file) =>
    operation === 'datasync' && file.endsWith('/data') ? 'EIO' : null;
  await t.rejects(flush(replica), { code: 'DISK_FAILED' });
  files.hook = () => null;
  await t.rejects(flush(clone), { code: 'DISK_FAILED' }, 'its bytes may be lost as well');
  t.same(failures.all.map(({ replicaId }) => replicaId).sort(), [identity.replicaId, 'r-2'].sort());
  await store.close();
});
