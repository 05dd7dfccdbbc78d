import type { DiskId, NodeId } from '@stor/protocol';
import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentDisk, AgentPort } from '../agent-port.ts';
import type { ClusterStore } from '../cluster-store.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { hasRoom } from '../core/placement/place-replicas.ts';
import { diskKey } from '../resources/keys.ts';
import { decodeDisk, encodeRecord } from '../resources/records.ts';
import type { DiskRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';

/** A change of use smaller than this is not worth a write to the cluster store. */
const notableBytes = 16 * 1024 * 1024;
const notableShare = 0.005;
/** Lost races in a row after which a record is left to the next look. */
const maxConflicts = 5;

/** Keeps the records of this node's disks as the agent reports them. */
export class DiskReporter {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #agent: AgentPort;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #running: Promise<void> = Promise.resolve();
  #next: Promise<void> | null = null;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    agent: AgentPort;
    nodeId: NodeId;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#agent = options.agent;
    this.#nodeId = options.nodeId;
    this.#clock = options.clock;
    this.#logger = options.logger;
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
    const reported = new Set(disks.map((disk) => disk.diskId));
    for (const disk of disks) {
      const known = this.#cache.state.disks.get(disk.diskId) ?? null;
      if (known && known.value.nodeId !== this.#nodeId) {
        this.#logger.error({ diskId: disk.diskId }, 'a disk of another node lies on this one');
        continue;
      }
      if (!known || isNotable(known.value, disk))
        await this.#write(disk.diskId, known, (now) => this.#record(now, disk));
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

  /** Adds a disk; its record exists when this resolves. */
  async addDisk(path: string, tag: string): Promise<{ diskId: string }> {
    const disk = await this.#agent.addDisk(path, tag);
    const { diskId } = disk;
    if (!(await this.#write(diskId, null, (now) => this.#record(now, disk)))) {
      throw new StorError('CONFLICT', `disk ${diskId} changes too often: look again`);
    }
    return { diskId };
  }

  /** null: it is the record of another node, which stays as it is. */
  #record(known: DiskRecord | null, disk: AgentDisk): DiskRecord | null {
    if (known && known.nodeId !== this.#nodeId) return null;
    const { diskId: id, path, tag, state, message, capacityBytes, usedBytes, freeBytes } = disk;
    const seen = { path, tag, state, message, capacityBytes, usedBytes, freeBytes };
    const base = { id, nodeId: this.#nodeId, createdAtMs: this.#clock.wallMs() };
    return this.#since({ ...base, ...known, ...seen });
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
        compare: [{ key, modRevision: now?.modRevision ?? 0 }],
        operations: [{ type: 'put', key, value: encodeRecord(record) }],
      });
      if (succeeded) return true;
      const item = await this.#store.get(key);
      now = item && { value: decodeDisk(item.key, item.value), modRevision: item.modRevision };
    }
    return false;
  }
}

function isNotable(known: DiskRecord, disk: AgentDisk): boolean {
  if (known.state !== disk.state || known.message !== disk.message) return true;
  if (known.path !== disk.path || known.tag !== disk.tag) return true;
  // however small the change: it decides whether a volume can be created
  if (hasRoom(known) !== hasRoom(disk)) return true;
  const limit = Math.min(notableBytes, disk.capacityBytes * notableShare);
  return (
    known.capacityBytes !== disk.capacityBytes ||
    Math.abs(known.usedBytes - disk.usedBytes) > limit ||
    Math.abs(known.freeBytes - disk.freeBytes) > limit
  );
}
