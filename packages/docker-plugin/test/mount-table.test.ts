import fc from 'fast-check';
import t from 'tap';
import { FaultyFiles } from '@stor/runtime/testing';
import { maxMounts } from '../src/core/limits.ts';
import {
  decodeMounts,
  encodeMounts,
  mountedByName,
  mountedVolume,
  withMount,
  withOnly,
  withoutMount,
  type MountTable,
} from '../src/core/mount-table.ts';
import { MountBook } from '../src/mount-book.ts';

const db = { volumeId: 'v-1', name: 'db', mountpoint: '/m/v-1/stor-data' };

t.test('a caller that mounts twice must unmount twice', async (t) => {
  const once = withMount([], db, 'c1');
  const twice = withMount(withMount(once, db, 'c2'), db, 'c1');
  t.same(
    [...(mountedVolume(twice, 'v-1')?.mounts ?? [])],
    [
      ['c1', 2],
      ['c2', 1],
    ],
  );
  t.equal(once.length, 1, 'a table never changes');
  t.same([...(mountedVolume(once, 'v-1')?.mounts ?? [])], [['c1', 1]]);
  const less = withoutMount(withoutMount(twice, 'v-1', 'c1'), 'v-1', 'c2');
  t.same([...(mountedVolume(less, 'v-1')?.mounts ?? [])], [['c1', 1]]);
  t.equal(withoutMount(less, 'v-1', 'c2'), less, 'a caller that has none');
  t.equal(withoutMount(less, 'v-2', 'c1'), less, 'a volume that there is not');
  t.same(withoutMount(less, 'v-1', 'c1'), []);
});

t.test('of one name the volume is meant that the caller has', async (t) => {
  const anew = { ...db, volumeId: 'v-2' };
  const table = withMount(withMount([], db, 'old'), anew, 'new');
  t.equal(mountedByName(table, 'db', 'old')?.volumeId, 'v-1');
  t.equal(mountedByName(table, 'db', 'new')?.volumeId, 'v-2');
  t.equal(mountedByName(table, 'db')?.volumeId, 'v-2', 'the last one');
  t.equal(mountedByName(table, 'other'), null);
  t.equal(withOnly(table, new Set(['v-2'])).length, 1);
});

t.test('mounts are bounded', async (t) => {
  const mounts = new Map(Array.from({ length: maxMounts }, (_, at) => [`c${at}`, 1] as const));
  const full: MountTable = [{ ...db, mounts }];
  t.throws(() => withMount(full, db, 'more'), { code: 'FAILED_PRECONDITION' });
  t.doesNotThrow(() => withMount(full, db, 'c1'), 'one that is known');
});

t.test('what is written is what is read, in the same boot', async (t) => {
  const text = fc.string({ minLength: 1, maxLength: 8 });
  const entry = fc.record({
    volumeId: text,
    name: text,
    mountpoint: text,
    mounts: fc
      .uniqueArray(fc.tuple(text, fc.integer({ min: 1, max: 9 })), {
        selector: ([id]) => id,
        minLength: 1,
      })
      .map((pairs) => new Map(pairs)),
  });
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 4 }), (table) => {
      const written = encodeMounts(table, 'boot-1');
      t.same(decodeMounts(written, 'boot-1', 'x'), table);
      t.same(decodeMounts(written, 'boot-2', 'x'), []);
    }),
    { numRuns: 50 },
  );
  t.throws(() => decodeMounts('{', 'b', '/m.json'), {
    code: 'FOREIGN_DATA',
    message: /\/m\.json cannot be read .* remove it and start the agent again/,
  });
  const wrong = '{"formatVersion":1,"bootId":"b","volumes":[{"volumeId":"v"}]}';
  t.throws(() => decodeMounts(wrong, 'b', 'x'), { code: 'FOREIGN_DATA' });
  const zero = encodeMounts([{ ...db, mounts: new Map([['c1', 0]]) }], 'b');
  t.throws(() => decodeMounts(zero, 'b', 'x'), { code: 'FOREIGN_DATA' }, 'no count is 0');
  t.throws(() => decodeMounts('{"formatVersion":2}', 'b', 'x'), { message: /newer agent/ });
});

t.test('a change holds once it is on the disk, and only then', async (t) => {
  const disk = new FaultyFiles({ seed: 3 });
  const open = (): MountBook =>
    MountBook.open({ files: disk.process(), dir: '/data/docker', bootId: 'b' });
  const book = open();
  book.mounted(db, 'c1');
  disk.hook = (operation) => (operation === 'datasync' ? 'EIO' : null);
  t.throws(() => {
    book.mounted(db, 'c2');
  }, /EIO/);
  t.same([...(book.table[0]?.mounts ?? [])], [['c1', 1]]);
  disk.hook = () => null;
  disk.powerLoss();
  t.same(open().table, book.table);
  for (let at = 1; at < 12; at++) {
    const before = open();
    const was = encodeMounts(before.table, 'b');
    const id = `crash-${at}`;
    const will = encodeMounts(withMount(before.table, db, id), 'b');
    disk.crashAfter(at, 'power');
    try {
      before.mounted(db, id);
    } catch {
      // it ended there
    }
    disk.cancelCrash();
    const now = encodeMounts(open().table, 'b');
    t.ok(now === was || now === will, `the old table or the new one, cut at ${at}`);
  }
});
