import path from 'node:path';
import { StorError } from '@stor/protocol';
import { systemFiles, type Files } from '@stor/runtime';
import { inOnePiece, LevelRaftStorage, membershipOf, type Snapshot } from 'raft-ts';
import { ClusterStoreMachine } from '../cluster-store-machine.ts';
import type { KeyValue } from '../cluster-store.ts';
import { encodeSnapshot } from '../core/kv/kv-snapshot.ts';
import { raisedItems } from '../core/members/raise-epochs.ts';
import { decodeForgotten, type ForgottenRecord } from '../resources/forgotten-record.ts';
import { forgottenKey } from '../resources/keys.ts';
import { fromRaftStorage } from './raft-errors.ts';
import { levelLogs, type RaftLogs } from './raft-logs.ts';
import { claimFolder, type StoreIdentity } from './store-identity.ts';

/** Revisions go on far above those of the lost store: who has seen one of those sees none again. */
const revisionsAbove = 1_000_000_000;

/**
 * What a member of the embedded store has in its log, committed or not. What the others acknowledged
 * last may be known to be committed to none that is left; what was never committed was answered by
 * nobody, and harms nobody. CHECKSUM_MISMATCH, IN_USE; NOT_FOUND when there is nothing.
 */
export async function readMemberState(
  dataPath: string,
  logs: RaftLogs = levelLogs,
): Promise<{ revision: number; items: KeyValue[] }> {
  const logPath = path.join(dataPath, 'log');
  if (!logs.exists(logPath)) {
    throw new StorError('NOT_FOUND', `there is no part of a cluster store in ${dataPath}`);
  }
  const failed = (error: unknown): never => {
    throw fromRaftStorage(error, logPath);
  };
  const storage = await LevelRaftStorage.open(logPath, logs.open).catch(failed);
  try {
    const stored = await storage.load().catch(failed);
    if (!stored) throw new StorError('NOT_FOUND', `the log in ${dataPath} is empty`);
    const { snapshot, entries, recoverTo } = stored;
    if (recoverTo) {
      throw new StorError(
        'CHECKSUM_MISMATCH',
        `the log in ${dataPath} has lost entries up to ${recoverTo.index}: take another member, or a backup`,
      );
    }
    const machine = new ClusterStoreMachine();
    if (snapshot.sizeBytes > 0) await machine.restore(contentOf(storage, snapshot));
    machine.apply(entries.filter(({ type, index }) => type === 'normal' && index > snapshot.index));
    const { state } = machine;
    return { revision: state.revision, items: state.list('').map((item) => ({ ...item })) };
  } finally {
    await storage.close();
  }
}

/** Of the log snapshot read at once (bytes). */
const readBytes = 256 * 1024;

async function* contentOf(
  storage: LevelRaftStorage,
  snapshot: Snapshot,
): AsyncGenerator<Uint8Array> {
  for (let offset = 0; offset < snapshot.sizeBytes; offset += readBytes) {
    const length = Math.min(readBytes, snapshot.sizeBytes - offset);
    const read = await storage.readSnapshot(snapshot, offset, length);
    if (!read) throw new StorError('INTERNAL', 'the log snapshot is not in the store that has it');
    yield read.data;
  }
}

/**
 * Makes a store of one voter from the items of another one, in a folder where none is: with its
 * epochs raised, and under an id of its own, so that no member of the other one is ever heard in it.
 * FAILED_PRECONDITION when the items say that this node is gone for ever.
 */
export async function makeStoreAnew(options: {
  dataPath: string;
  identity: StoreIdentity;
  from: { revision: number; items: readonly KeyValue[] };
  /** by the wall clock, which must not have gone back since an earlier time */
  nowMs: number;
  files?: Files;
  logs?: RaftLogs;
}): Promise<void> {
  const { dataPath, identity, from, files = systemFiles, logs = levelLogs } = options;
  const gone = from.items.find(({ key }) => key === forgottenKey(identity.id));
  if (gone) throw goneOf(decodeForgotten(gone.key, gone.value));
  claimFolder(files, dataPath, identity);
  const revision = from.revision + revisionsAbove;
  const items = raisedItems(from.items, options.nowMs).map((item) => {
    return { ...item, createRevision: revision, modRevision: revision };
  });
  const none = { leases: [], forgottenUpTo: 0, requests: [], extra: {} };
  const data = encodeSnapshot({ revision, sequence: 0, items, ...none });
  const position = { index: 1, term: 1 };
  const storage = await LevelRaftStorage.open(path.join(dataPath, 'log'), logs.open);
  try {
    await storage.load();
    await storage.save({
      hardState: { term: 1, vote: null, commit: 1 },
      ...inOnePiece({ ...position, membership: membershipOf([identity.id]), data }),
      log: { type: 'reset', position },
      entries: [],
    });
  } catch (error) {
    throw fromRaftStorage(error, dataPath);
  } finally {
    await storage.close();
  }
}

/** It would be the only voter of a cluster in which it is never let in as a node. */
function goneOf({ id, name }: ForgottenRecord): StorError {
  return new StorError(
    'FAILED_PRECONDITION',
    `node ${name} (${id}) has left the cluster for ever by the state that the store is to be made from: give another node, or a backup and an empty data folder`,
  );
}
