import type { DiskId, EventNote, NodeId } from '@stor/protocol';
import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentDisk, AgentPort, DiskOrder } from '../agent-port.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { nodeName } from '../resources/cluster-state.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { diskNote } from '../core/disk/disk-note.ts';
import { settingsOf } from '../core/placement/cluster-limits.ts';
import { hasRoom, repairReserveBytes } from '../core/placement/disk-room.ts';
import { diskKey, forgottenKey } from '../resources/keys.ts';
import { decodeDisk, encodeRecord } from '../resources/records.ts';
import type { DiskRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';

/** A change of use smaller than this is not worth a write to the cluster store. */
const notableBytes = 16 * 1024 * 1024;
const notableShare = 0.005;
/** Lost races in a row after which a record is left to the next look. */
const maxConflicts = 5;
/** Replicas of a disk whose use is recorded, the largest ones: it keeps the record below 64 KiB. */
const maxReplicaBytes = 1_000;

/** Keeps the records of this node's disks as the agent reports them. */
export class DiskReporter {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #agent: AgentPort;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #note: (note: EventNote) => void;
  /** as they were at the last look, so that what changes is told once */
  readonly #seen = new Map<DiskId, AgentDisk>();
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | null = null;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    agent: AgentPort;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
    /** told when a disk fails or runs out of space @default nobody */
    note?: (note: EventNote) => void;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#agent = options.agent;
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#note = options.note ?? ((): void => {});
  }

  /** Looks once, after now: who asks while a look runs gets the one that follows it. */
  report(): Promise<void> {
    this.#next ??= this.#running
      .catch(() => {})
      .then(() => {
        this.#next = null;
        this.#running = this.#look();
        return this.#running;
      });
    return this.#next;
  }

  async #look(): Promise<void> {
    // from before the agent is asked: a disk that is added meanwhile is not missing
    const recorded = [...this.#cache.state.disks.values()];
    const disks = await this.#agent.disks();
    const sizes = await this.#replicaBytes();
    const reported = new Set(disks.map((disk) => disk.diskId));
    for (const disk of disks) {
      this.#tell(disk);
      const known = this.#cache.state.disks.get(disk.diskId) ?? null;
      if (known && known.value.nodeId !== this.#nodeId) {
        this.#logger.error({ diskId: disk.diskId }, 'a disk of another node lies on this one');
        continue;
      }
      if (!known || this.#isNotable(known.value, disk))
        await this.#write(disk.diskId, known, (now) =>
          this.#record(now, disk, sizes.get(disk.diskId)),
        );
    }
    for (const known of recorded) {
      const { id, nodeId, state } = known.value;
      if (nodeId !== this.#nodeId || reported.has(id) || state === 'offline') continue;
      const message = 'the agent does not find this disk';
      await this.#write(id, known, (now) =>
        now ? this.#since({ ...now, state: 'offline', message }) : null,
      );
    }
  }

  #tell(disk: AgentDisk): void {
    const node = nodeName(this.#cache.state, this.#nodeId);
    const note = diskNote(this.#seen.get(disk.diskId) ?? null, disk, node);
    this.#seen.set(disk.diskId, disk);
    if (note) this.#note(note);
  }

  /** Adds a disk; its record exists when this resolves. */
  async addDisk(order: DiskOrder): Promise<{ diskId: string }> {
    const disk = await this.#agent.addDisk(order);
    const { diskId } = disk;
    if (!(await this.#write(diskId, null, (now) => this.#record(now, disk, undefined)))) {
      throw new StorError('CONFLICT', `disk ${diskId} changes too often: look again`);
    }
    return { diskId };
  }

  /** Closes a disk of this node and deletes its record. Works twice. */
  removeDisk(diskId: DiskId, lost: boolean): Promise<void> {
    // after the look that runs: it may write what it saw of the disk before
    const removing = this.#running.catch(() => {}).then(() => this.#remove(diskId, lost));
    this.#running = removing.catch(() => {});
    return removing;
  }

  async #remove(diskId: DiskId, lost: boolean): Promise<void> {
    await this.#agent.removeDisk(diskId, lost);
    this.#seen.delete(diskId);
    const key = diskKey(diskId);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const item = await this.#store.get(key);
      if (!item || decodeDisk(item.key, item.value).nodeId !== this.#nodeId) return;
      const { succeeded } = await this.#store.transact({
        compare: [{ key, modRevision: item.modRevision }],
        operations: [{ type: 'delete', key }],
      });
      if (succeeded) return;
    }
    throw new StorError('CONFLICT', `the record of disk ${diskId} changes too often: try again`);
  }

  /** What each replica takes, by disk. */
  async #replicaBytes(): Promise<Map<DiskId, Record<string, number>>> {
    const byDisk = new Map<DiskId, [string, number][]>();
    for (const { diskId, replicaId, allocatedBytes = 0 } of await this.#agent.replicas()) {
      if (allocatedBytes === 0) continue;
      byDisk.set(diskId, [...(byDisk.get(diskId) ?? []), [replicaId, allocatedBytes]]);
    }
    const largest = (sizes: [string, number][]): Record<string, number> =>
      Object.fromEntries(sizes.sort((a, b) => b[1] - a[1]).slice(0, maxReplicaBytes));
    return new Map([...byDisk].map(([id, sizes]) => [id, largest(sizes)]));
  }

  /** null: it is the record of another node, which stays as it is. */
  #record(
    known: DiskRecord | null,
    disk: AgentDisk,
    replicaBytes: Record<string, number> | undefined,
  ): DiskRecord | null {
    if (known && known.nodeId !== this.#nodeId) return null;
    const { diskId: id, isLost: _isLost, ...seen } = disk;
    const base = { id, nodeId: this.#nodeId, createdAtMs: this.#clock.wallMs() };
    const { trouble: _trouble, replicaBytes: before, ...kept }: Partial<DiskRecord> = known ?? {};
    // of a disk that does not answer, what was last said of its replicas is all there is
    const sizes = replicaBytes ?? before;
    const record = { ...base, ...kept, ...seen };
    return this.#since(sizes === undefined ? record : { ...record, replicaBytes: sizes });
  }

  /** Notes since when a disk cannot be used: what lies on it is replaced after a while. */
  #since(record: DiskRecord): DiskRecord {
    const { unusableSinceMs, ...rest } = record;
    if (record.state === 'online') return rest;
    return { ...rest, unusableSinceMs: unusableSinceMs ?? this.#clock.wallMs() };
  }

  /**
   * Writes what `change` makes of the record; `known` may be older than this node's last write, so
   * a lost race is run again with what is there. False when it was lost too often.
   */
  async #write(
    id: DiskId,
    known: Versioned<DiskRecord> | null,
    change: (now: DiskRecord | null) => DiskRecord | null,
  ): Promise<boolean> {
    const key = diskKey(id);
    let now = known;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const record = change(now?.value ?? null);
      if (!record) return true;
      const { succeeded } = await this.#store.transact({
        compare: [
          { key, modRevision: now?.modRevision ?? 0 },
          // the records of a node that has left for ever are gone, and must not come back
          { key: forgottenKey(this.#nodeId), modRevision: 0 },
        ],
        operations: [{ type: 'put', key, value: encodeRecord(record) }],
      });
      if (succeeded) return true;
      const item = await this.#store.get(key);
      now = item && { value: decodeDisk(item.key, item.value), modRevision: item.modRevision };
    }
    return false;
  }

  #isNotable(known: DiskRecord, disk: AgentDisk): boolean {
    if (known.state !== disk.state || known.message !== disk.message) return true;
    if (known.path !== disk.path || known.tag !== disk.tag) return true;
    if (known.trouble !== disk.trouble || known.device !== disk.device) return true;
    if (known.reservedBytes !== disk.reservedBytes) return true;
    if ((known.lane ?? 0) !== (disk.lane ?? 0)) return true;
    // however small the change: it decides whether a volume can be created
    const reserve = repairReserveBytes(disk, settingsOf(this.#cache.state));
    const takesNew = (free: number): boolean => free > reserve;
    if (hasRoom(known) !== hasRoom(disk)) return true;
    if (takesNew(known.freeBytes) !== takesNew(disk.freeBytes)) return true;
    const limit = Math.min(notableBytes, disk.capacityBytes * notableShare);
    return (
      known.capacityBytes !== disk.capacityBytes ||
      Math.abs(known.usedBytes - disk.usedBytes) > limit ||
      Math.abs(known.freeBytes - disk.freeBytes) > limit
    );
  }
}
