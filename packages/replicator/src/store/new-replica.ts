import path from 'node:path';
import { type ReplicaId, type SnapshotId, StorError } from '@stor/protocol';
import type { Files } from '@stor/runtime';
import { regionPagesOf } from '../core/store/replica-tables.ts';
import { pagePairBytes } from '../core/store/table-page.ts';
import type { ReplicaIdentity } from '../replica-store.ts';
import type { DiskMembers, Home } from './disk-members.ts';
import type { IoPool } from './io-pool.ts';
import { makeLineageDirectory, newLineagePages } from './lineage-directory.ts';
import { creatingSuffix, makeReplicaDirectory, removeDirectoryOf } from './replica-directory.ts';
import type { SpaceAccount } from './space-account.ts';

/** Where a new replica is to live. */
export interface Origin {
  lineage: number;
  folder: string;
  /** null: a lineage of its own */
  home: Home | null;
  /** Place of the layer that it grows from, 0: none. Throws when the snapshot has gone meanwhile. */
  parent(): number;
}

/** Of a clone: the lineage of its source. NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT. */
export function cloneOrigin(
  members: DiskMembers,
  isDeleting: (id: ReplicaId) => boolean,
  identity: ReplicaIdentity,
  of: { replicaId: ReplicaId; snapshotId: SnapshotId },
): Origin {
  const find = (): { home: Home; place: number; sizeBytes: number } => {
    const source = isDeleting(of.replicaId) ? undefined : members.all.get(of.replicaId);
    if (!source) {
      throw new StorError('NOT_FOUND', `there is no replica ${of.replicaId} here to clone`);
    }
    if (source.failure.error) throw source.failure.error;
    const { home, replica } = source;
    const layer = home.lineage.tables.plannedSnapshot(replica.tables.number, of.snapshotId);
    if (!layer) {
      const what = `replica ${of.replicaId} has no snapshot ${of.snapshotId} to clone`;
      throw new StorError('NOT_FOUND', what);
    }
    if (layer.state !== 'ready') {
      const what = `snapshot ${of.snapshotId} of replica ${of.replicaId} is ${layer.state}: wait until it is ready`;
      throw new StorError('FAILED_PRECONDITION', what);
    }
    return { home, place: layer.place, sizeBytes: layer.sizeBytes };
  };
  const { home, sizeBytes } = find();
  if (identity.sizeBytes < sizeBytes) {
    const what = `a clone of snapshot ${of.snapshotId} needs at least ${sizeBytes} bytes, not ${identity.sizeBytes}`;
    throw new StorError('INVALID_ARGUMENT', what);
  }
  const { number: lineage, folder } = home.lineage;
  return { lineage, folder, home, parent: () => find().place };
}

export interface NewReplicaFolders {
  files: Files;
  /** of the disk */
  path: string;
  replicas: string;
  lineages: string;
  space: SpaceAccount;
  pool: IoPool;
}

/** Makes everything durable under temporary names, or nothing. NO_SPACE, ALREADY_EXISTS. */
export async function makeNewReplica(
  folders: NewReplicaFolders,
  identity: ReplicaIdentity,
  origin: Origin,
  reserveImage: () => void,
): Promise<void> {
  const { files, replicas, lineages, pool } = folders;
  if (files.exists(path.join(replicas, identity.replicaId))) {
    throw new StorError(
      'ALREADY_EXISTS',
      `disk ${folders.path} holds a folder of replica ${identity.replicaId} that its metadata do not know: move it away first`,
    );
  }
  try {
    const pages = regionPagesOf(identity.sizeBytes) + (origin.home ? 0 : newLineagePages);
    if (!folders.space.takeBytes(pages * pagePairBytes)) {
      throw new StorError('NO_SPACE', 'no room');
    }
    reserveImage();
    await makeReplicaDirectory(files, replicas, identity, pool);
    if (!origin.home) await makeLineageDirectory(files, lineages, origin.folder, pool);
    // last: the caller takes the room in this turn, before somebody else does
    await origin.home?.lineage.ensureLayer();
  } catch (error) {
    dropNewReplica(folders, identity, origin);
    throw creationError(folders.path, identity, error);
  }
}

export function dropNewReplica(
  { files, replicas, lineages }: NewReplicaFolders,
  identity: ReplicaIdentity,
  origin: Origin,
): void {
  try {
    removeDirectoryOf(files, replicas, identity.replicaId + creatingSuffix);
    if (!origin.home) removeDirectoryOf(files, lineages, origin.folder + creatingSuffix);
  } catch {
    // what is left bears a name that does not count: the next attempt, or opening, removes it
  }
}

function creationError(disk: string, identity: ReplicaIdentity, error: unknown): StorError {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  if (code !== 'ENOSPC' && code !== 'NO_SPACE') {
    const reason = error instanceof Error ? error.message : String(error);
    const what = `disk ${disk}: replica ${identity.replicaId} cannot be created: ${reason}`;
    return new StorError('DISK_FAILED', what, { cause: error });
  }
  return new StorError(
    'NO_SPACE',
    `disk ${disk} has no room for replica ${identity.replicaId}: free space on it or use another disk`,
    { cause: error },
  );
}
