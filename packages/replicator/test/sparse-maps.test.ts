import t from 'tap';
import fc from 'fast-check';
import { chunkBytes } from '@stor/protocol';

import { Bitmap } from '../src/core/replication/bitmap.ts';
import { bitmapOfRuns } from '../src/core/replication/bitmap-runs.ts';
import { MemberSpace } from '../src/core/replication/member-space.ts';
import { bitmapOfText, textOf } from '../src/peer/peer-snapshots.ts';
import { PagedNumbers } from '../src/core/store/paged-numbers.ts';

/** More than two pages of each kind, and no multiple of one. */
const size = 40_003;
const bitmapPage = 16_384;
const mapPage = 4_096;

/** Numbers at the edges of pages and of the whole, and some behind the end. */
const index = fc.oneof(
  fc.nat(size + 20),
  fc
    .tuple(
      fc.constantFrom(0, mapPage, bitmapPage, 2 * bitmapPage, size),
      fc.integer({ min: -9, max: 9 }),
    )
    .map(([edge, by]) => Math.max(0, edge + by)),
);
const step = fc.oneof(
  fc.record({ add: index }),
  fc.record({ remove: index }),
  fc.record({ run: index, count: fc.nat(bitmapPage + 9) }),
);
type Step = { add: number } | { remove: number } | { run: number; count: number };
const steps = fc.array(step, { maxLength: 12 });

function setOf(all: readonly Step[]): { bitmap: Bitmap; model: Set<number> } {
  const bitmap = new Bitmap(size);
  const model = new Set<number>();
  const add = (number: number): void => {
    bitmap.add(number);
    if (number < size) model.add(number);
  };
  for (const each of all) {
    if ('add' in each) add(each.add);
    else if ('run' in each) for (let i = 0; i < each.count; i++) add(each.run + i);
    else {
      bitmap.delete(each.remove);
      model.delete(each.remove);
    }
  }
  return { bitmap, model };
}

function same(bitmap: Bitmap, model: ReadonlySet<number>): boolean {
  const sorted = [...model].sort((a, b) => a - b);
  return bitmap.count === sorted.length && bitmap.list().join() === sorted.join();
}

t.test('a set in pages is the same set as one in a list', async (t) => {
  const property = fc.property(steps, steps, index, (one, two, at) => {
    const a = setOf(one);
    const b = setOf(two);
    const before = a.bitmap.toBytes();
    const union = a.bitmap.copy();
    union.addAll(b.bitmap);
    const both = a.bitmap.copy();
    both.retainAll(b.bitmap);
    const cut = a.bitmap.resized(at);
    const grown = cut.resized(size);
    const below = new Set([...a.model].filter((number) => number < at));
    return (
      same(a.bitmap, a.model) &&
      same(union, new Set([...a.model, ...b.model])) &&
      same(both, new Set([...a.model].filter((number) => b.model.has(number)))) &&
      same(cut, below) &&
      same(grown, below) &&
      same(new Bitmap(size, a.bitmap.toBytes()), a.model) &&
      // what was made from it has not changed it
      Buffer.compare(before, a.bitmap.toBytes()) === 0 &&
      before.length >= 1
    );
  });
  fc.assert(property, { numRuns: 60 });
  t.pass('no counterexample');
});

t.test('where runs end and the next member is, as if looked at one by one', async (t) => {
  const property = fc.property(steps, index, index, (all, from, end) => {
    const { bitmap, model } = setOf(all);
    let stop = from + 1;
    while (stop < end && model.has(stop) === model.has(from)) stop += 1;
    if (bitmap.runEnd(from, end) !== (stop < end ? stop : end)) return false;
    let next = from;
    while (next < size && !model.has(next)) next += 1;
    if (bitmap.next(from) !== (next < size ? next : -1)) return false;
    return bitmap.hasAny(from, end) === (next < size && next < end);
  });
  fc.assert(property, { numRuns: 60 });
  t.pass('no counterexample');
});

t.test('a full set is full, and changing it changes no other', async (t) => {
  const full = Bitmap.full(size);
  t.equal(full.count, size);
  t.equal(full.runEnd(0, size), size);
  t.ok(full.pageCount <= 1, 'only the page at the end is its own');
  const other = full.copy();
  full.delete(7);
  t.equal(full.count, size - 1);
  t.equal(other.count, size);
  t.ok(Bitmap.full(size).has(7), 'nor is one that comes later changed');
  other.retainAll(full);
  t.notOk(other.has(7));
  t.equal(other.next(7), 8);
});

