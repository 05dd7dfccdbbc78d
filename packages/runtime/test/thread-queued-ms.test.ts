import fs from 'node:fs';
import t from 'tap';
import { threadQueuedMs } from '../src/index.ts';

t.test('it is what the kernel says of this thread', async (t) => {
  const queuedMs = threadQueuedMs();
  if (!fs.existsSync('/proc/thread-self/schedstat')) {
    t.equal(queuedMs, null, 'a kernel that does not count');
    return;
  }
  const own = fs.readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ')[1];
  if (queuedMs === null) throw new Error('it was not read');
  t.ok(queuedMs >= 0 && queuedMs <= Number(own) / 1e6, `${queuedMs} ms, ${own} ns a moment later`);
  const again = threadQueuedMs();
  t.ok(again !== null && again >= queuedMs, 'and never less');
});
