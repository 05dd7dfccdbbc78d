import { StorError } from './errors.ts';

const format = 'stor-cluster-backup';
const version = 1;

export interface BackupHead {
  clusterId: string;
  clusterName: string;
  revision: number;
  takenAtMs: number;
}

/** One key; `value` in base64. */
export interface BackupLine {
  key: string;
  value: string;
}

/** SHA-256 of a text in UTF-8, in hexadecimal digits. */
export type Sha256 = (text: string) => string;

/**
 * Lines of JSON: the head, one for each key, and the end with the number of keys and the sum of all
 * lines before it, so that a file that was cut or changed is noticed.
 */
export function writeBackupText(
  head: BackupHead,
  lines: readonly BackupLine[],
  sha256?: Sha256,
): string {
  const first = JSON.stringify({ format, version, ...head });
  const body = [first, ...lines.map((line) => JSON.stringify(line))].join('\n') + '\n';
  const sum = sha256 ? { sha256: sha256(body) } : {};
  return `${body}${JSON.stringify({ items: lines.length, ...sum })}\n`;
}

/**
 * INVALID_ARGUMENT when the text is no backup, of a newer version, cut off, or was changed. `hasSum`
 * false: it was written before backups had one.
 */
export function readBackupText(
  text: string,
  sha256: Sha256,
): { head: BackupHead; lines: BackupLine[]; hasSum: boolean } {
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
  const sum = end['sha256'];
  if (sum !== undefined && sum !== sha256(lines.slice(0, -1).join('\n') + '\n')) {
    return refuse('its SHA-256 is wrong, so it was changed or damaged after it was written');
  }
  const found = rest.map((line, at): BackupLine => {
    const { key, value } = line;
    if (typeof key !== 'string' || typeof value !== 'string') return refuse(`item ${at + 1}`);
    return { key, value };
  });
  const { clusterId, clusterName, revision, takenAtMs } = head as unknown as BackupHead;
  return {
    head: { clusterId, clusterName, revision, takenAtMs },
    lines: found,
    hasSum: sum !== undefined,
  };
}
