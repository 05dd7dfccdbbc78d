// node count-tap.mjs FILE: prints "PASSED FAILED SKIPPED", counting assertions, not their groups.
// A group that failed without a failed assertion inside (it timed out, it threw) counts as one.

import { readFileSync } from 'node:fs';

const line = /^( *)(not ok|ok) \d+(.*)$/;
const groupStart = /^( *)# Subtest/;
const counts = { passed: 0, failed: 0, skipped: 0 };
/** groups that are open, by indentation, with the failures counted when they began */
const groups = new Map();
let asserts = 0;

for (const text of readFileSync(process.argv[2], 'utf8').split('\n')) {
  const group = groupStart.exec(text);
  if (group) {
    groups.set(group[1].length, counts.failed);
    continue;
  }
  const match = line.exec(text);
  if (!match) continue;
  const indent = match[1].length;
  const ok = match[2] === 'ok' || / # TODO\b/i.test(match[3]);
  if (groups.has(indent)) {
    if (!ok && counts.failed === groups.get(indent)) counts.failed += 1;
    if (/ # SKIP\b/i.test(match[3])) counts.skipped += 1;
    groups.delete(indent);
    continue;
  }
  asserts += 1;
  if (/ # SKIP\b/i.test(match[3])) counts.skipped += 1;
  else if (ok) counts.passed += 1;
  else counts.failed += 1;
}
if (asserts === 0) {
  process.stderr.write('count-tap: no assertion in the report\n');
  process.exit(1);
}
process.stdout.write(`${counts.passed} ${counts.failed} ${counts.skipped}\n`);
