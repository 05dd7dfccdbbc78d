import { createHash } from 'node:crypto';
import { readBackupText, writeBackupText, type BackupHead } from '@stor/protocol';
import type { KeyValue } from '../cluster-store.ts';
import { isBackedUp } from '../core/members/raise-epochs.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** See `writeBackupText`. */
export function encodeBackup(head: BackupHead, items: readonly KeyValue[]): string {
  const lines = items.map(({ key, value }) => {
    return { key, value: Buffer.from(value).toString('base64') };
  });
  return writeBackupText(head, lines, sha256);
}

/** INVALID_ARGUMENT when the text is no backup, of a newer version, cut off, or was changed. */
export function decodeBackup(text: string): { head: BackupHead; items: KeyValue[] } {
  const { head, lines } = readBackupText(text, sha256);
  const items = lines.map(({ key, value }): KeyValue => {
    const bytes = new Uint8Array(Buffer.from(value, 'base64'));
    return { key, value: bytes, createRevision: 1, modRevision: 1, leaseId: '' };
  });
  // an older one may hold more
  return { head, items: items.filter(isBackedUp) };
}
