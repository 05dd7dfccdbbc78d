import { NbdError } from '../nbd-error.ts';

/** A TLS server must take names and keys of this size (RFC 4279); longer ones some do not (bytes). */
const maxIdentityBytes = 128;
const maxKeyBytes = 64;
/** A shorter key could be guessed (bytes). */
const minKeyBytes = 16;
/** A file of more is no file of keys (bytes). */
export const maxPskFileBytes = 1024 * 1024;

/**
 * Reads pre-shared keys as `psktool` writes them: a line `NAME:HEX` for each, in the order of the file;
 * a name that begins with `#` is in hexadecimal. Throws INVALID_ARGUMENT, with the number of the line
 * and never the key; `where` names the file.
 */
export function parsePskFile(text: string, where: string): Map<string, Uint8Array> {
  const keys = new Map<string, Uint8Array>();
  for (const [at, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const bad = (why: string): NbdError =>
      new NbdError('INVALID_ARGUMENT', `${where}, line ${at + 1}: ${why}`);
    const colon = line.lastIndexOf(':');
    if (colon <= 0) throw bad('write NAME:HEX, as psktool does');
    const name = readName(line.slice(0, colon));
    const hex = line.slice(colon + 1).trim();
    if (name === null || Buffer.byteLength(name) > maxIdentityBytes) {
      throw bad(`the name is not one of 1 to ${maxIdentityBytes} bytes`);
    }
    const isHex = /^(?:[0-9a-fA-F]{2})+$/.test(hex);
    const bytes = hex.length / 2;
    if (!isHex || bytes < minKeyBytes || bytes > maxKeyBytes) {
      throw bad(`the key is not ${minKeyBytes} to ${maxKeyBytes} bytes in hexadecimal`);
    }
    if (keys.has(name)) throw bad(`a second key for ${JSON.stringify(name)}`);
    keys.set(name, new Uint8Array(Buffer.from(hex, 'hex')));
  }
  if (keys.size === 0) throw new NbdError('INVALID_ARGUMENT', `${where} has no key`);
  return keys;
}

function readName(text: string): string | null {
  if (!text.startsWith('#')) return text;
  const hex = text.slice(1);
  return /^(?:[0-9a-fA-F]{2})+$/.test(hex) ? Buffer.from(hex, 'hex').toString('utf8') : null;
}
