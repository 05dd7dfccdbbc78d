import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { StorError, type DiskId } from '@stor/protocol';

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
  path: string;
  tag: string;
}

/** Writes a small file so that after a power loss either the old or the new one is there. */
function writeDurably(path: string, text: string): void {
  const temporary = `${path}.new`;
  const file = openSync(temporary, 'w', 0o600);
  try {
    writeSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(temporary, path);
  syncDirectory(dirname(path));
}

export function syncDirectory(path: string): void {
  const directory = openSync(path, 'r');
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/**
 * The agent's own folder: who it is and which disks it has; `failures.jsonl` says which of them
 * failed. The replicas lie on the disks; the Raft log lies in `raft/`.
 */
export class DataFolder {
  readonly path: string;
  #disks: DiskEntry[];

  private constructor(path: string, disks: DiskEntry[]) {
    this.path = path;
    this.#disks = disks;
  }

  /**
   * Opens the folder, or makes it when it is absent or empty. FOREIGN_DATA when it belongs to
   * another cluster or node, has a newer format, or holds something else.
   */
  static open(path: string, expect: { clusterId: string; nodeId: string }): DataFolder {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const identityPath = join(path, 'identity.json');
    if (!existsSync(identityPath)) {
      const found = readdirSync(path).filter((name) => name !== 'identity.json.new');
      if (found.length > 0) {
        throw new StorError(
          'FOREIGN_DATA',
          `data folder ${path} holds files but no identity.json, so it is not Stor's: give an empty folder`,
        );
      }
      const identity: Identity = { formatVersion, ...expect };
      writeDurably(identityPath, `${JSON.stringify(identity, null, 2)}\n`);
      syncDirectory(dirname(path));
    }
    checkIdentity(path, readJson(identityPath) as Partial<Identity>, expect);
    const disksPath = join(path, 'disks.json');
    const disks = existsSync(disksPath) ? (readJson(disksPath) as DiskEntry[]) : [];
    return new DataFolder(path, disks);
  }

  get raftPath(): string {
    return join(this.path, 'raft');
  }

  /**
   * FOREIGN_DATA when this node has taken part in Raft before and its log is gone. It would vote
   * again in terms it has voted in, and take back its word for what was committed: an epoch could be
   * granted twice (I2).
   */
  checkRaft(): void {
    if (!existsSync(join(this.path, raftMarker)) || existsSync(join(this.raftPath, 'log'))) return;
    throw new StorError(
      'FOREIGN_DATA',
      `${this.raftPath} held this node's part of the cluster store and is gone: put it back; without it this node must not come back under its old id`,
    );
  }

  /** Notes that the Raft log has been made. */
  noteRaft(): void {
    const marker = join(this.path, raftMarker);
    if (!existsSync(marker)) writeDurably(marker, '');
  }

  disks(): readonly DiskEntry[] {
    return this.#disks;
  }

  addDisk(entry: DiskEntry): void {
    const disks = [...this.#disks.filter((other) => other.diskId !== entry.diskId), entry];
    writeDurably(join(this.path, 'disks.json'), `${JSON.stringify(disks, null, 2)}\n`);
    this.#disks = disks;
  }
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as unknown;
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
