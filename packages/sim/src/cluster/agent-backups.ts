import type { ClusterStore, KeyValue } from '@stor/control-plane';
import { encodeSnapshot, type MemoryKeyValueDisk } from '@stor/control-plane/testing';
import type { VolumeRecord } from '@stor/protocol';
import { inOnePiece, LevelRaftStorage, membershipOf } from 'raft-ts';

import type { ControlBackups } from './sim-cluster.ts';

/** A restore raises epochs above any that may have been granted. */
const epochsAbove = 10;

/** newest record of each volume, by name, with the revision of the store */
export type KnownRecords = Map<string, { record: VolumeRecord; revision: number }>;

export interface AgentBackupParts {
  /** of the leader; null when there is none */
  store: () => ClusterStore | null;
  records: KnownRecords;
  /** of each node */
  logs: readonly MemoryKeyValueDisk[];
  logPath: string;
  voters: string[];
  volumesPrefix: string;
  /** equal as long as no snapshot was taken or deleted */
  snapshots: () => string;
}

interface Backup {
  term: number;
  index: number;
  revision: number;
  items: KeyValue[];
  /** by name */
  volumes: Map<string, VolumeRecord>;
  snapshots: string;
}

/**
 * Copies of the keys of the cluster store. One that is put back is the snapshot that every member's
 * log begins with, and epochs are raised in it, as DESIGN asks of a restore.
 */
export class AgentBackups implements ControlBackups {
  readonly #parts: AgentBackupParts;
  #backup: Backup | null = null;

  constructor(parts: AgentBackupParts) {
    this.#parts = parts;
  }

  async take(): Promise<boolean> {
    const store = this.#parts.store();
    if (!store) return false;
    const snapshots = this.#parts.snapshots();
    const { revision, items } = await store.list('', { local: true });
    const { term, appliedIndex: index } = store.status();
    // leases end with the processes that hold them
    const kept = items.filter(({ leaseId }) => leaseId === '');
    const volumes = new Map<string, VolumeRecord>();
    for (const item of kept) {
      if (!this.#isVolume(item)) continue;
      const record = recordOf(item);
      volumes.set(record.metadata.name, record);
    }
    this.#backup = { term, index, revision, items: kept, volumes, snapshots };
    return true;
  }

  isUsable(): boolean {
    const { records } = this.#parts;
    const volumes = this.#backup?.volumes;
    if (this.#backup?.snapshots !== this.#parts.snapshots()) return false;
    return [...records].every(([name, { record }]) => {
      const old = volumes?.get(name);
      return old !== undefined && placesOf(old) === placesOf(record);
    });
  }

  async putBack(): Promise<void> {
    const backup = this.#backup;
    if (!backup) throw new Error('there is no backup');
    const items = backup.items.map((item) => (this.#isVolume(item) ? this.#raised(item) : item));
    const { term, index, revision } = backup;
    const data = encodeSnapshot({
      revision,
      sequence: 0,
      items,
      leases: [],
      forgottenUpTo: 0,
      requests: [],
      extra: {},
    });
    const { logs, logPath, voters } = this.#parts;
    for (const log of logs) {
      const storage = await LevelRaftStorage.open(logPath, log.open);
      await storage.load();
      await storage.save({
        hardState: { term, vote: null, commit: index },
        ...inOnePiece({ index, term, membership: membershipOf(voters), data }),
        log: { type: 'reset', position: { index, term } },
        entries: [],
      });
      await storage.close();
    }
  }

  /** The item with a higher epoch and nobody attached; from now on that is what is known of it. */
  #raised(item: KeyValue): KeyValue {
    const record = recordOf(item);
    const { records } = this.#parts;
    const { name } = record.metadata;
    const latest = records.get(name)?.record.status.epoch ?? 0;
    record.status.epoch = Math.max(latest, record.status.epoch) + epochsAbove;
    record.status.attachment = null;
    record.status.cleanRelease = false;
    records.set(name, { record, revision: item.modRevision });
    return { ...item, value: Buffer.from(JSON.stringify(record)) };
  }

  #isVolume({ key }: KeyValue): boolean {
    return key.startsWith(this.#parts.volumesPrefix);
  }
}

function recordOf({ value }: KeyValue): VolumeRecord {
  return JSON.parse(Buffer.from(value).toString()) as VolumeRecord;
}

function placesOf({ spec, status }: VolumeRecord): string {
  const places = status.segments.map(({ replicas }) =>
    replicas.map(({ id, nodeId, state }) => [id, nodeId, state]),
  );
  return JSON.stringify([status.phase, spec.sizeBytes, places]);
}
