import { StorError } from '@stor/protocol';
import { fileSystems, type FileSystem } from '../host-volumes.ts';

/** What was found on a block device. */
export interface DeviceContent {
  /** of the file system; null: none */
  fileSystem: string | null;
  /** everything with a signature, in words: `a signature of swap` */
  signatures: readonly string[];
}

export interface ContentOrder {
  volume: string;
  /** of the block device */
  path: string;
  /** which one is wanted; absent: whichever there is, else ext4 */
  fileSystem?: FileSystem;
  /** nothing can be written: neither the device nor the mount */
  readOnly: boolean;
}

/** What becomes of a device that is to be mounted. */
export type ContentVerdict =
  | { type: 'mount'; fileSystem: FileSystem }
  /** only if the volume holds no data at all: see `refuseData` */
  | { type: 'format'; fileSystem: FileSystem };

/** FOREIGN_DATA says what is there; FAILED_PRECONDITION: there is nothing, and nothing may be made. */
export function judgeContent(content: DeviceContent, order: ContentOrder): ContentVerdict {
  const { volume, path, fileSystem: wanted, readOnly } = order;
  const { fileSystem, signatures } = content;
  const known = fileSystems.find((each) => each === fileSystem);
  if (known !== undefined) {
    if (wanted === undefined || wanted === known) return { type: 'mount', fileSystem: known };
    throw new StorError(
      'FOREIGN_DATA',
      `volume ${volume} carries a file system of kind ${known}, not ${wanted}, and is not formatted again: mount it as ${known}, or use another volume`,
    );
  }
  const found = fileSystem === null ? signatures : [`a file system of kind ${fileSystem}`];
  if (found.length > 0) {
    throw new StorError(
      'FOREIGN_DATA',
      `volume ${volume} carries ${found.join(' and ')}, so it is not formatted: ${wipeAdvice(path)}`,
    );
  }
  if (readOnly) {
    throw new StorError(
      'FAILED_PRECONDITION',
      `volume ${volume} has no file system, and is to be mounted read-only: mount it once for writing`,
    );
  }
  return { type: 'format', fileSystem: wanted ?? 'ext4' };
}

/** FOREIGN_DATA: there is no signature, and yet something was written. */
export function refuseData(volume: string, path: string): StorError {
  return new StorError(
    'FOREIGN_DATA',
    `volume ${volume} has no file system that is known, but holds data, so it is not formatted: ${wipeAdvice(path)}`,
  );
}

function wipeAdvice(path: string): string {
  return `mount another volume; if nobody needs what is on it, attach it as a device and run "blkdiscard -f ${path}" first`;
}
