import { createRequire } from 'node:module';
import type koffi from 'koffi';

/** AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC (linux/socket.h, linux/net.h) */
const unixStream = [1, 1 | 0o2000000, 0] as const;

type SocketPair = (domain: number, type: number, protocol: number, fds: Int32Array) => number;

let loaded: { socketpair: SocketPair; errno: () => number } | null = null;

/**
 * Two descriptors of sockets that are connected to each other; both are the caller's to close. Node has
 * none. Throws without a foreign function interface, and when no descriptor is left.
 */
export function openSocketPair(): [number, number] {
  if (!loaded) {
    const ffi = createRequire(import.meta.url)('koffi') as typeof koffi;
    const libc = ffi.load('libc.so.6');
    loaded = {
      socketpair: libc.func('int socketpair(int domain, int type, int protocol, void *fds)'),
      errno: () => ffi.errno(),
    };
  }
  const fds = new Int32Array(2);
  if (loaded.socketpair(...unixStream, fds) !== 0) {
    throw new Error(`a pair of sockets: errno ${loaded.errno()}`);
  }
  return [fds[0] ?? -1, fds[1] ?? -1];
}
