import { blockBytes, formatByteSize, maxVolumeBytes } from '@stor/protocol';
import type { FileSystem } from '@stor/host-attach';
import type { CapacityRange } from '../messages.ts';
import { csiError } from './csi-error.ts';
import { defaultVolumeBytes } from './driver-info.ts';

/** What mkfs of each file system needs at least (bytes). */
const leastFileSystemBytes: Readonly<Record<FileSystem, number>> = {
  ext4: 4 * 2 ** 20,
  xfs: 300 * 2 ** 20,
};

/** Least size of a volume, with a file system or without (bytes). */
export function leastBytes(fileSystem: FileSystem | null): number {
  return fileSystem === null ? blockBytes : leastFileSystemBytes[fileSystem];
}

const roundedUp = (bytes: number): number => Math.ceil(bytes / blockBytes) * blockBytes;

/**
 * Size of a new volume: what is asked for, in whole blocks, and never less than its source or its file
 * system needs. OUT_OF_RANGE when no such size is within the range.
 */
export function newSize(
  range: CapacityRange | null,
  needs: { fileSystem: FileSystem | null; sourceBytes: number },
): number {
  const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
  const least = Math.max(leastBytes(needs.fileSystem), needs.sourceBytes);
  const usual = needs.sourceBytes > 0 ? needs.sourceBytes : defaultVolumeBytes;
  const wanted = requiredBytes > 0 ? requiredBytes : Math.min(usual, limitBytes || usual);
  const sizeBytes = roundedUp(Math.max(wanted, least));
  checkLimit(sizeBytes, limitBytes);
  return sizeBytes;
}

/** Size after an expansion; the present one when that is enough. OUT_OF_RANGE. */
export function grownSize(range: CapacityRange, presentBytes: number): number {
  const sizeBytes = Math.max(presentBytes, roundedUp(range.requiredBytes));
  checkLimit(sizeBytes, range.limitBytes);
  return sizeBytes;
}

function checkLimit(sizeBytes: number, limitBytes: number): void {
  if (sizeBytes > maxVolumeBytes) {
    throw csiError(
      'OUT_OF_RANGE',
      `a volume has at most ${formatByteSize(maxVolumeBytes)}: less must be asked for`,
    );
  }
  if (limitBytes > 0 && sizeBytes > limitBytes) {
    throw csiError(
      'OUT_OF_RANGE',
      `the volume would have ${sizeBytes} bytes, and limit_bytes is ${limitBytes}: sizes are multiples of ${blockBytes} bytes, and no smaller than the file system and the source need`,
    );
  }
}

/** Why a volume of this size is not what is asked for; '' when it is. */
export function sizeMismatch(range: CapacityRange | null, sizeBytes: number): string {
  const { requiredBytes, limitBytes } = range ?? { requiredBytes: 0, limitBytes: 0 };
  if (sizeBytes < requiredBytes)
    return `it has ${sizeBytes} bytes, and ${requiredBytes} are wanted`;
  if (limitBytes > 0 && sizeBytes > limitBytes) {
    return `it has ${sizeBytes} bytes, and at most ${limitBytes} are wanted`;
  }
  return '';
}
