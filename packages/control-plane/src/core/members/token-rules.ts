import { StorError } from '@stor/protocol';

/** What is kept of a token: never the secret itself. */
export interface TokenRecord {
  id: string;
  /** SHA-256 of the secret, hexadecimal */
  hash: string;
  createdAtMs: number;
  expiresAtMs: number;
  usesLeft: number;
  /** ids of the nodes that have joined with it */
  usedBy: string[];
}

/** A token is for nodes that are about to join, not for keeping (ms). */
export const defaultTokenMs = 3_600_000;
export const minTokenMs = 1_000;
export const maxTokenMs = 30 * 24 * 3_600_000;
export const maxTokenUses = 1_000;
/** One that is over is kept for so long, so that its next user is told why it is refused (ms). */
export const overTokenKeptMs = 24 * 3_600_000;
/** More at a time are a mistake. */
export const maxTokens = 1_000;

const secretPattern = /^([0-9a-f]{8})\.([0-9a-f]{48})$/;

export function tokenText(id: string, secret: string): string {
  return `${id}.${secret}`;
}

/** UNAUTHENTICATED when it is none of ours. */
export function splitToken(text: string): { id: string; secret: string } {
  const match = secretPattern.exec(text.trim());
  if (!match) throw unknownToken();
  return { id: match[1] ?? '', secret: match[2] ?? '' };
}

/** The same for one that never was and one with a wrong secret: nobody learns which ids there are. */
export function unknownToken(): StorError {
  return new StorError(
    'UNAUTHENTICATED',
    'the token is not one of this cluster: make one with "storctl token create"',
  );
}

/**
 * The token after this node has used it; null: it has used it before. Its secret was compared
 * already. UNAUTHENTICATED when it is over.
 */
export function usedToken(token: TokenRecord, nodeId: string, nowMs: number): TokenRecord | null {
  if (token.usedBy.includes(nodeId)) return null;
  if (token.usesLeft <= 0) {
    throw new StorError(
      'UNAUTHENTICATED',
      `token ${token.id} was used already, by ${token.usedBy.join(', ')}: make another one with "storctl token create"`,
    );
  }
  if (nowMs >= token.expiresAtMs) {
    throw new StorError(
      'UNAUTHENTICATED',
      `token ${token.id} expired ${Math.max(1, Math.round((nowMs - token.expiresAtMs) / 1000))} s ago: make another one with "storctl token create"`,
    );
  }
  return { ...token, usesLeft: token.usesLeft - 1, usedBy: [...token.usedBy, nodeId] };
}

/** INVALID_ARGUMENT. */
export function checkTokenWish(ttlMs: number, uses: number): void {
  if (!Number.isInteger(ttlMs) || ttlMs < minTokenMs || ttlMs > maxTokenMs) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `a token that lasts ${ttlMs} ms is not possible: 1s to 30d`,
    );
  }
  if (!Number.isInteger(uses) || uses < 1 || uses > maxTokenUses) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `a token for ${uses} nodes is not possible: 1 to ${maxTokenUses}`,
    );
  }
}
