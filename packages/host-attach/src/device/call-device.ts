import net from 'node:net';
import { StorError } from '@stor/protocol';
import { parseAnswer, type DeviceCall } from './device-messages.ts';
import type { DeviceState } from './device-processes.ts';
import { readLine } from './line-socket.ts';

/** Nobody listens at the socket, or there is none: its process has ended. */
const nobody: readonly (string | undefined)[] = ['ENOENT', 'ECONNREFUSED'];

/**
 * Asks a device process; null: there is none. UNAVAILABLE when it does not answer in time or ends
 * meanwhile, and the errors that it tells. Aborting tells the process that nobody waits any more.
 */
export async function callDevice(
  path: string,
  call: DeviceCall,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<DeviceState | null> {
  refuseAborted(signal, `asking the device process at ${path}`);
  const socket = net.connect({ path });
  let why: StorError | null = null;
  const refuseEnded = (): void => {
    if (why) throw why;
  };
  const end = (reason: StorError): void => {
    why ??= reason;
    socket.destroy();
  };
  const timer = setTimeout(() => {
    end(new StorError('UNAVAILABLE', `the device process at ${path} does not answer`));
  }, timeoutMs);
  const onAbort = (): void => end(new StorError('ABORTED', `${call.call} was aborted`));
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    const failure = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
      socket.once('error', resolve);
      socket.once('connect', () => resolve(null));
      socket.once('close', () => resolve(null));
    });
    refuseEnded();
    if (failure) {
      if (nobody.includes(failure.code)) return null;
      const text = `the device process at ${path} cannot be asked: ${failure.message}`;
      throw new StorError('UNAVAILABLE', text, { cause: failure });
    }
    socket.on('error', () => {});
    const answer = readLine(socket);
    socket.write(`${JSON.stringify(call)}\n`);
    const line = await answer;
    refuseEnded();
    if (line === null) {
      throw new StorError('UNAVAILABLE', `the device process at ${path} ended without an answer`);
    }
    return parseAnswer(line);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    socket.destroy();
  }
}

/** Throws ABORTED. */
export function refuseAborted(signal: AbortSignal, what: string): void {
  if (!signal.aborted) return;
  throw new StorError('ABORTED', `${what} was aborted`, { cause: signal.reason });
}
