/** Checksums that are in memory alone for a moment: never older there than in the file, and never lost. */
import fc from 'fast-check';
import t from 'tap';
import { blocksPerChunk } from '@stor/protocol';
import { FakeClock, FaultyFiles } from '@stor/runtime/testing';
import { sumBytes } from '../src/core/store/format.ts';
import { LatePages, slotsPerSumsPage, spansOf } from '../src/core/store/late-sums.ts';
import { SumsCache } from '../src/core/store/sums-cache.ts';
import { SumsFile } from '../src/store/sums-file.ts';

t.test('late pages are written the oldest first, each once', (t) => {
  const commands = fc.array(
    fc.record({ kind: fc.constantFrom('add', 'remove', 'oldest'), page: fc.nat(200) }),
  );
  fc.assert(
    fc.property(commands, (all) => {
      const late = new LatePages();
      let stupid: number[] = [];
      for (const { kind, page } of all) {
        if (kind === 'add') {
          late.add(page);
          if (!stupid.includes(page)) stupid.push(page);
        } else if (kind === 'remove') {
          late.remove(page);
          stupid = stupid.filter((each) => each !== page);
        } else if (late.has(page) !== stupid.includes(page)) return false;
        if (late.count !== stupid.length) return false;
        const sorted = [...stupid].sort((a, b) => a - b);
        if (late.all().join() !== sorted.join()) return false;
        // a page that was late twice may keep its first place
        const oldest = late.oldest();
        if (stupid.length === 0 ? oldest !== -1 : !stupid.includes(oldest)) return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
  const late = new LatePages();
  for (const page of [7, 3, 9]) late.add(page);
  const order: number[] = [];
  for (let page = late.oldest(); page >= 0; page = late.oldest()) {
    order.push(page);
    late.remove(page);
  }
  t.same(order, [7, 3, 9]);
  t.end();
});

t.test('the list of late pages stays short however long it is in use', (t) => {
  const late = new LatePages();
  late.add(0);
  for (let page = 1; page < 100_000; page++) {
    late.add(page % 50_000);
    late.remove(late.oldest());
  }
  t.equal(late.count, 1);
  t.equal(late.all().length, 1);
  t.end();
});

t.test('spans hold all that is late, and nothing else unless the rest is read first', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.boolean(), { minLength: slotsPerSumsPage, maxLength: slotsPerSumsPage }),
      (late) => {
        const { spans, holes } = spansOf(late);
        const written = late.map((_late, slot) =>
          spans.some(({ first, end }) => slot >= first && slot < end),
        );
        if (holes) return late.every((isLate, slot) => !isLate || written[slot]);
        return spans.length <= 2 && late.every((isLate, slot) => isLate === written[slot]);
      },
    ),
  );
  t.end();
});

const slots = 40;
const lineages = [1, 2];

type Step =
  | { kind: 'late' | 'put'; lineage: number; linear: number; count: number }
  | { kind: 'load' | 'settle'; lineage: number; slot: number }
  | { kind: 'all'; lineage: number }
  | { kind: 'time'; ms: number };

const lineageArb = fc.constantFrom(...lineages);
const slotArb = fc.oneof(fc.constantFrom(0, 1, 15, 16, 17, 32), fc.nat(slots - 1));
const stepArb: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .tuple(fc.constantFrom('late', 'late', 'put'), lineageArb, slotArb, fc.nat(63), fc.nat(16))
      .map(([kind, lineage, slot, block, more]) => {
        const linear = slot * blocksPerChunk + block;
        const count = Math.min(1 + more, slots * blocksPerChunk - linear);
        return { kind: kind, lineage, linear, count };
      }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('load', 'settle'),
      lineage: lineageArb,
      slot: slotArb,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('all'), lineage: lineageArb }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('time'), ms: fc.nat(60) }) },
);

/** Two lineages on one small cache, and what each checksum must be. */
class Stage {
  readonly clock = new FakeClock();
  readonly cache: SumsCache;
  readonly failures: Error[] = [];
  readonly files = new FaultyFiles({ seed: 1 });
  readonly #process = this.files.process();
  readonly #parts = new Map<number, { file: SumsFile; wanted: Uint32Array }>();
  #next = 1;

