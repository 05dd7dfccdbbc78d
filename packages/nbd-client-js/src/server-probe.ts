import { systemClock } from './nbd-clock.ts';
import type { NbdClock } from './nbd-clock.ts';
import { systemNetwork } from './nbd-network.ts';
import type { NbdNetwork } from './nbd-network.ts';
import type { NbdAddress } from './nbd-uri.ts';

/** A greeting is 18 bytes; nothing more is asked for. */
const receiveBytes = 4096;

export interface ProbeOptions {
  timeoutMs: number;
  signal: AbortSignal;
  /** the host's unless given */
  clock?: NbdClock;
  network?: NbdNetwork;
}

/**
 * Whether a process serves at that address: it greets, or at least closes the connection itself,
 * within `timeoutMs`. A host that is gone does not answer, and of a stopped process only the kernel
 * accepts. True when `signal` aborts: nothing is known then. Never rejects.
 */
export async function probeServer(address: NbdAddress, options: ProbeOptions): Promise<boolean> {
  const { timeoutMs, signal, clock = systemClock, network = systemNetwork } = options;
  if (signal.aborted) return true;
  let isAlive = true;
  const stop = new AbortController();
  const end = (): void => {
    stop.abort();
  };
  const cancelTimer = clock.after(timeoutMs, () => {
    isAlive = false;
    end();
  });
  signal.addEventListener('abort', end, { once: true });
  try {
    const sizes = { receiveBytes, maxReceiveBytes: receiveBytes };
    const socket = await network.connect(address, { ...sizes, signal: stop.signal });
    await new Promise<void>((resolve) => {
      socket.onData = (_bytes, start, until) => {
        socket.destroy();
        return until - start;
      };
      socket.onClose = (error) => {
        if (error && !stop.signal.aborted) isAlive = false;
        resolve();
      };
      stop.signal.addEventListener('abort', () => socket.destroy(), { once: true });
      if (stop.signal.aborted) socket.destroy();
    });
  } catch {
    if (!signal.aborted) isAlive = false;
  } finally {
    cancelTimer();
    signal.removeEventListener('abort', end);
  }
  return isAlive;
}
