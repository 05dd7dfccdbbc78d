import { join } from 'node:path';
import { levelLogs, type RaftLogs } from '@stor/control-plane';
import { StorError, type DiskId } from '@stor/protocol';
import {
  makeDurableDirectory,
  readTextFile,
  systemFiles,
  writeTextFileDurably,
  type Files,
} from '@stor/runtime';
import type { StoreNote } from './core/store-choice.ts';
import { readStoreNote, writeStoreNote } from './store-note.ts';

/** Version of the data folder's layout; a newer one is refused, never overwritten. */
const formatVersion = 1;
/** Exists once this node has opened its part of the cluster store. */
const raftMarker = 'raft-began';

interface Identity {
  formatVersion: number;
  clusterId: string;
  nodeId: string;
}

export interface DiskEntry {
  diskId: DiskId;
  /** the directory that holds it */
  path: string;
  tag: string;
  labels?: Record<string, string>;
  /** `10%`, `20GiB`; absent: the default */
  reserve?: string;
  /** what is mounted at `path`; absent: nothing of ours */
  device?: { path: string; fileSystemUuid: string };
  /** what to tell of it while it works, such as that its file system is none that is tested */
  note?: string;
}

/**
 * The agent's own folder: who it is and which disks it has; `failures.jsonl` says which of them
 * failed. The replicas lie on the disks; the Raft log lies in `raft/`.
 */
export class DataFolder {
  readonly path: string;
  readonly #files: Files;
  #disks: DiskEntry[];

  private constructor(files: Files, path: string, disks: DiskEntry[]) {
    this.#files = files;
    this.path = path;
    this.#disks = disks;
  }

  /**
   * Opens the folder, or makes it when it is absent or empty. FOREIGN_DATA when it belongs to
   * another cluster or node, has a newer format, or holds something else.
   */
  static open(
    path: string,
    expect: { clusterId: string; nodeId: string },
    files: Files = systemFiles,
  ): DataFolder {
    // the Raft log lies in it: a member that a power cut takes away would forget its vote
    makeDurableDirectory(files, path);
    const identityPath = join(path, 'identity.json');
    if (!files.exists(identityPath)) {
      const found = files.list(path).filter((name) => name !== 'identity.json.new');
      if (found.length > 0) {
        throw new StorError(
          'FOREIGN_DATA',
          `data folder ${path} holds files but no identity.json, so it is not Stor's: give an empty folder`,
        );
      }
      const identity: Identity = { formatVersion, ...expect };
      writeTextFileDurably(files, identityPath, `${JSON.stringify(identity, null, 2)}\n`);
    }
    checkIdentity(path, readJson(files, identityPath) as Partial<Identity>, expect);
    const disksPath = join(path, 'disks.json');
    const disks = files.exists(disksPath) ? (readJson(files, disksPath) as DiskEntry[]) : [];
    return new DataFolder(files, path, disks);
  }

  get raftPath(): string {
    return join(this.path, 'raft');
  }

  /**
   * FOREIGN_DATA when this node has taken part in Raft before and its log is gone. It would vote
   * again in terms it has voted in, and take back its word for what was committed: an epoch could be
   * granted twice (I2).
   */
  checkRaft(logs: Pick<RaftLogs, 'exists'> = levelLogs): void {
    if (!this.hasBegunRaft || logs.exists(join(this.raftPath, 'log'))) return;
    throw new StorError(
      'FOREIGN_DATA',
      `${this.raftPath} held this node's part of the cluster store and is gone: put it back; without it this node must not come back under its old id`,
    );
  }

  /** This node has taken part in Raft. */
  get hasBegunRaft(): boolean {
    return this.#files.exists(join(this.path, raftMarker));
  }

  /** Notes that the Raft log has been made. */
  noteRaft(): void {
    const marker = join(this.path, raftMarker);
    if (!this.#files.exists(marker)) writeTextFileDurably(this.#files, marker, '');
  }

  /** False until the first disk was noted, and true for ever after: also when all were removed. */
  get hasHadDisks(): boolean {
    return this.#files.exists(join(this.path, 'disks.json'));
  }

  /** Where the cluster's state is; null: this node never had a store. */
  storeNote(): StoreNote | null {
    const note = readStoreNote(this.#files, this.path);
    if (note) return note;
    const hadRaft = this.#files.exists(join(this.path, raftMarker));
    return hadRaft ? { store: 'embedded' } : null;
  }

  noteStore(note: StoreNote): void {
    writeStoreNote(this.#files, this.path, note);
  }

  disks(): readonly DiskEntry[] {
    return this.#disks;
  }

  addDisk(entry: DiskEntry): void {
    this.#write([...this.#disks.filter((other) => other.diskId !== entry.diskId), entry]);
  }

  /** From the next start on the node does not know it any more. An unknown one is gone already. */
  removeDisk(diskId: DiskId): void {
    if (!this.#disks.some((disk) => disk.diskId === diskId)) return;
    this.#write(this.#disks.filter((disk) => disk.diskId !== diskId));
  }

  #write(disks: DiskEntry[]): void {
    const text = `${JSON.stringify(disks, null, 2)}\n`;
    writeTextFileDurably(this.#files, join(this.path, 'disks.json'), text);
    this.#disks = disks;
  }
}

function readJson(files: Files, path: string): unknown {
  try {
    return JSON.parse(readTextFile(files, path)) as unknown;
  } catch (error) {
    throw new StorError('FOREIGN_DATA', `${path} cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function checkIdentity(
  path: string,
  found: Partial<Identity>,
  expect: { clusterId: string; nodeId: string },
): void {
  if (typeof found.formatVersion !== 'number' || found.formatVersion > formatVersion) {
    throw new StorError(
      'FOREIGN_DATA',
      `data folder ${path} has format version ${String(found.formatVersion)}; this agent knows up to ${formatVersion}: start the newer agent that wrote it`,
    );
  }
  if (found.clusterId !== expect.clusterId) {
    throw new StorError(
      'FOREIGN_DATA',
      `data folder ${path} belongs to cluster ${String(found.clusterId)}, but the config says ${expect.clusterId}: correct the config or give another folder`,
    );
  }
  if (found.nodeId !== expect.nodeId) {
    throw new StorError(
      'FOREIGN_DATA',
      `data folder ${path} belongs to node ${String(found.nodeId)}, but the config says ${expect.nodeId}: correct the config or give another folder`,
    );
  }
}
