import { StorError } from '@stor/protocol';
import type { KeyValue } from '../../cluster-store.ts';
import { isBackedUp } from './raise-epochs.ts';

const format = 'stor-cluster-backup';
const version = 1;

export interface BackupHead {
  clusterId: string;
  clusterName: string;
  revision: number;
  takenAtMs: number;
}

/** Lines of JSON: the head, one for each key, and the number of keys, so that a cut file is noticed. */
export function encodeBackup(head: BackupHead, items: readonly KeyValue[]): string {
  const lines = items.map(({ key, value }) => {
    return JSON.stringify({ key, value: Buffer.from(value).toString('base64') });
  });
  const first = JSON.stringify({ format, version, ...head });
  return [first, ...lines, JSON.stringify({ items: items.length })].join('\n') + '\n';
}

/** INVALID_ARGUMENT when the text is no backup, of a newer version, or cut off. */
export function decodeBackup(text: string): { head: BackupHead; items: KeyValue[] } {
  const refuse = (why: string): never => {
    throw new StorError('INVALID_ARGUMENT', `this is no usable backup of a cluster: ${why}`);
  };
  const lines = text.split('\n').filter((line) => line !== '');
  const parsed = lines.map((line, at): Record<string, unknown> => {
    try {
      return JSON.parse(line) as Record<string, unknown>;
    } catch {
      return refuse(`line ${at + 1} is not JSON`);
    }
  });
  const [head, ...rest] = parsed;
  if (head?.['format'] !== format) return refuse('it has no head');
  if (head['version'] !== version) return refuse(`it is of version ${String(head['version'])}`);
  const end = rest.pop();
  if (end?.['items'] !== rest.length) return refuse('it is cut off');
  const items = rest.map((line, at): KeyValue => {
    const { key, value } = line;
    if (typeof key !== 'string' || typeof value !== 'string') return refuse(`item ${at + 1}`);
    const bytes = new Uint8Array(Buffer.from(value, 'base64'));
    return { key, value: bytes, createRevision: 1, modRevision: 1, leaseId: '' };
  });
  const { clusterId, clusterName, revision, takenAtMs } = head as unknown as BackupHead;
  // an older one may hold more
  return { head: { clusterId, clusterName, revision, takenAtMs }, items: items.filter(isBackedUp) };
}
