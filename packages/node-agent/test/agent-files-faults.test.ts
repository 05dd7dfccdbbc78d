import { FaultyFiles } from '@stor/runtime/testing';
import t from 'tap';
import { DataFolder } from '../src/data-folder.ts';
import { FailureLog } from '../src/lane/failure-log.ts';

const expect = { clusterId: 'c-0123456789abcdef', nodeId: 'n-0123456789abcdef' };
const disk = { diskId: 'd-0000000000000001', path: '/disk', tag: '' };
const path = '/var/lib/stor';

/**
 * Runs `work` with a crash at each of its operations in turn, then `check` on what is left; for
 * several outcomes of each power cut.
 */
function atEveryOperation(
  kind: 'kill' | 'power',
  work: (files: FaultyFiles) => void,
  check: (files: FaultyFiles) => void,
): number {
  let crashes = 0;
  for (let seed = 1; seed <= 8; seed++) {
    for (let at = 1; ; at++) {
      const files = new FaultyFiles({ seed });
      files.process().makeDirectory('/var');
      files.process().syncDirectory('/');
      files.crashAfter(at, kind);
      try {
        work(files);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ECRASHED') throw error;
      }
      if (files.crashPending) break;
      crashes++;
      check(files);
    }
  }
  return crashes;
}

for (const kind of ['kill', 'power'] as const) {
  t.test(`data folder: a ${kind} at any operation leaves one that opens`, async (t) => {
    let noted = false;
    const crashes = atEveryOperation(
      kind,
      (files) => {
        noted = false;
        DataFolder.open(path, expect, files.process()).addDisk(disk);
        noted = true;
        DataFolder.open(path, expect, files.process()).noteRaft();
      },
      (files) => {
        const folder = DataFolder.open(path, expect, files.process());
        if (noted) t.same(folder.disks(), [disk], 'a disk that was noted stays noted');
        // all that is promised from here on survives a power cut, whoever has made the folder
        folder.addDisk(disk);
        files.powerLoss();
        t.same(DataFolder.open(path, expect, files.process()).disks(), [disk]);
      },
    );
    t.ok(crashes > 50, `${crashes} crashes`);
  });

  t.test(`failure log: a ${kind} at any operation loses no record (I7)`, async (t) => {
    const failure = (reason: string) => ({ diskId: 'd-1', replicaId: null, reason });
    const logPath = `${path}/failures.jsonl`;
    let recorded: string[] = [];
    const crashes = atEveryOperation(
      kind,
      (files) => {
        recorded = [];
        DataFolder.open(path, expect, files.process());
        const log = new FailureLog(logPath, files.process());
        for (const reason of ['first', 'second']) {
          log.record(failure(reason));
          recorded.push(reason);
        }
      },
      (files) => {
        DataFolder.open(path, expect, files.process());
        const log = new FailureLog(logPath, files.process());
        log.record(failure('after'));
        files.powerLoss();
        DataFolder.open(path, expect, files.process());
        const again = new FailureLog(logPath, files.process());
        const reasons = again.failuresOf('d-1').map(({ reason }) => reason);
        for (const reason of [...recorded, 'after']) t.ok(reasons.includes(reason), reason);
      },
    );
    t.ok(crashes > 50, `${crashes} crashes`);
  });
}
