import { blockBytes, blocksPerChunk, chunkBytes } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import { maxTrimmedChunks, TrimmedChunks } from '../src/core/replication/trimmed-chunks.ts';

t.test(
  'TrimmedChunks says that a chunk is zeros only when all of it was trimmed last',
  async (t) => {
    const blocks = 3 * blocksPerChunk + 10;
    const step = fc.record({
      kind: fc.constantFrom('trim', 'trim', 'trim', 'trim', 'write', 'free'),
      from: fc.nat(blocks - 1),
      count: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 90 })),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
        const trimmed = new TrimmedChunks();
        // false: it may hold data
        const isZero: boolean[] = new Array<boolean>(blocks).fill(false);
        const sizeBytes = blocks * blockBytes;
        for (const { kind, from, count } of steps) {
          const length = Math.min(count, blocks - from);
          const chunk = Math.floor(from / blocksPerChunk);
          if (kind === 'free') {
            trimmed.freed(chunk);
            continue;
          }
          isZero.fill(kind === 'trim', from, from + length);
          const [offset, bytes] = [from * blockBytes, length * blockBytes];
          const complete = kind === 'trim' ? trimmed.zeroed(offset, bytes, sizeBytes) : [];
          if (kind === 'write') trimmed.written(offset, bytes);
          for (let each = 0; each <= 3; each++) {
            const all = isZero.slice(each * blocksPerChunk, (each + 1) * blocksPerChunk);
            if (complete.includes(each) && !trimmed.isComplete(each, sizeBytes)) return false;
            if (trimmed.isComplete(each, sizeBytes) && !all.every(Boolean)) return false;
          }
        }
        return true;
      }),
      { numRuns: 500 },
    );
    t.pass();
  },
);

t.test('pieces of any order make a chunk whole, and few chunks are remembered', async (t) => {
  const trimmed = new TrimmedChunks();
  const sizeBytes = 1e12;
  for (let block = 0; block < blocksPerChunk; block += 2) {
    t.same(trimmed.zeroed(chunkBytes + block * blockBytes, blockBytes, sizeBytes), []);
  }
  for (let block = 1; block < blocksPerChunk - 1; block += 2) {
    t.same(trimmed.zeroed(chunkBytes + block * blockBytes, blockBytes, sizeBytes), []);
  }
  t.same(trimmed.zeroed(2 * chunkBytes - blockBytes, 2 * blockBytes, sizeBytes), [1]);
  trimmed.written(chunkBytes, blockBytes);
  t.notOk(trimmed.isComplete(1, sizeBytes));
  for (let chunk = 10; chunk < 10 + 2 * maxTrimmedChunks; chunk++) {
    trimmed.zeroed(chunk * chunkBytes, blockBytes, sizeBytes);
  }
  t.equal(trimmed.size, maxTrimmedChunks);
  t.same(trimmed.zeroed(chunkBytes, blockBytes, sizeBytes), [], 'it is long forgotten');
});
