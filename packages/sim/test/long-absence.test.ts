import t from 'tap';

import { AbsenceRun, type AbsenceOptions } from '../src/index.ts';

const mib = 1024 * 1024;
/** STOR_ABSENCE_MIB=1024 is the size that docs/failure-model.md speaks of; it needs some memory. */
const changedBytes = Number(process.env['STOR_ABSENCE_MIB'] ?? '32') * mib;
/** What it may cost, in changed chunks' bytes; and the talk of a return in which nothing is copied. */
const maxRatio = 1.1;
const maxRestartBytes = 256 * 1024;

const cases: Pick<AbsenceOptions, 'absenceMinutes' | 'leaves'>[] = [
  { absenceMinutes: 12, leaves: 'kill' },
  { absenceMinutes: 45, leaves: 'power' },
];

for (const { absenceMinutes, leaves } of cases) {
  t.test(`a return after ${absenceMinutes} minutes costs what changed (${leaves})`, async (t) => {
    const report = await new AbsenceRun({ seed: 5, changedBytes, absenceMinutes, leaves }).run();
    t.comment(JSON.stringify(report));
    t.comment(`ratio ${(report.movedBytes / report.changedBytes).toFixed(4)}`);
    t.strictSame(report.problems, [], 'the replicas are equal');
    t.equal(report.copiedBytes, report.changedBytes, 'every changed block was copied, once');
    t.ok(report.movedBytes <= maxRatio * report.changedBytes, 'little else went over the wire');
    t.ok(report.primaryChanges >= 3, 'other primaries have written too');
    t.ok(report.checkpoints >= 10, 'marks were cleared meanwhile');
    t.equal(report.restartCopiedBytes, 0, 'a clean restart copies nothing');
    t.ok(report.restartMovedBytes <= maxRestartBytes, 'and says little');
  });
}
