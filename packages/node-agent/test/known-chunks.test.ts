import { chunkBytes } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { KnownChunks, windowBytes } from '../src/core/nbd/known-chunks.ts';

/** Three windows, of which the last is short and ends within a chunk. */
const sizeBytes = 2 * windowBytes + 5 * chunkBytes + 77;
const chunks = Math.ceil(sizeBytes / chunkBytes);

t.test('what is known of holes is what was told, chunk by chunk', (t) => {
  const range = fc
    .tuple(fc.nat(sizeBytes - 1), fc.constantFrom(1, 5_000, chunkBytes, 9 * chunkBytes, sizeBytes))
    .map(([offset, length]) => ({ offset, length: Math.min(length, sizeBytes - offset) }));
  fc.assert(
    fc.property(
      fc.array(fc.nat(chunks - 1), { maxLength: 60 }),
      fc.array(range, { maxLength: 8 }),
      fc.array(range, { minLength: 1, maxLength: 8 }),
      (written, told, asked) => {
        const data = new Set(written);
        const known = new KnownChunks(sizeBytes);
        const isTold = new Set<number>();
        for (const { offset, length } of told) {
          const ranges = [];
          for (let at = offset; at < offset + length;) {
            const chunk = Math.floor(at / chunkBytes);
            const end = Math.min(offset + length, (chunk + 1) * chunkBytes);
            ranges.push({ offset: at, length: end - at, allocated: data.has(chunk) });
            const isWhole =
              at === chunk * chunkBytes && (end === sizeBytes || end % chunkBytes === 0);
            if (isWhole && !data.has(chunk)) isTold.add(chunk);
            at = end;
          }
          known.learn(ranges);
        }
        for (const { offset, length } of asked) {
          let end = offset;
          while (end < offset + length && isTold.has(Math.floor(end / chunkBytes))) {
            end = (Math.floor(end / chunkBytes) + 1) * chunkBytes;
          }
          const bytes = Math.min(end, offset + length) - offset;
          if (known.holeBytes(offset, length) !== bytes) return false;
          const ask = known.unknownIn(offset, offset + length);
          if (ask && (ask.offset >= offset + length || ask.length <= 0)) return false;
          if (ask && isTold.has(Math.floor(ask.offset / chunkBytes))) return false;
          if (!ask && data.size === 0 && !isTold.has(Math.floor(offset / chunkBytes))) return false;
        }
        return true;
      },
    ),
    { numRuns: 60 },
  );
  t.end();
});

t.test('of a very large one the windows that were of use last are remembered', (t) => {
  const known = new KnownChunks(1_000 * windowBytes);
  for (let window = 0; window < 100; window++) {
    known.learn([{ offset: window * windowBytes, length: windowBytes, allocated: false }]);
  }
  t.equal(known.holeBytes(0, 1), 0);
  t.same(known.unknownIn(5, 6), { offset: 0, length: windowBytes });
  t.equal(known.holeBytes(99 * windowBytes, 2 * windowBytes), windowBytes);
  t.equal(known.unknownIn(99 * windowBytes, 100 * windowBytes), null);
  t.end();
});
