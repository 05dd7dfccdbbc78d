import path from 'node:path';
import { type ClusterId, type DiskId, type NodeId, StorError } from '@stor/protocol';
import type { Files } from '@stor/runtime';
import { diskFormatVersion } from '../core/store/format.ts';

/** Content of `disk.json`: whose disk this is. Written before everything else. */
export interface DiskIdentity {
  kind: 'stor-disk';
  formatVersion: number;
  clusterId: ClusterId;
  nodeId: NodeId;
  diskId: DiskId;
}

export const identityName = 'disk.json';
const temporaryName = 'disk.json.new';
const maxIdentityBytes = 4096;
/** What a fresh file system, or an interrupted first start, may hold. */
const harmlessNames = new Set(['lost+found', temporaryName]);

/** The identity in the directory, or null when there is none. Throws FOREIGN_DATA. */
export function readIdentity(files: Files, directory: string): DiskIdentity | null {
  const file = path.join(directory, identityName);
  if (!files.exists(file)) return null;
  const opened = files.open(file);
  const bytes = new Uint8Array(maxIdentityBytes);
  let length: number;
  try {
    length = opened.readSync(bytes, 0, maxIdentityBytes, 0);
  } finally {
    opened.close();
  }
  let identity: Partial<DiskIdentity>;
  try {
    identity = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length))) as DiskIdentity;
  } catch (cause) {
    throw new StorError('FOREIGN_DATA', `${file} cannot be read: it is no JSON`, { cause });
  }
  const { kind, formatVersion, clusterId, nodeId, diskId } = identity;
  if (kind !== 'stor-disk' || typeof formatVersion !== 'number') {
    throw new StorError('FOREIGN_DATA', `${file} is not the identity of a Stor disk`);
  }
  if (formatVersion > diskFormatVersion) {
    throw new StorError(
      'FOREIGN_DATA',
      `disk ${directory} has format ${formatVersion}, this version of Stor reads up to ${diskFormatVersion}: start the newer version that wrote it`,
    );
  }
  if (!clusterId || !nodeId || !diskId) {
    throw new StorError('FOREIGN_DATA', `${file} lacks the cluster's, node's or disk's id`);
  }
  return { kind, formatVersion, clusterId, nodeId, diskId };
}

/** Refuses a disk that belongs to somebody else. */
export function checkIdentity(
  directory: string,
  identity: DiskIdentity,
  expect: { clusterId: ClusterId; nodeId: NodeId },
): void {
  if (identity.clusterId !== expect.clusterId) {
    throw new StorError(
      'FOREIGN_DATA',
      `disk ${directory} belongs to cluster ${identity.clusterId}, this node to ${expect.clusterId}: give this node an empty directory, or start the agent of that cluster`,
    );
  }
  if (identity.nodeId !== expect.nodeId) {
    throw new StorError(
      'FOREIGN_DATA',
      `disk ${directory} belongs to node ${identity.nodeId}, this is node ${expect.nodeId}: give this node an empty directory, or start the agent of that node`,
    );
  }
}

/** Throws FOREIGN_DATA when the directory holds anything that is not ours to overwrite. */
export function checkEmpty(files: Files, directory: string): void {
  const found = files
    .list(directory)
    .filter((name) => !harmlessNames.has(name) && !name.startsWith('lock.'));
  if (found.length === 0) return;
  throw new StorError(
    'FOREIGN_DATA',
    `directory ${directory} is not empty (${found.slice(0, 3).join(', ')}) and is no Stor disk: give an empty directory`,
  );
}

/** Makes an empty directory a disk. Throws FOREIGN_DATA when it is not empty. */
export function writeIdentity(files: Files, directory: string, identity: DiskIdentity): void {
  checkEmpty(files, directory);
  putIdentity(files, directory, identity);
}

/**
 * Says that this version has been here, before it changes anything else: from then on an older
 * one, which would not understand the rest, refuses the disk.
 */
export function raiseFormat(files: Files, directory: string, identity: DiskIdentity): void {
  if (identity.formatVersion >= diskFormatVersion) return;
  putIdentity(files, directory, { ...identity, formatVersion: diskFormatVersion });
}

function putIdentity(files: Files, directory: string, identity: DiskIdentity): void {
  const temporary = path.join(directory, temporaryName);
  files.remove(temporary);
  const file = files.create(temporary);
  try {
    const bytes = new TextEncoder().encode(`${JSON.stringify(identity, null, 2)}\n`);
    file.writeSync(bytes, 0, bytes.length, 0);
    file.datasyncSync();
  } finally {
    file.close();
  }
  files.rename(temporary, path.join(directory, identityName));
  files.syncDirectory(directory);
}
