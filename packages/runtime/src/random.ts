import { randomBytes } from 'node:crypto';

/** Chance as an argument. */
export interface Random {
  /** uniform in [0, 1) */
  next(): number;
  bytes(length: number): Uint8Array;
}

export const systemRandom: Random = {
  next: () => randomBytes(6).readUIntBE(0, 6) / 2 ** 48,
  bytes: (length) => randomBytes(length),
};
