import { StorError, type ErrorCode } from '@stor/protocol';
import { NbdClient, NbdError, ReconnectingNbdClient, errno, optionReplyType } from 'nbd-client-js';
import type { NbdOpener, NbdSession } from './nbd-session.ts';

const connectTimeoutMs = 15_000;
const tlsHint = 'see --tls-certificates and --tls-psk-file';
/**
 * How long a transfer waits for another node when one is lost (ms). A node that dies silently is
 * noticed within 5 s; its node lease runs out 6 s after its last renewal and the next primary waits
 * out one replica lease of 3 s: this leaves time for an agent that is started again, too.
 */
const giveUpMs = 60_000;

/** Opens a session with nbd-client-js; `signal` ends the connection at any time. */
export const openNbdSession: NbdOpener = async (uri, { signal, otherUris, tls } = {}) => {
  const over = tls ? { tls } : {};
  const abortable = signal ? { signal } : {};
  const client = await translated<NbdClient | ReconnectingNbdClient>(() =>
    otherUris === undefined
      ? NbdClient.connect({ uri, connectTimeoutMs, ...over, ...abortable })
      : ReconnectingNbdClient.connect({
          addresses: [uri, ...otherUris],
          giveUpMs,
          ...over,
          ...abortable,
        }),
  );
  const abort = (): void => void client.close();
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted === true) abort();
  const session: NbdSession = {
    sizeBytes: client.sizeBytes,
    read: (offset, length) => translated(() => client.read(offset, length)),
    write: (offset, bytes) => translated(() => client.write(offset, bytes)),
    writeZeroes: (offset, length) => translated(() => client.writeZeroes(offset, length)),
    flush: () => translated(() => client.flush()),
    blockStatus: (offset, length) => translated(() => client.blockStatus(offset, length)),
    close: async () => {
      signal?.removeEventListener('abort', abort);
      await client.disconnect();
    },
  };
  return session;
};

const codeOf: Readonly<Record<NbdError['code'], ErrorCode>> = {
  IO: 'DISK_FAILED',
  // the server's answer about the export, with its reason in the message
  REFUSED: 'FAILED_PRECONDITION',
  TLS: 'UNAUTHENTICATED',
  PROTOCOL: 'PROTOCOL',
  DISCONNECTED: 'UNAVAILABLE',
  ABORTED: 'ABORTED',
  TIMEOUT: 'UNAVAILABLE',
  INVALID_ARGUMENT: 'INVALID_ARGUMENT',
  OVERLOADED: 'INTERNAL',
};

async function translated<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof NbdError)) throw error;
    const code = error.errno === errno.ENOSPC ? 'NO_SPACE' : codeOf[error.code];
    const isTlsMissing = error.optionReply === optionReplyType.errTlsReqd || error.code === 'TLS';
    const hint = isTlsMissing ? ` (${tlsHint})` : '';
    throw new StorError(code, `${error.message}${hint}`, { cause: error });
  }
}
