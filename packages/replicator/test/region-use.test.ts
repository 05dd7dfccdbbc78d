import t from 'tap';
import fc from 'fast-check';
import { regionBytes } from '@stor/protocol';
import { RegionUse } from '../src/core/replication/region-use.ts';

t.test('counts the regions written lately as a plain list of writes does', async (t) => {
  const regions = 16;
  const event = fc.oneof(
    fc.record({ wait: fc.integer({ min: 0, max: 50 }) }),
    fc
      .record({
        offset: fc.integer({ min: 0, max: regions * regionBytes - 1 }),
        length: fc.integer({ min: 1, max: 3 * regionBytes }),
      })
      .filter(({ offset, length }) => offset + length <= regions * regionBytes),
  );
  fc.assert(
    fc.property(
      fc.array(event, { maxLength: 60 }),
      fc.integer({ min: 1, max: 60 }),
      (events, within) => {
        const use = new RegionUse(regions * regionBytes);
        const last = new Map<number, number>();
        let now = 1;
        for (const each of events) {
          if ('wait' in each) {
            now += each.wait;
            use.tick(now);
          } else {
            use.touch(each.offset, each.length);
            for (let at = each.offset; at < each.offset + each.length; at++) {
              last.set(Math.floor(at / regionBytes), now);
              at = Math.max(at, (Math.floor(at / regionBytes) + 1) * regionBytes - 1);
            }
          }
        }
        const expected = [...last.values()].filter((second) => second >= now - within).length;
        return use.countSince(within) === expected;
      },
    ),
  );
  t.pass('no counterexample');
});
