import * as fc from 'fast-check';
import t from 'tap';
import { chunkBytes } from '@stor/protocol';
import type { Extent } from '../src/block-device.ts';
import { Bitmap } from '../src/core/replication/bitmap.ts';
import { RangeLock, type LockOwner } from '../src/core/replication/range-lock.ts';
import { extentsOf } from '../src/primary/allocated-extents.ts';
import type { Member } from '../src/primary/member.ts';

const chunks = 40;

/** Block by block, with a question to the lock for each. */
function expected(
  allocated: Bitmap | null,
  lock: RangeLock,
  range: { offset: number; end: number },
  limit: number,
): Extent[] {
  const extents: Extent[] = [];
  for (let at = range.offset; at < range.end;) {
    const chunk = Math.floor(at / chunkBytes);
    const next = Math.min(range.end, (chunk + 1) * chunkBytes);
    const isAllocated = allocated?.has(chunk) !== false || !lock.isReadable(at, next);
    const last = extents.at(-1);
    if (last?.allocated === isAllocated) last.length += next - at;
    else extents.push({ offset: at, length: next - at, allocated: isAllocated });
    at = next;
  }
  return extents.slice(0, limit);
}

function owner(lockStart: number, lockEnd: number): LockOwner {
  return { lockStart, lockEnd, lockExclusive: true, lockSlot: -1, lockGranted: () => {} };
}

t.test('extents are those of a look at each chunk', async () => {
  const place = fc.nat(chunks * chunkBytes);
  const range = fc.tuple(place, place).map(([a, b]) => ({
    offset: Math.min(a, b),
    end: Math.max(a, b),
  }));
  const property = fc.property(
    fc.option(fc.array(fc.tuple(fc.nat(chunks - 1), fc.nat(12)), { maxLength: 6 })),
    fc.array(range, { maxLength: 2 }),
    range,
    fc.integer({ min: 1, max: 6 }),
    (runs, locked, asked, limit) => {
      const allocated = runs && new Bitmap(chunks);
      for (const [first, count] of runs ?? []) {
        for (let chunk = first; chunk < first + count; chunk++) allocated?.add(chunk);
      }
      const lock = new RangeLock();
      for (const { offset, end } of locked) lock.acquire(owner(offset, end));
      const { offset, end } = asked;
      if (end === offset) return;
      const found = extentsOf({ allocated } as Member, lock, offset, end - offset, limit);
      const wanted = expected(allocated, lock, asked, limit);
      t.strictSame(
        found.map((each) => ({ ...each })),
        wanted,
      );
    },
  );
  fc.assert(property, { numRuns: 300 });
});

t.test('four terabytes without a chunk are one extent', async (t) => {
  const allocated = new Bitmap(2 ** 24);
  allocated.add(2 ** 24 - 1);
  const sizeBytes = 2 ** 24 * chunkBytes;
  t.strictSame(extentsOf({ allocated } as Member, new RangeLock(), 0, sizeBytes, 8), [
    { offset: 0, length: sizeBytes - chunkBytes, allocated: false },
    { offset: sizeBytes - chunkBytes, length: chunkBytes, allocated: true },
  ]);
});
