import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readNow, whenReadable } from '../src/index.ts';

const { O_RDWR, O_NONBLOCK } = fs.constants;
/** None of what is waited for takes as long (ms). */
const longMs = 60_000;

t.test('what is there is read at once, and what comes is waited for in a thread', async (t) => {
  const path = join(t.testdir(), 'pipe');
  execFileSync('mkfifo', [path]);
  const fd = fs.openSync(path, O_RDWR | O_NONBLOCK);
  t.teardown(() => fs.closeSync(fd));
  const target = Buffer.alloc(100);
  t.equal(readNow(fd, target), 'EAGAIN');
  let isReadable = false;
  const waited = new Promise<void>((resolve) => {
    whenReadable(fd, longMs, () => {
      isReadable = true;
      resolve();
    });
  });
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(isReadable, false);
  fs.writeSync(fd, 'here');
  await waited;
  t.equal(readNow(fd, target), 4);
  t.equal(target.toString('utf8', 0, 4), 'here');
  t.equal(readNow(fd, target), 'EAGAIN');
  await new Promise<void>((resolve) => whenReadable(fd, 1, resolve));
  t.equal(readNow(fd, target), 'EAGAIN', 'nothing came in time');
  t.match(readNow(-1, target), /errno 9|EBADF/);
});
