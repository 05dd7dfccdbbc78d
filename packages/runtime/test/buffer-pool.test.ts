import t from 'tap';
import fc from 'fast-check';
import { BufferPool, releasePages } from '../src/index.ts';

t.test(
  'nobody is given a buffer that somebody has, and no more is kept than allowed',
  async (t) => {
    const maxSpareBytes = 4 * 1024 * 1024;
    const step = fc.oneof(
      fc.record({ take: fc.integer({ min: 1, max: 2 * 1024 * 1024 }) }),
      fc.record({ give: fc.nat({ max: 20 }) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const pool = new BufferPool(maxSpareBytes);
        const held: Buffer[] = [];
        for (const each of steps) {
          if ('take' in each) {
            const buffer = pool.take(each.take);
            if (buffer.length < each.take || held.includes(buffer)) return false;
            held.push(buffer);
          } else {
            const [buffer] = held.splice(each.give % Math.max(1, held.length), 1);
            if (buffer) pool.give(buffer);
          }
          if (pool.spareBytes > maxSpareBytes) return false;
        }
        return true;
      }),
      { numRuns: 50 },
    );
    t.pass('no counterexample');
  },
);

t.test('a buffer is reused, and giving it back twice is a fault', async (t) => {
  const pool = new BufferPool(4 * 1024 * 1024);
  const first = pool.take(1024 * 1024 + 32);
  t.equal(first.length, 1.5 * 1024 * 1024);
  pool.give(first);
  t.throws(() => {
    pool.give(first);
  }, /twice/);
  t.equal(pool.take(1024 * 1024 + 1), first);
  t.equal(pool.spareBytes, 0);
});

t.test('what is not kept gives its memory back at once', async (t) => {
  const pool = new BufferPool(0);
  const buffer = pool.take(1024 * 1024).fill(7);
  pool.give(buffer);
  t.equal(pool.spareBytes, 0);
  if (!releasePages(Buffer.allocUnsafeSlow(64 * 1024))) {
    t.comment('skipped: there is no foreign function interface to give memory back by');
    return;
  }
  const left = buffer.reduce((count, byte) => count + (byte === 7 ? 1 : 0), 0);
  t.ok(left < 2 * 4096, `${left} bytes beside whole pages`);
});
