import fc from 'fast-check';
import t from 'tap';
import { blockBytes } from '@stor/protocol';
import { crc32 } from '@stor/runtime';
import { zeroBlockCrc } from '../src/core/store/format.ts';
import { joinedCrc } from '../src/core/store/joined-sums.ts';

const maxBlocks = 70;

/** Blocks that are zeros, all alike or different. */
const someBlocks = fc.array(fc.oneof(fc.constantFrom(0, 1, 2), fc.integer()), {
  minLength: 1,
  maxLength: maxBlocks,
});

function bytesOf(seeds: readonly number[]): Buffer {
  const bytes = Buffer.alloc(seeds.length * blockBytes);
  for (const [i, seed] of seeds.entries()) {
    let state = seed;
    for (let at = 0; seed !== 0 && at < blockBytes; at += 4) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      bytes.writeInt32LE(state, i * blockBytes + at);
    }
  }
  return bytes;
}

function sumsOf(bytes: Uint8Array, before: number): Uint32Array {
  const sums = new Uint32Array(before + bytes.length / blockBytes).fill(0x12345678, 0, before);
  for (let i = 0; i < bytes.length / blockBytes; i++) {
    const block = bytes.subarray(i * blockBytes, (i + 1) * blockBytes);
    sums[before + i] = crc32(block) ^ zeroBlockCrc;
  }
  return sums;
}

t.test('the sums of blocks make the CRC of all of them together', async () => {
  fc.assert(
    fc.property(someBlocks, fc.nat(5), (seeds, before) => {
      const bytes = bytesOf(seeds);
      return joinedCrc(sumsOf(bytes, before), before, seeds.length) === crc32(bytes);
    }),
  );
});

t.test('what differs from its sum is seen, wherever it is', async () => {
  const changes = fc.uniqueArray(
    fc.record({ at: fc.nat(maxBlocks * blockBytes), bits: fc.integer({ min: 1, max: 255 }) }),
    { minLength: 1, maxLength: 4, selector: ({ at }) => at % (maxBlocks * blockBytes) },
  );
  fc.assert(
    fc.property(someBlocks, changes, (seeds, damage) => {
      const bytes = bytesOf(seeds);
      const sums = sumsOf(bytes, 0);
      const before = Buffer.from(bytes);
      for (const { at, bits } of damage) {
        const place = at % bytes.length;
        bytes[place] = (bytes[place] ?? 0) ^ bits;
      }
      const isSame = bytes.equals(before);
      return (joinedCrc(sums, 0, seeds.length) === crc32(bytes)) === isSame;
    }),
  );
});

t.test('blocks that changed places are seen', async () => {
  fc.assert(
    fc.property(someBlocks, fc.nat(), fc.nat(), (seeds, one, other) => {
      const from = one % seeds.length;
      const to = other % seeds.length;
      const moved = [...seeds];
      moved[from] = seeds[to] ?? 0;
      moved[to] = seeds[from] ?? 0;
      const joined = joinedCrc(sumsOf(bytesOf(seeds), 0), 0, seeds.length);
      return (joined === crc32(bytesOf(moved))) === (seeds[from] === seeds[to]);
    }),
  );
});
