import { StorError } from '@stor/protocol';
import { fileSystems, type MountOrder } from '../host-volumes.ts';

/** Bounds of what goes to mount(8) and mkfs(8) (how many, and characters of each). */
const maxOptions = 32;
const maxOptionChars = 256;
/** As the kernel bounds a path (PATH_MAX, bytes). */
const maxTargetBytes = 4095;
/** A volume that lies over one of these, or over something below it, takes the host's own programs away. */
const systemFolders =
  /^\/+((bin|boot|dev|etc|lib|lib32|lib64|libx32|proc|sbin|sys|usr\/+(bin|lib|lib64|sbin))(\/|$)|(run|usr|var)\/*$)/;

/** INVALID_ARGUMENT unless the order can be given to mount(8) as it is. */
export function checkMountOrder(order: MountOrder): void {
  const { target, fileSystem, options = [], formatOptions = [] } = order;
  checkTarget(target);
  if (fileSystem !== undefined && !fileSystems.includes(fileSystem)) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `file system ${JSON.stringify(fileSystem)} is none that is known: use ${fileSystems.join(' or ')}`,
    );
  }
  checkList('mount option', options, /^[^\s,\0]+$/u);
  checkList('mkfs argument', formatOptions, /^[^\0\n]+$/u);
  const other = formatOptions.find((word) => word.includes('/dev/'));
  if (other !== undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `mkfs argument ${JSON.stringify(other)} names another device: only the volume itself is formatted`,
    );
  }
  const mode = options.find((option) => ['ro', 'rw', 'remount', 'bind'].includes(option));
  if (mode !== undefined) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${JSON.stringify(mode)} is not among the mount options: say whether it is read-only`,
    );
  }
}

/** INVALID_ARGUMENT unless it is absolute, and neither the root itself nor the system's. */
export function checkTarget(target: string): void {
  const problem = ((): string | null => {
    if (!target.startsWith('/')) return 'it is not absolute';
    if (/[\0\n]/.test(target)) return 'it has a line break or a zero in it';
    if (new TextEncoder().encode(target).length > maxTargetBytes) return 'it is too long';
    if (target.split('/').some((part) => part === '..')) return 'it goes upwards by ".."';
    if (/^\/+$/.test(target)) return 'it is the root of the host';
    if (systemFolders.test(target)) return 'it is a folder of the operating system';
    return null;
  })();
  if (problem === null) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `target ${JSON.stringify(target.slice(0, 200))} is not valid: ${problem}; give the full path of a directory, for example /mnt/db`,
  );
}

function checkList(what: string, words: readonly string[], pattern: RegExp): void {
  if (words.length > maxOptions) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `${words.length} of them: at most ${maxOptions} ${what}s`,
    );
  }
  const bad = words.find((word) => word.length > maxOptionChars || !pattern.test(word));
  if (bad === undefined) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `${what} ${JSON.stringify(bad.slice(0, maxOptionChars))} is not valid: give each one by itself, without blanks and commas`,
  );
}

/** The same options, in the same order. */
export function sameOptions(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((option, index) => option === other[index]);
}
