import { once } from 'node:events';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { FailureLog } from '../src/lane/failure-log.ts';
import { ThreadLock } from '../src/lane/thread-lock.ts';

t.test('lanes record failures at once, and none is lost (I7)', async (t) => {
  const path = join(t.testdir({}), 'failures.jsonl');
  const lock = ThreadLock.newMemory();
  const count = 100;
  const disks = ['d-1', 'd-2', 'd-3'];
  const writers = disks.map(
    (diskId) =>
      new Worker(new URL('./failure-writer.ts', import.meta.url), {
        workerData: { path, lock, diskId, count },
      }),
  );
  await Promise.all(writers.map((writer) => once(writer, 'message')));
  await Promise.all(writers.map((writer) => writer.terminate()));
  const log = new FailureLog(path);
  for (const diskId of disks) t.equal(log.failuresOf(diskId).length, count);
});

t.test('the lock is let go of when what runs under it throws', async (t) => {
  const memory = ThreadLock.newMemory();
  const lock = new ThreadLock(memory);
  t.throws(
    () =>
      lock.run(() => {
        throw new Error('x');
      }),
    { message: 'x' },
  );
  t.equal(
    new ThreadLock(memory).run(() => 7),
    7,
  );
});
