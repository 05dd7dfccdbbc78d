import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { commonVersion, formatVersions, parseVersions } from '../src/version-range.ts';
import type { VersionRange } from '../src/version-range.ts';

const range = fc
  .tuple(fc.integer({ min: 1, max: 9 }), fc.nat({ max: 4 }))
  .map(([min, more]): VersionRange => ({ min, max: min + more }));
const parties = { protocol: 'the test', own: 'node a', other: 'node b' };
const turned = { protocol: 'the test', own: 'node b', other: 'node a' };
const found = (run: () => number): number | string => {
  try {
    return run();
  } catch (error) {
    return (error as Error).message.split(': ')[1] ?? '';
  }
};

t.test('both sides come to the highest version that both speak, or upgrade the same one', (t) => {
  fc.assert(
    fc.property(range, range, (a, b) => {
      const all = Array.from({ length: 20 }, (_, i) => i);
      const both = all.filter((v) => v >= a.min && v <= a.max && v >= b.min && v <= b.max);
      const here = found(() => commonVersion(a, b, parties));
      const there = found(() => commonVersion(b, a, turned));
      assert.equal(here, there);
      if (both.length > 0) assert.equal(here, Math.max(...both));
      else {
        const older = a.max < b.min ? 'node a' : 'node b';
        assert.match(String(here), new RegExp(`^upgrade ${older} to a Stor that speaks version`));
      }
    }),
  );
  t.end();
});

t.test('a refusal names both versions and what to upgrade', (t) => {
  t.throws(() => commonVersion({ min: 3, max: 4 }, { min: 5, max: 5 }, parties), {
    code: 'PROTOCOL',
    message:
      'node b speaks version 5 of the test, node a versions 3 to 4: upgrade node a to a Stor that speaks version 5, or let node b go back to one that speaks an older one',
    details: { own: '3-4', other: '5-5' },
  });
  t.end();
});

t.test('ranges as texts', (t) => {
  t.same(parseVersions(formatVersions({ min: 3, max: 12 })), { min: 3, max: 12 });
  for (const bad of ['', '4', '0-1', '5-4', '1-2-3', '-1-2', '1-9999999', 'a-b']) {
    t.throws(() => parseVersions(bad), { code: 'PROTOCOL' }, bad);
  }
  t.end();
});
