import fc from 'fast-check';
import t from 'tap';
import { backoffMs, exportDifference } from '../src/core/reconnect-policy.ts';
import { RequestOrder } from '../src/core/request-order.ts';
import type { OrderedRequest } from '../src/core/request-order.ts';

interface Model {
  id: number;
  start: number;
  end: number;
  mutates: boolean;
  sent: boolean;
}

const conflict = (a: Model, b: Model): boolean =>
  (a.mutates || b.mutates) &&
  Math.max(a.start, b.start) < Math.min(a.end, b.end) &&
  a.start < a.end &&
  b.start < b.end;

const step = fc.oneof(
  fc.record({
    kind: fc.constant('add' as const),
    start: fc.nat(12),
    length: fc.nat(4),
    mutates: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('take' as const) }),
  fc.record({ kind: fc.constant('finish' as const), which: fc.nat(100) }),
  fc.record({ kind: fc.constant('lost' as const) }),
);

t.test('what may be sent is what conflicts with no older request, whatever happens', async (t) => {
  let taken = 0;
  let held = 0;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
      const order = new RequestOrder<Model>();
      const requests = new Map<number, OrderedRequest<Model>>();
      let model: Model[] = [];
      let nextId = 0;
      const sendable = (): Model[] =>
        model.filter((m, i) => !m.sent && !model.slice(0, i).some((older) => conflict(older, m)));
      for (const s of steps) {
        if (s.kind === 'add') {
          const m = {
            id: nextId++,
            start: s.start,
            end: s.start + s.length,
            mutates: s.mutates,
            sent: false,
          };
          model.push(m);
          requests.set(m.id, order.add(m, m.start, m.end, m.mutates));
        } else if (s.kind === 'take') {
          const able = sendable();
          held += model.filter((m) => !m.sent).length - able.length;
          const got = order.takeReady();
          if (able.length === 0) {
            if (got) return false;
            continue;
          }
          if (!got || !able.includes(got.value)) return false;
          taken += 1;
          got.value.sent = true;
        } else if (s.kind === 'finish') {
          const m = model[s.which % Math.max(1, model.length)];
          if (!m) continue;
          order.finish(requests.get(m.id)!);
          order.finish(requests.get(m.id)!);
          model = model.filter((other) => other !== m);
        } else {
          order.connectionLost();
          for (const m of model) m.sent = false;
          const oldest = order.takeReady();
          if ((oldest?.value ?? undefined) !== sendable()[0]) return false;
          if (oldest) oldest.value.sent = true;
        }
        if (order.count !== model.length) return false;
        if (order.sentCount !== model.filter((m) => m.sent).length) return false;
      }
      // to the end: everything gets its turn, in an order that respects conflicts
      for (;;) {
        const got = order.takeReady();
        if (!got) break;
        if (!sendable().includes(got.value)) return false;
        order.finish(got);
        model = model.filter((other) => other !== got.value);
      }
      return model.every((m) => m.sent || model.some((o) => o.sent && o.id < m.id));
    }),
    { numRuns: 400 },
  );
  t.ok(taken > 1000 && held > 1000, `${taken} were sent, ${held} times one was held`);
});

t.test('pauses double up to the limit, and chance shortens them by at most half', async (t) => {
  t.strictSame(
    [1, 2, 3, 4, 5, 6, 1000].map((failures) => backoffMs(failures, 100, 2000, 1)),
    [100, 200, 400, 800, 1600, 2000, 2000],
  );
  t.equal(backoffMs(3, 100, 2000, 0), 200);
  t.equal(backoffMs(3, 100, 2000, 0.5), 300);
});

t.test('a difference of exports is told exactly', async (t) => {
  const was = {
    sizeBytes: 4096,
    flags: 0x5,
    blockSizes: { minimum: 1, preferred: 4096, maximum: 65536 },
    metaContexts: ['base:allocation'],
  };
  t.equal(exportDifference(was, { ...was, metaContexts: ['x:y', 'base:allocation'] }), null);
  t.equal(
    exportDifference(was, { ...was, sizeBytes: 2048 }),
    'its size changed from 4096 to 2048 bytes',
  );
  t.equal(exportDifference(was, { ...was, sizeBytes: 8192 }), null, 'it may have grown');
  t.equal(
    exportDifference(was, { ...was, flags: 0x3 }),
    'its flags changed from 0x5 (hasFlags, sendFlush) to 0x3 (hasFlags, readOnly)',
  );
  t.equal(
    exportDifference(was, { ...was, blockSizes: { ...was.blockSizes, maximum: 512 } }),
    'its maximum block size changed from 65536 to 512 bytes',
  );
  t.match(exportDifference(was, { ...was, metaContexts: [] }), /no metadata context base:alloc/);
});
