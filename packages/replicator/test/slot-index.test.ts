import fc from 'fast-check';
import t from 'tap';
import { LineageTables } from '../src/core/store/lineage-tables.ts';
import { SlotIndex } from '../src/core/store/slot-index.ts';

t.test('SlotIndex knows the slots of each layer, whatever changes while it is made', async (t) => {
  const slotCount = 60;
  const step = fc.record({
    kind: fc.constantFrom('set', 'set', 'set', 'free', 'scan', 'ask'),
    slot: fc.nat(slotCount - 1),
    place: fc.integer({ min: 1, max: 4 }),
  });
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 100, size: 'max' }),
      fc.array(step, { maxLength: 300, size: 'max' }),
      (before, after) => {
        const tables = new LineageTables(1, 'x');
        const set = ({ kind, slot, place }: (typeof before)[number]): void => {
          if (kind === 'free') tables.setSlot(slot, 0, 0);
          else tables.setSlot(slot, slot, place);
        };
        for (const one of before) set(one);
        const index = new SlotIndex(tables.slots);
        tables.index = index;
        let scanned = 0;
        for (const one of after) {
          if (one.kind === 'scan') {
            const end = Math.min(tables.slots.end, scanned + 7);
            index.scan(scanned, Math.max(scanned, end));
            scanned = Math.max(scanned, end);
          } else if (one.kind !== 'ask') set(one);
          else {
            index.scan(scanned, Math.max(scanned, tables.slots.end));
            scanned = Math.max(scanned, tables.slots.end);
            const right: number[] = [];
            for (let slot = 0; slot < tables.slots.end; slot++) {
              if (tables.slots.words[slot] === one.place) right.push(slot);
            }
            const said = index.of(one.place).sort((a, b) => a - b);
            if (String(said) !== String(right)) return false;
          }
        }
        return true;
      },
    ),
    { numRuns: 500 },
  );
  t.pass();
});

t.test('a layer that slots come to and leave again is not remembered for ever', async (t) => {
  const tables = new LineageTables(1, 'x');
  const index = new SlotIndex(tables.slots);
  tables.index = index;
  for (let turn = 0; turn < 5_000; turn++) {
    tables.setSlot(turn % 10, 1, 1);
    tables.setSlot(turn % 10, 1, 2);
  }
  t.equal(index.of(1).length, 0);
  t.equal(index.of(2).length, 10);
});
