import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import { diskFileName } from '../core/fuse-disk.ts';

/** What a device has in its folder; all but the log goes with it. */
export interface DeviceFiles {
  dir: string;
  controlSocket: string;
  log: string;
  /** which process it is */
  record: string;
  spec: string;
  mountPoint: string;
  /** the volume as a file, below the mount point */
  disk: string;
}

/** Of a socket's path, with the zero at its end (bytes, linux/un.h). */
const mostSocketPathBytes = 108;

/** Throws INVALID_ARGUMENT. */
export function checkDeviceId(id: string): void {
  if (/^[a-z0-9-]{1,32}$/.test(id)) return;
  const text = `${JSON.stringify(id)} is no id of a device: write 1 to 32 of a-z, 0-9 and -`;
  throw new StorError('INVALID_ARGUMENT', text);
}

/** Throws INVALID_ARGUMENT for an id that is none, or a folder too far down. */
export function deviceFiles(id: string, dir: string): DeviceFiles {
  checkDeviceId(id);
  if (!dir.startsWith('/')) {
    throw new StorError('INVALID_ARGUMENT', `the folder ${JSON.stringify(dir)} is not absolute`);
  }
  const controlSocket = join(dir, `${id}.sock`);
  if (Buffer.byteLength(controlSocket) >= mostSocketPathBytes) {
    const text = `${controlSocket} is too long for a socket (at most ${mostSocketPathBytes - 1} bytes): use a data folder with a shorter path`;
    throw new StorError('INVALID_ARGUMENT', text);
  }
  const mountPoint = join(dir, `${id}.fuse`);
  return {
    dir,
    controlSocket,
    log: join(dir, `${id}.log`),
    record: join(dir, `${id}.process.json`),
    spec: join(dir, `${id}.spec.json`),
    mountPoint,
    disk: join(mountPoint, diskFileName),
  };
}
