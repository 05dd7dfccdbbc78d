import { createRequire } from 'node:module';
import type net from 'node:net';
import type koffi from 'koffi';

type SetOption = (fd: number, level: number, name: number, value: Buffer, length: number) => number;

let loaded: SetOption | null | undefined;

/** Null where there is no foreign function interface. */
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

/** Sets an option that Node has no call for. False: that cannot be done here, or the kernel refused. */
export function setSocketOption(
  socket: net.Socket,
  level: number,
  name: number,
  value: number,
): boolean {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: number } };
  const set = setOption();
  if (!set || handle?.fd === undefined || handle.fd < 0) return false;
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return set(handle.fd, level, name, bytes, bytes.length) === 0;
}
