// One holder at a time on this machine, for scripts that install, build or start agents.
//
// The lock is a listening socket in Linux' abstract namespace: the kernel frees it when the holder
// dies, however it dies, so there is never a stale lock file to judge.

import { createHash } from 'node:crypto';
import { createServer } from 'node:net';

const retryMs = 100;

/**
 * Runs `work` while holding the lock `name` of the checkout at `root`.
 *
 * @template T
 * @param {{ root: string, name: string, waitMs: number, onWait?: () => void }} options
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function withLock({ root, name, waitMs, onWait }, work) {
  // Elsewhere than on Linux there are no agents either; a build by hand goes without the lock.
  if (process.platform !== 'linux') return work();
  const hash = createHash('sha256').update(root).digest('hex').slice(0, 16);
  const address = `\0stor-${name}-${process.getuid?.() ?? 0}-${hash}`;
  const deadline = performance.now() + waitMs;
  let server = await tryListen(address);
  if (server === null) onWait?.();
  while (server === null) {
    if (performance.now() > deadline) {
      throw new Error(
        `another "${name}" of ${root} has been running for more than ${waitMs / 1000} s: wait for it or end it`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, retryMs));
    server = await tryListen(address);
  }
  try {
    return await work();
  } finally {
    server.close();
  }
}

function tryListen(address) {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', (error) => {
      if (error.code === 'EADDRINUSE') resolve(null);
      else reject(error);
    });
    server.listen(address, () => {
      // The lock must not keep a process alive that has nothing else to do.
      server.unref();
      resolve(server);
    });
  });
}
