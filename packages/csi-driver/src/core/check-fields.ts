import type { CapacityRange, Texts } from '../messages.ts';
import { csiError } from './csi-error.ts';

/** Characters of a name: the specification asks for 128 bytes, and we take so many of any script. */
export const maxNameChars = 128;
/** Bytes of a map, counted over its keys and values, and of all mount flags together. */
export const maxMapBytes = 4 * 1024;
/** What Linux takes (PATH_MAX without its end). */
const maxPathBytes = 4_095;
const maxIdBytes = 256;

// control characters that the specification bans; tab, line feed and carriage return are none of them
const bannedCharacters = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/u;

/** INVALID_ARGUMENT unless it may name what is to be made. */
export function checkName(name: string): string {
  if (name === '') throw missing('name');
  if ([...name].length > maxNameChars) {
    throw invalid(`name of ${[...name].length} characters: it may have ${maxNameChars}`);
  }
  if (bannedCharacters.test(name)) {
    throw invalid(`name ${JSON.stringify(name)} has control characters, which no name may have`);
  }
  return name;
}

/** INVALID_ARGUMENT unless something is there that may be an id. */
export function checkId(field: string, id: string): string {
  if (id === '') throw missing(field);
  if (byteLength(id) > maxIdBytes) throw invalid(`${field} is longer than ${maxIdBytes} bytes`);
  return id;
}

/** INVALID_ARGUMENT unless it is an absolute path; without slashes at its end. */
export function checkPath(field: string, path: string): string {
  if (path === '') throw missing(field);
  if (!path.startsWith('/')) throw invalid(`${field} ${JSON.stringify(path)} is not absolute`);
  if (byteLength(path) > maxPathBytes || path.includes('\0')) {
    throw invalid(`${field} is no path: it is too long, or has a zero byte`);
  }
  if (path.split('/').some((part) => part === '..' || part === '.')) {
    throw invalid(`${field} ${JSON.stringify(path)} has "." or "..": name it without them`);
  }
  const trimmed = path.replace(/\/+$/, '').replaceAll(/\/{2,}/g, '/');
  if (trimmed === '') throw invalid(`${field} is the root folder, where nothing is mounted`);
  return trimmed;
}

/** INVALID_ARGUMENT when it is larger than the specification lets it be. */
export function checkMap(field: string, map: Texts): Texts {
  const bytes = Object.entries(map).reduce(
    (sum, [key, value]) => sum + byteLength(key) + byteLength(value),
    0,
  );
  if (bytes > maxMapBytes) throw invalid(`${field} has ${bytes} bytes: it may have ${maxMapBytes}`);
  return map;
}

/** INVALID_ARGUMENT when it contradicts itself. Null: nothing is asked for. */
export function checkRange(range: CapacityRange | null): CapacityRange | null {
  if (!range) return null;
  const { requiredBytes, limitBytes } = range;
  if (requiredBytes < 0 || limitBytes < 0) throw invalid('capacity_range is negative');
  if (requiredBytes === 0 && limitBytes === 0) return null;
  if (limitBytes > 0 && requiredBytes > limitBytes) {
    throw invalid(`capacity_range asks for ${requiredBytes} bytes of at most ${limitBytes}`);
  }
  return { requiredBytes, limitBytes };
}

export function missing(field: string): Error {
  return csiError('INVALID_ARGUMENT', `${field} is missing: the call needs it`);
}

export function invalid(message: string): Error {
  return csiError('INVALID_ARGUMENT', message);
}

/** Bytes of the text in UTF-8. */
export function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}
