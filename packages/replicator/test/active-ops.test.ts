import fc from 'fast-check';
import t from 'tap';
import { ActiveOps } from '../src/primary/active-ops.ts';
import { IoOp } from '../src/primary/io-op.ts';

t.test('ActiveOps is a set in the order of arrival', async () => {
  const step = fc.record({ adds: fc.boolean(), op: fc.nat(7) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (steps) => {
      const ops = Array.from({ length: 8 }, () => new IoOp(() => {}));
      const active = new ActiveOps();
      const model = new Set<IoOp>();
      return steps.every(({ adds, op: index }) => {
        const op = ops[index];
        if (!op) return false;
        if (!adds) {
          active.delete(op);
          model.delete(op);
        } else if (!model.has(op)) {
          active.add(op);
          model.add(op);
        }
        const [got, right] = [[...active], [...model]];
        const same = got.length === right.length && got.every((each, i) => each === right[i]);
        return same && active.size === model.size;
      });
    }),
  );
});

t.test('an op that is there is not added again', async (t) => {
  const active = new ActiveOps();
  const op = new IoOp(() => {});
  active.add(op);
  t.throws(() => active.add(op), { message: 'an op came twice' });
});
