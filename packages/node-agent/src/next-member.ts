import { join } from 'node:path';
import {
  claimFolder,
  EmbeddedClusterStore,
  makeFirstMember,
  type EmbeddedStoreOptions,
  type MoveMembers,
} from '@stor/control-plane';
import { StorError } from '@stor/protocol';
import type { Files } from '@stor/runtime';
import type { DataFolder } from './data-folder.ts';

type StoreParts = Pick<
  EmbeddedStoreOptions,
  'clusterId' | 'id' | 'server' | 'rpc' | 'files' | 'logs' | 'clock' | 'random' | 'logger'
> &
  Required<Pick<EmbeddedStoreOptions, 'files' | 'logs'>>;

export interface NextMemberOptions {
  folder: DataFolder;
  /** where this node's server is reached: host:port */
  address: string;
  store: StoreParts;
}

/** One move to an embedded store. */
interface Move {
  /** also the id of the store */
  id: string;
  members: MoveMembers;
}

const raft = 'raft';
const folderOf = (id: string): string => `raft.move-${id}`;
/** a move that was given up; it is kept, so that this node never begins in that store again */
const droppedOf = (id: string): string => `raft.dropped-${id}`;

/**
 * This node's member of an embedded store that the cluster moves to. It runs beside the store in use,
 * in a folder of its own, until the move is complete; then the agent begins anew with it. Its folder is
 * made once: a member that began again would have forgotten its votes and what it acknowledged.
 */
export class NextMember {
  readonly #options: NextMemberOptions;
  /** what is done to it, one after the other */
  #turn: Promise<unknown> = Promise.resolve();
  #open: { id: string; store: EmbeddedClusterStore } | null = null;
  #isClosed = false;

  constructor(options: NextMemberOptions) {
    this.#options = options;
  }

  /** The move whose store was begun here; null: none. */
  begun(): string | null {
    return this.#options.folder.storeNote()?.entering ?? null;
  }

  /**
   * The store of this move, opened when it is not. FAILED_PRECONDITION (this node is not one of its
   * members, or the move was given up), FOREIGN_DATA (its folder is gone), and those of
   * `EmbeddedClusterStore.open`.
   */
  open(move: Move): Promise<EmbeddedClusterStore> {
    return this.#next(async () => {
      if (this.#isClosed) throw new StorError('UNAVAILABLE', 'the agent is stopping');
      if (this.#open?.id === move.id) return this.#open.store;
      await this.#shut();
      await this.#begin(move);
      const { folder, store: parts, address } = this.#options;
      const store = await EmbeddedClusterStore.open({
        ...parts,
        address,
        members: [],
        voters: [],
        known: everybody(move).filter(({ id }) => id !== parts.id),
        storeId: move.id,
        dataPath: join(folder.path, folderOf(move.id)),
      });
      this.#open = { id: move.id, store };
      return store;
    });
  }

  /** The move was given up. */
  drop(id: string): Promise<void> {
    return this.#next(async () => {
      const { folder, store } = this.#options;
      if (this.#open?.id === id) await this.#shut();
      const path = join(folder.path, folderOf(id));
      if (store.files.exists(path)) {
        store.files.rename(path, join(folder.path, droppedOf(id)));
        store.files.syncDirectory(folder.path);
      }
      const { entering, ...note } = folder.storeNote() ?? { store: 'embedded' };
      if (entering === id) folder.noteStore(note);
      store.logger.warn({ move: id }, 'the move to the embedded store was given up');
    });
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return this.#next(() => this.#shut());
  }

  /** Makes the folder, unless that was done. */
  async #begin(move: Move): Promise<void> {
    const { folder, store } = this.#options;
    const { files, logs, clusterId, id } = store;
    if (!everybody(move).some((member) => member.id === id)) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the cluster moves to an embedded store that does not know this node ${id}: when the move is done, start it with --join ADDRESS --token TOKEN --discard-store`,
      );
    }
    const path = (name: string): string => join(folder.path, name);
    if (files.exists(path(droppedOf(move.id)))) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `the move ${move.id} was given up, and is there again: was etcd put back to a backup? Give it up with "storctl cluster migrate-store --abort"`,
      );
    }
    const dataPath = path(folderOf(move.id));
    if (this.begun() === move.id) {
      if (logs.exists(join(dataPath, 'log'))) return;
      throw new StorError(
        'FOREIGN_DATA',
        `${dataPath} held this node's part of the new cluster store and is gone: put it back, or give the move up with "storctl cluster migrate-store --abort"`,
      );
    }
    // nobody has been told of what a run that was killed has made
    const { voters, learners, revision } = move.members;
    await makeFirstMember({
      dataPath,
      identity: { clusterId, id, storeId: move.id },
      voters: voters.map((member) => member.id),
      learners: learners.map((member) => member.id),
      revision,
      files,
      logs,
    });
    const note = folder.storeNote();
    if (!note) throw new StorError('INTERNAL', 'a node that has no store cannot leave it');
    folder.noteStore({ ...note, entering: move.id });
  }

  async #shut(): Promise<void> {
    const open = this.#open;
    this.#open = null;
    await open?.store.close();
  }

  #next<T>(run: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(run);
    this.#turn = turn.catch(() => {});
    return turn;
  }
}

/**
 * The store that the cluster has moved to takes the place of this node's embedded store: `raft`. What
 * was there is set aside. Killed at any point it is repeated. FOREIGN_DATA when it is gone.
 */
export function enterStore(
  folder: DataFolder,
  files: Files,
  identity: { clusterId: string; id: string },
  nowMs: number,
): void {
  const note = folder.storeNote();
  const storeId = note?.entering;
  if (!note || storeId === undefined || note.store !== 'embedded') return;
  const path = (name: string): string => join(folder.path, name);
  if (files.exists(path(folderOf(storeId)))) {
    if (files.exists(path(raft))) {
      files.rename(path(raft), path(`${raft}.old-${nowMs}`));
      files.syncDirectory(folder.path);
    }
    files.rename(path(folderOf(storeId)), path(raft));
    files.syncDirectory(folder.path);
  } else if (!files.exists(path(raft))) {
    throw new StorError(
      'FOREIGN_DATA',
      `${path(folderOf(storeId))} held this node's part of the cluster store and is gone: put it back; without it this node must not come back under its old id`,
    );
  }
  // the one that was moved, and no other
  claimFolder(files, path(raft), { ...identity, storeId });
  folder.noteRaft();
  const { entering: _done, ...rest } = note;
  folder.noteStore(rest);
}

function everybody({ members }: Move): { id: string; address: string }[] {
  return [...members.voters, ...members.learners];
}
