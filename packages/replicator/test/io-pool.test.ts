import type { OpenFile } from '@stor/runtime';
import t from 'tap';
import { HotBlocks } from '../src/core/store/block-cache.ts';
import { IoPool, writePieceBytes } from '../src/store/io-pool.ts';

const mebibyte = 1024 * 1024;

/** Notes the writes that it gets and answers them in a later turn. */
function notingFile(): { file: OpenFile; writes: { length: number; position: number }[] } {
  const writes: { length: number; position: number }[] = [];
  const file = {
    write(_bytes: Uint8Array, _start: number, length: number, position: number, done: () => void) {
      writes.push({ length, position });
      setImmediate(done);
    },
  };
  return { file: file as unknown as OpenFile, writes };
}

t.test(
  'what is not in the page cache is written in pieces, so that its folios stay small',
  async (t) => {
    const { file, writes } = notingFile();
    await new IoPool(1).write(file, new Uint8Array(mebibyte), 0, mebibyte - 4096, 8192);
    t.equal(writes.length, mebibyte / writePieceBytes);
    t.ok(writes.every(({ length }) => length <= writePieceBytes));
    let position = 8192;
    for (const write of writes) {
      t.equal(write.position, position);
      position += write.length;
    }
    t.equal(position, 8192 + mebibyte - 4096);
  },
);

t.test('what is in the page cache is written in one call', async (t) => {
  const { file, writes } = notingFile();
  await new IoPool(1).write(file, new Uint8Array(mebibyte), 0, mebibyte, 4096, true);
  t.same(writes, [{ length: mebibyte, position: 4096 }]);
});

t.test('a range is hot when each of its blocks is', (t) => {
  const hot = new HotBlocks(4, 4);
  hot.add(1000, 100);
  t.ok(hot.hasAll(1000, 100));
  t.ok(hot.hasAll(1023, 2), 'over the end of a region');
  t.notOk(hot.hasAll(999, 2));
  t.notOk(hot.hasAll(1090, 11));
  hot.drop(1030, 1);
  t.notOk(hot.hasAll(1000, 100));
  t.end();
});
