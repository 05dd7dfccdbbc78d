import { createRequire } from 'node:module';
import type net from 'node:net';
import type koffi from 'koffi';

/** IPPROTO_TCP and TCP_USER_TIMEOUT (linux/tcp.h) */
const tcpLevel = 6;
const userTimeout = 18;

type SetOption = (fd: number, level: number, name: number, value: Buffer, length: number) => number;

let loaded: SetOption | null | undefined;

/** Null where there is no foreign function interface: the kernel's own time holds then. */
function setOption(): SetOption | null {
  if (loaded !== undefined) return loaded;
  try {
    const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
    loaded = ffi
      .load('libc.so.6')
      .func('int setsockopt(int fd, int level, int name, const void *value, uint32_t length)');
  } catch {
    loaded = null;
  }
  return loaded;
}

/**
 * Data that the other host does not acknowledge for so long end the connection. Keepalive does not see
 * to that: while there are such data the kernel only sends them again, for about a quarter of an hour. Node
 * has no call for it. False: it could not be set, or the socket is no TCP.
 */
export function setUserTimeout(socket: net.Socket, ms: number): boolean {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: number } };
  const set = setOption();
  if (!set || handle?.fd === undefined || handle.fd < 0 || socket.remoteAddress === undefined) {
    return false;
  }
  const value = Buffer.alloc(4);
  value.writeInt32LE(ms);
  return set(handle.fd, tcpLevel, userTimeout, value, value.length) === 0;
}
