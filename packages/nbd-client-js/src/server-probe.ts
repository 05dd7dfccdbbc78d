import net from 'node:net';
import type { NbdClock } from './nbd-clock.ts';
import type { NbdAddress } from './nbd-uri.ts';

/**
 * Whether a process serves at that address: it greets, or at least closes the connection itself,
 * within `timeoutMs`. A host that is gone does not answer, and of a stopped process only the kernel
 * accepts. True when `signal` aborts: nothing is known then. Never rejects.
 */
export function probeServer(
  address: NbdAddress,
  timeoutMs: number,
  clock: NbdClock,
  signal: AbortSignal,
): Promise<boolean> {
  if (signal.aborted) return Promise.resolve(true);
  return new Promise((resolve) => {
    const socket = net.connect({ ...address });
    let isAlive = true;
    const end = (): void => {
      socket.destroy();
    };
    const dead = (): void => {
      isAlive = false;
      end();
    };
    const cancelTimer = clock.after(timeoutMs, dead);
    signal.addEventListener('abort', end, { once: true });
    socket.once('data', end);
    socket.once('end', end);
    socket.once('error', dead);
    socket.once('close', () => {
      cancelTimer();
      signal.removeEventListener('abort', end);
      resolve(isAlive);
    });
  });
}
