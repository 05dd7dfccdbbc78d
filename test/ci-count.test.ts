import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { checkoutRoot } from '../benchmarks/src/harness/checkout.ts';
import { runCommand } from '../benchmarks/src/harness/run-command.ts';

const report = `TAP version 14
# Subtest: a.test.ts
    # Subtest: passes and skips
        ok 1 - fine
        ok 2 - later # SKIP no such program
    ok 1 - passes and skips # time=1ms
    # Subtest: skipped whole
    ok 2 - skipped whole # SKIP fio is missing
    # Subtest: fails inside
        not ok 1 - wrong
        not ok 2 - known # TODO
    not ok 3 - fails inside # time=1ms
    1..3
not ok 1 - a.test.ts # time=5ms
# Subtest: b.test.ts
    ok 1 - fine
not ok 2 - b.test.ts # time=240000ms
`;

t.test('CI counts assertions, skips, and a file that failed by itself', async (t) => {
  const path = join(t.testdir(), 'report.tap');
  writeFileSync(path, report);
  const count = join(checkoutRoot(), '.ci/count-tap.mjs');
  const result = await runCommand('node', [count, path]);
  t.equal(result.stdout, '3 2 2\n');
  writeFileSync(path, 'TAP version 14\n1..0\n');
  t.not(
    (await runCommand('node', [count, path])).code,
    0,
    'a report without assertions is no pass',
  );
});
