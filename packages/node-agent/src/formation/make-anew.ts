import { join } from 'node:path';
import { claimFolder, decodeBackup, makeStoreAnew, readMemberState } from '@stor/control-plane';
import { makeId, StorError, type BackupHead } from '@stor/protocol';
import { makeDurableDirectory, readTextFile, type Files } from '@stor/runtime';
import type { AgentSettings } from '../config.ts';
import type { FormationHost, FormationWish } from './form-node.ts';
import { embeddedAnew } from '../core/store-choice.ts';
import { readStoreNote, writeStoreNote } from '../store-note.ts';
import { writeIdentity, type NodeFolderIdentity } from './node-identity.ts';

const raft = 'raft';
const raftAnew = 'raft.new';
/** becomes `raft.new` when it is whole */
const raftInMaking = 'raft.making';
const raftMarker = 'raft-began';

/**
 * Makes the cluster store anew with this node as its only voter, and returns who the node is in it.
 * What it had of the old store is set aside, never deleted. Killed at any point it is repeated: the new
 * store is whole before the old one is moved. Errors: INVALID_ARGUMENT (the backup), FOREIGN_DATA (it is
 * of another cluster), NOT_FOUND (this node has no part of the store), FAILED_PRECONDITION (the cluster
 * has left that store), IN_USE.
 */
export async function makeAnew(
  found: NodeFolderIdentity | null,
  settings: AgentSettings,
  wish: NonNullable<FormationWish['anew']>,
  host: FormationHost,
): Promise<NodeFolderIdentity> {
  const { files, logs, random, clock, logger } = host;
  const { dataDir } = settings;
  const head = wish === 'survivor' ? null : readBackup(files, wish.backup);
  if (!head) checkNotMoved(files, dataDir);
  const clusterId = found?.clusterId ?? head?.head.clusterId;
  if (clusterId === undefined) {
    throw new StorError(
      'NOT_FOUND',
      `data folder ${dataDir} is new: there is no part of a cluster store to go on with`,
    );
  }
  if (head && head.head.clusterId !== clusterId) {
    throw new StorError(
      'FOREIGN_DATA',
      `the backup is of cluster ${head.head.clusterId}, data folder ${dataDir} of ${clusterId}`,
    );
  }
  const identity: NodeFolderIdentity = {
    formatVersion: 1,
    clusterId,
    nodeId: found?.nodeId ?? makeId('n', random.bytes(8)),
    nodeName: settings.nodeName ?? found?.nodeName ?? host.hostName,
    clusterName: head?.head.clusterName ?? found?.clusterName ?? settings.clusterName,
    origin: 'first',
    storeId: Buffer.from(random.bytes(8)).toString('hex'),
    known: [],
  };
  makeDurableDirectory(files, dataDir);
  // Who the node is first, but as one that has no vote: when it is started after a crash and not told to
  // do this again, it must not begin with an empty store.
  if (!found) writeIdentity(files, dataDir, { ...identity, origin: 'joined' });
  const hasOld = files.exists(join(dataDir, raft));
  const isMade = !hasOld && files.exists(join(dataDir, raftAnew));
  if (isMade) {
    // by the run that was killed: under the id that it gave it
    const made = { clusterId, id: identity.nodeId };
    identity.storeId = claimFolder(files, join(dataDir, raftAnew), made);
  } else {
    const from = head ?? (await readMemberState(join(dataDir, raft), logs));
    for (const left of [raftAnew, raftInMaking]) {
      if (files.exists(join(dataDir, left))) setAside(files, dataDir, left, clock.wallMs());
    }
    await makeStoreAnew({
      dataPath: join(dataDir, raftInMaking),
      identity: { clusterId, id: identity.nodeId, storeId: identity.storeId ?? '' },
      from: { revision: revisionOf(from), items: from.items },
      nowMs: clock.wallMs(),
      files,
      logs,
    });
    files.rename(join(dataDir, raftInMaking), join(dataDir, raftAnew));
    files.syncDirectory(dataDir);
  }
  if (hasOld) setAside(files, dataDir, raft, clock.wallMs());
  files.rename(join(dataDir, raftAnew), join(dataDir, raft));
  files.syncDirectory(dataDir);
  useEmbedded(files, dataDir);
  writeIdentity(files, dataDir, identity);
  logger.warn({ clusterId, storeId: identity.storeId }, 'the cluster store was made anew here');
  return identity;
}

function revisionOf(from: { revision: number } | { head: BackupHead }): number {
  return 'head' in from ? from.head.revision : from.revision;
}

function readBackup(files: Files, path: string): ReturnType<typeof decodeBackup> {
  let text: string;
  try {
    text = readTextFile(files, path);
  } catch (error) {
    throw new StorError(
      'INVALID_ARGUMENT',
      `cannot read the backup ${path}: ${(error as Error).message}`,
      { cause: error },
    );
  }
  return decodeBackup(text);
}

/** From its next start on the node uses its part of the embedded store, whatever the cluster used before. */
export function useEmbedded(files: Files, dataDir: string): void {
  const note = readStoreNote(files, dataDir);
  if (!note) return;
  const isOther = note.store !== 'embedded' || note.entering !== undefined;
  if (isOther) writeStoreNote(files, dataDir, embeddedAnew(note));
}

/** FAILED_PRECONDITION: what this node has of the store is from before the cluster moved to another one. */
function checkNotMoved(files: Files, dataDir: string): void {
  const note = readStoreNote(files, dataDir);
  if (!note || note.store === 'embedded') return;
  throw new StorError(
    'FAILED_PRECONDITION',
    `the cluster of data folder ${dataDir} has moved to ${note.store}, and what this node has of the store before that is old: give a backup with --restore`,
  );
}

/**
 * This node's part of a store that is no more. The note that it took part stays until the node is
 * somebody in the new store (`forgetRaft`): without it a node that is killed in between, and started
 * without the flags, would take the missing folder for an empty store of its own.
 */
export function setRaftAside(files: Files, dataDir: string, nowMs: number): void {
  if (files.exists(join(dataDir, raft))) setAside(files, dataDir, raft, nowMs);
}

export function forgetRaft(files: Files, dataDir: string): void {
  files.remove(join(dataDir, raftMarker));
  files.syncDirectory(dataDir);
}

function setAside(files: Files, dataDir: string, name: string, nowMs: number): void {
  files.rename(join(dataDir, name), join(dataDir, `${name}.old-${nowMs}`));
  files.syncDirectory(dataDir);
}
