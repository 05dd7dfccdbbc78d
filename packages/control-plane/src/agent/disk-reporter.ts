import type { NodeId } from '@stor/protocol';
import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentDisk, AgentPort } from '../agent-port.ts';
import type { ClusterStore } from '../cluster-store.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { diskKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { DiskRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';

/** A change of use smaller than this is not worth a write to the cluster store. */
const notableBytes = 16 * 1024 * 1024;
const notableShare = 0.005;

/** Keeps the records of this node's disks as the agent reports them. */
export class DiskReporter {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #agent: AgentPort;
  readonly #nodeId: NodeId;
  readonly #clock: Clock;
  readonly #logger: Logger;

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

  /** Looks once. A write that loses a race is made good by the next look. */
  async report(): Promise<void> {
    const disks = await this.#agent.disks();
    const reported = new Set(disks.map((disk) => disk.diskId));
    for (const disk of disks) {
      const known = this.#cache.state.disks.get(disk.diskId) ?? null;
      if (known && known.value.nodeId !== this.#nodeId) {
        this.#logger.error({ diskId: disk.diskId }, 'a disk of another node lies on this one');
        continue;
      }
      if (!known || isNotable(known.value, disk))
        await this.#write(known, this.#record(known, disk));
    }
    for (const known of this.#cache.state.disks.values()) {
      const { id, nodeId, state } = known.value;
      if (nodeId !== this.#nodeId || reported.has(id) || state === 'offline') continue;
      const message = 'the agent does not find this disk';
      await this.#write(known, { ...known.value, state: 'offline', message });
    }
  }

  /** Adds a disk; its record exists when this resolves. */
  async addDisk(path: string, tag: string): Promise<{ diskId: string }> {
    const disk = await this.#agent.addDisk(path, tag);
    const written = await this.#write(null, this.#record(null, disk));
    if (!written && !this.#cache.state.disks.has(disk.diskId)) {
      throw new StorError(
        'CONFLICT',
        `disk ${disk.diskId} was reported at the same time: look again`,
      );
    }
    return { diskId: disk.diskId };
  }

  #record(known: Versioned<DiskRecord> | null, disk: AgentDisk): DiskRecord {
    const { diskId: id, path, tag, state, message, capacityBytes, usedBytes, freeBytes } = disk;
    const seen = { path, tag, state, message, capacityBytes, usedBytes, freeBytes };
    const base = { id, nodeId: this.#nodeId, createdAtMs: this.#clock.wallMs() };
    return { ...base, ...known?.value, ...seen };
  }

  async #write(known: Versioned<DiskRecord> | null, record: DiskRecord): Promise<boolean> {
    const key = diskKey(record.id);
    const { succeeded } = await this.#store.transact({
      compare: [{ key, modRevision: known?.modRevision ?? 0 }],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
    return succeeded;
  }
}

function isNotable(known: DiskRecord, disk: AgentDisk): boolean {
  if (known.state !== disk.state || known.message !== disk.message) return true;
  if (known.path !== disk.path || known.tag !== disk.tag) return true;
  const limit = Math.min(notableBytes, disk.capacityBytes * notableShare);
  return (
    known.capacityBytes !== disk.capacityBytes ||
    Math.abs(known.usedBytes - disk.usedBytes) > limit ||
    Math.abs(known.freeBytes - disk.freeBytes) > limit
  );
}
