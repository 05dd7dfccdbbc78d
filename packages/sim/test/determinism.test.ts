import t from 'tap';

import { SeedRun } from '../src/index.ts';

t.test('one seed gives one run, to the byte', async (t) => {
  const options = { seed: 11, minutes: 0.25 };
  const first = await new SeedRun(options).run();
  const second = await new SeedRun(options).run();
  t.equal(second.hash, first.hash);
  t.equal(second.events, first.events);
  t.strictSame(second.io, first.io);
  const other = await new SeedRun({ ...options, seed: 12 }).run();
  t.not(other.hash, first.hash, 'another seed is another run');
});

t.test('also with snapshots, rollbacks and growth', async (t) => {
  const options = { seed: 7, minutes: 0.25, dense: true, snapshots: true };
  const first = await new SeedRun(options).run();
  const second = await new SeedRun(options).run();
  t.strictSame(first.violations, []);
  t.equal(second.hash, first.hash);
  t.equal(second.events, first.events);
  t.strictSame(second.faults, first.faults);
});
