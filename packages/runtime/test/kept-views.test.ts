import fc from 'fast-check';
import t from 'tap';
import { partOf } from '../src/kept-views.ts';

t.test('a part is what subarray gives, whatever was asked before', async () => {
  const buffers = [Buffer.alloc(64 * 1024), Buffer.alloc(9_000), new Uint8Array(20_000)];
  const outer = Buffer.alloc(40_000);
  // two that share their memory
  buffers.push(outer, outer.subarray(5_000, 39_000));
  for (const buffer of buffers) for (let i = 0; i < buffer.length; i++) buffer[i] = (i * 7) & 0xff;
  const asked = fc.record({ of: fc.nat(buffers.length - 1), from: fc.nat(), to: fc.nat() });
  fc.assert(
    fc.property(fc.array(asked, { maxLength: 60, size: 'max' }), (parts) =>
      parts.every(({ of, from, to }) => {
        const bytes = buffers[of] ?? outer;
        const [start = 0, end = 0] = [from, to]
          .map((at) => at % (bytes.length + 1))
          .sort((a, b) => a - b);
        const part = partOf(bytes, start, end - start);
        const same = bytes.subarray(start, end);
        return (
          part.buffer === same.buffer &&
          part.byteOffset === same.byteOffset &&
          part.length === same.length
        );
      }),
    ),
  );
});

t.test('one that was asked for before is the same object', async (t) => {
  const [one, other] = [Buffer.alloc(64 * 1024), Buffer.alloc(64 * 1024)];
  const before = [partOf(one, 28, 4096), partOf(one, 4152, 4096), partOf(other, 28, 4096)];
  const after = [partOf(one, 28, 4096), partOf(one, 4152, 4096), partOf(other, 28, 4096)];
  t.ok(before.every((view, i) => view === after[i]));
});