t.test('it costs what its members need, and nothing when they are gone', async (t) => {
  const chunks = 2 ** 20;
  const bitmap = new Bitmap(chunks);
  t.equal(bitmap.pageCount, 0);
  bitmap.add(5);
  bitmap.add(chunks - 1);
  t.equal(bitmap.pageCount, 2);
  t.equal(bitmap.copy().pageCount, 2);
  bitmap.delete(chunks - 1);
  t.equal(bitmap.toBytes().length, 1, 'zeros at the end are left out');
  bitmap.delete(5);
  t.equal(bitmap.pageCount, 0);
  t.equal(bitmap.toBytes().length, 1, 'nothing is one byte: an empty text is taken for no answer');
});

t.test('a map in pages is the same map as one in a list', async (t) => {
  const put = fc.record({ chunk: index, value: fc.integer({ min: -3, max: 3 }) });
  const grow = fc.record({ grow: fc.nat(2 * size) });
  const property = fc.property(fc.array(fc.oneof(put, grow), { maxLength: 30 }), (all) => {
    const map = new PagedNumbers(size);
    const model = new Map<number, number>();
    let chunks = size;
    for (const each of all) {
      if ('grow' in each) {
        map.grow(each.grow);
        chunks = Math.max(chunks, each.grow);
      } else {
        map.put(each.chunk, each.value);
        if (each.chunk < chunks) model.set(each.chunk, each.value);
      }
    }
    const expected = [...model].filter(([, value]) => value !== 0).sort(([a], [b]) => a - b);
    const found: [number, number][] = [];
    for (let at = map.next(0); at >= 0; at = map.next(at + 1)) found.push([at, map.get(at)]);
    return found.join() === expected.join() && map.length === chunks;
  });
  fc.assert(property, { numRuns: 200 });
  const map = new PagedNumbers(2 ** 20);
  map.put(3, 0);
  t.equal(map.pageCount, 0, 'what is put as nothing costs nothing');
  map.put(2 ** 20 - 1, 8);
  t.equal(map.pageCount, 1);
  map.clear();
  t.equal(map.pageCount, 0);
  t.equal(map.next(0), -1);
});

t.test('a set goes over the wire as it is, in whichever form is shorter', async (t) => {
  const property = fc.property(steps, (all) => {
    const { bitmap, model } = setOf(all);
    const flat = textOf(bitmap, false);
    const text = textOf(bitmap, true);
    return (
      text.length <= flat.length + 1 &&
      !flat.startsWith('~') &&
      same(bitmapOfText(flat, size), model) &&
      same(bitmapOfText(text, size), model)
    );
  });
  fc.assert(property, { numRuns: 60 });
  const wide = new Bitmap(2 ** 20);
  for (let chunk = 0; chunk < 2 ** 20; chunk += 2 ** 16) wide.addRun(chunk, chunk + 2);
  t.ok(textOf(wide, true).length < 120, 'as long as there are runs');
  t.equal(textOf(Bitmap.full(2 ** 20), true).length, 1 + 8);
  const fringe = new Bitmap(2 ** 20);
  for (let chunk = 0; chunk < 2 ** 20; chunk += 2) fringe.add(chunk);
  t.equal(textOf(fringe, true), textOf(fringe, false), 'flat where runs would be longer');
});

t.test('runs that are none are refused', async (t) => {
  const bytes = fc.uint8Array({ maxLength: 12 });
  fc.assert(
    fc.property(bytes, (all) => {
      const bitmap = bitmapOfRuns(all, size);
      return bitmap === null || bitmap.list().every((index) => index < size);
    }),
  );
  for (const wrong of [[5], [0x80], [0, 0xff, 0xff, 0xff, 0xff, 0x7f], [0, 0x84, 0xb9, 2]]) {
    t.equal(bitmapOfRuns(Uint8Array.from(wrong), size), null, wrong.join(' '));
  }
  const text = `~${Buffer.from([5]).toString('base64')}`;
  t.throws(() => bitmapOfText(text, size), { code: 'PROTOCOL' });
  t.equal(bitmapOfRuns(Uint8Array.of(), size)?.count, 0);
});

t.test('a member asks for its room only while an answer could say something new', async (t) => {
  const space = new MemberSpace(new Bitmap(2 ** 20), new Bitmap(2 ** 20));
  t.ok(space.allOwned, 'nothing is allocated');
  const chunk = { kind: 'write', offset: 7 * chunkBytes, length: 4096, keepAllocated: false };
  space.note(chunk);
  t.ok(space.allOwned);
  space.frozen();
  t.notOk(space.allOwned, 'a snapshot shares it');
  const owned = new Bitmap(2 ** 20);
  owned.add(7);
  space.learned(space.version, owned);
  t.ok(space.allOwned);
});
