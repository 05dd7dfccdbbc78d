import fc from 'fast-check';
import t from 'tap';
import { LiveReads } from '../benchmarks/src/verify/live-reads.ts';
import { sectorBytes, stampSectors } from '../benchmarks/src/verify/stamp.ts';
import { WriteModel } from '../benchmarks/src/verify/write-model.ts';

const seed = 3;
const start = 8 * sectorBytes;

function rig(sectors = 4): { model: WriteModel; reads: LiveReads } {
  const model = new WriteModel(sectors);
  return { model, reads: new LiveReads(model, seed, start) };
}

/** One sector as a read of the first sector of the range finds it. */
function sector(sequence: number, index = 0): Buffer {
  const bytes = Buffer.alloc(sectorBytes);
  if (sequence > 0) stampSectors(bytes, 0, start / sectorBytes + index, 1, sequence, seed);
  return bytes;
}

t.test('a read may find what was there when it began, and what was written since', async (t) => {
  for (const [found, allowed] of [
    [0, false],
    [1, true],
    [2, true],
    [3, false],
  ] as const) {
    const { model, reads } = rig();
    model.issue(1, 0, 1);
    model.acknowledge(1);
    const read = reads.begin(start, sectorBytes);
    model.issue(2, 0, 1);
    reads.issued(2, start, sectorBytes);
    model.acknowledge(2);
    const problems = reads.finish(read, sector(found));
    t.equal(problems.length === 0, allowed, `write ${found}: ${problems.join('; ')}`);
  }
});

t.test('what a read found may not be gone at the next one', async (t) => {
  const { model, reads } = rig();
  model.issue(1, 0, 1);
  model.giveUp(1);
  t.same(reads.finish(reads.begin(start, sectorBytes), sector(1)), [], 'it did happen');
  t.equal(reads.finish(reads.begin(start, sectorBytes), sector(0)).length, 1, 'it went back');
});

t.test('a read beside a write settles nothing', async (t) => {
  const { model, reads } = rig();
  model.issue(1, 0, 1);
  const read = reads.begin(start, sectorBytes);
  t.same(reads.finish(read, sector(0)), []);
  model.acknowledge(1);
  t.same(reads.finish(reads.begin(start, sectorBytes), sector(1)), []);
});

t.test('zeros, other places and other runs are told apart', async (t) => {
  const { model, reads } = rig();
  model.issue(-1, 0, 2);
  model.acknowledge(-1);
  const both = Buffer.concat([sector(0), sector(0)]);
  t.same(reads.finish(reads.begin(start, 2 * sectorBytes), both), []);
  const moved = reads.finish(reads.begin(start, sectorBytes), sector(1, 1));
  t.match(moved, [/a read at 4096 found/]);
});

t.test('a register that answers honestly is never blamed', async (t) => {
  let answers = 0;
  const step = fc.record({
    kind: fc.constantFrom('issue', 'apply', 'acknowledge', 'read', 'answer'),
    pick: fc.nat(99),
    first: fc.nat(3),
    count: fc.integer({ min: 1, max: 2 }),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 60, maxLength: 120 }), (steps) => {
      const { model, reads } = rig(5);
      const store = new Array<number>(5).fill(0);
      const open: { id: number; first: number; count: number; applied: boolean }[] = [];
      const underWay: { read: ReturnType<LiveReads['begin']>; bytes: Buffer }[] = [];
      let id = 0;
      for (const { kind, pick, first, count } of steps) {
        const write = open[pick % Math.max(1, open.length)];
        if (kind === 'issue') {
          id += 1;
          open.push({ id, first, count, applied: false });
          model.issue(id, first, count);
          reads.issued(id, start + first * sectorBytes, count * sectorBytes);
        } else if (kind === 'apply' && write && !write.applied) {
          store.fill(write.id, write.first, write.first + write.count);
          write.applied = true;
        } else if (kind === 'acknowledge' && write?.applied) {
          model.acknowledge(write.id);
          open.splice(open.indexOf(write), 1);
        } else if (kind === 'read') {
          // It is served at once; its answer is looked at later.
          const read = reads.begin(start + first * sectorBytes, count * sectorBytes);
          const parts = store.slice(first, first + count).map((w, at) => sector(w, first + at));
          underWay.push({ read, bytes: Buffer.concat(parts) });
        } else if (kind === 'answer') {
          const [some] = underWay.splice(pick % Math.max(1, underWay.length), 1);
          if (!some) continue;
          answers += 1;
          if (reads.finish(some.read, some.bytes).length > 0) return false;
        }
      }
      return true;
    }),
  );
  t.ok(answers > 100, `${answers} answers were looked at`);
});