  constructor(cacheLines: number) {
    this.cache = new SumsCache(cacheLines);
    for (const lineage of lineages) {
      const file = new SumsFile({
        ...{ file: this.#process.create(`/sums-${lineage}`), lineage },
        ...{ cache: this.cache, clock: this.clock },
        failed: (error) => {
          this.failures.push(error);
        },
      });
      this.#parts.set(lineage, { file, wanted: new Uint32Array(slots * blocksPerChunk) });
    }
  }

  part(lineage: number): { file: SumsFile; wanted: Uint32Array } {
    const part = this.#parts.get(lineage);
    if (!part) throw new Error(`no lineage ${lineage}`);
    return part;
  }

  run(step: Step): boolean {
    if (step.kind === 'time') {
      this.clock.advance(step.ms);
      return true;
    }
    const { file, wanted } = this.part(step.lineage);
    switch (step.kind) {
      case 'late':
      case 'put': {
        const scratch = file.scratch(step.count);
        for (let i = 0; i < step.count; i++) scratch[i] = wanted[step.linear + i] = this.#next++;
        if (step.kind === 'put') file.put(step.linear, step.count);
        else file.putLate(step.linear, step.count);
        return true;
      }
      case 'load':
        return this.isRight(step.lineage, step.slot);
      case 'settle':
        file.settle(step.slot, step.slot);
        return this.isInFile(step.lineage, step.slot, step.slot);
      case 'all':
        file.settleAll();
        return this.isInFile(step.lineage, 0, slots - 1);
    }
  }

  /** What a reader in this process sees. */
  isRight(lineage: number, slot: number): boolean {
    const { file, wanted } = this.part(lineage);
    const line = file.load(slot);
    for (let block = 0; block < blocksPerChunk; block++) {
      if (this.cache.sums[line + block] !== wanted[slot * blocksPerChunk + block]) return false;
    }
    return true;
  }

  /** What the file says of these slots. */
  isInFile(lineage: number, first: number, last: number): boolean {
    const { file, wanted } = this.part(lineage);
    const from = first * blocksPerChunk;
    const stored = new Uint32Array((last - first + 1) * blocksPerChunk);
    file.file.readSync(
      new Uint8Array(stored.buffer),
      0,
      stored.byteLength,
      first * blocksPerChunk * sumBytes,
    );
    return stored.every((sum, i) => sum === wanted[from + i]);
  }
}

for (const cacheLines of [1, 3, 7, 64]) {
  t.test(`a cache of ${cacheLines} lines never shows an old checksum`, (t) => {
    fc.assert(
      fc.property(fc.array(stepArb, { maxLength: 80 }), (steps) => {
        const stage = new Stage(cacheLines);
        if (!steps.every((step) => stage.run(step))) return false;
        for (const lineage of lineages) {
          for (let slot = 0; slot < slots; slot++) {
            if (!stage.isRight(lineage, slot)) return false;
          }
          stage.part(lineage).file.settleAll();
          if (!stage.isInFile(lineage, 0, slots - 1)) return false;
        }
        return stage.failures.length === 0;
      }),
      { numRuns: 300 },
    );
    t.end();
  });
}

/** A checksum that is late: the second write of a slot has a line. */
function lateOne(stage: Stage, slot: number): void {
  const linear = slot * blocksPerChunk + 5;
  for (let i = 0; i < 2; i++) stage.run({ kind: 'late', lineage: 1, linear, count: 1 });
}

t.test('what is late is written within a moment, without a sync', (t) => {
  const stage = new Stage(64);
  for (let slot = 0; slot < slots; slot++) lateOne(stage, slot);
  t.notOk(stage.isInFile(1, 0, slots - 1), 'in memory alone at first');
  stage.clock.advance(500);
  t.ok(stage.isInFile(1, 0, slots - 1));
  t.end();
});

t.test('the second small write to a slot costs the file nothing', (t) => {
  const stage = new Stage(64);
  const { operations } = stage.files;
  for (let i = 0; i < 3; i++) lateOne(stage, i);
  t.equal(stage.files.operations - operations, 3, 'one operation for each slot');
  t.end();
});

t.test('a late write that fails is told, and what it was to write stays', (t) => {
  const stage = new Stage(64);
  lateOne(stage, 3);
  stage.files.hook = (operation) => (operation === 'write' ? 'EIO' : null);
  stage.clock.advance(500);
  t.equal(stage.failures.length, 1, 'once: the replica takes no more calls');
  t.throws(() => {
    stage.part(1).file.settleAll();
  }, /EIO/);
  t.equal(stage.failures.length, 2);
  t.ok(stage.isRight(1, 3), 'a reader still sees it');
  stage.files.hook = () => null;
  stage.part(1).file.settleAll();
  t.ok(stage.isInFile(1, 0, slots - 1));
  t.end();
});

t.test('who closes takes his lines with him', (t) => {
  const stage = new Stage(1);
  lateOne(stage, 0);
  t.equal(stage.part(2).file.find(0), -1);
  t.not(stage.part(1).file.find(0), -1);
  stage.part(1).file.close();
  stage.part(1).file.close();
  stage.clock.advance(500);
  t.equal(stage.failures.length, 0);
  stage.part(2).file.load(0);
  t.not(stage.part(2).file.find(0), -1, 'the line is free for others');
  t.end();
});
