import { checkLabels, checkQos, StorError } from '@stor/protocol';
import type {
  ClusterSettings,
  Disk,
  DiskInspection,
  EvacuationPlan,
  Pool,
  StorApi,
} from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { AgentPeers } from '../agent/agent-peers.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { checkRemoval } from '../core/disk/check-removal.ts';
import { describeDisk } from '../core/disk/describe-disk.ts';
import { describePools } from '../core/disk/describe-pools.ts';
import { findDisk, fullName } from '../core/disk/find-disk.ts';
import { inspectDisk } from '../core/disk/inspect-disk.ts';
import { planEvacuation } from '../core/disk/plan-evacuation.ts';
import { changedSettings, settingsOf } from '../core/placement/cluster-limits.ts';
import { diskUses } from '../core/placement/disk-use.ts';
import { isUp } from '../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readHosts, readState } from '../resources/find.ts';
import { diskKey, settingsKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { DiskRecord } from '../resources/records.ts';
import { findNode } from './find-node.ts';
import { readSoon } from './read-soon.ts';

type Request<M extends keyof StorApi> = Parameters<StorApi[M]>[0];

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;
const tagPattern = /^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$/;

/** The calls of the API that concern disks and pools. */
export class DiskService {
  readonly #store: ClusterStore;
  readonly #peers: AgentPeers;
  readonly #logger: Logger;

  constructor(options: { store: ClusterStore; peers: AgentPeers; logger: Logger }) {
    this.#store = options.store;
    this.#peers = options.peers;
    this.#logger = options.logger;
  }

  async list(): Promise<Disk[]> {
    const state = await readSoon((options) => readState(this.#store, options));
    const uses = diskUses(state);
    return [...state.disks.values()]
      .map((disk) => describeDisk(disk, state, uses))
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }

  /** See StorApi.addDisk. */
  async add(request: Request<'addDisk'>): Promise<Disk> {
    const { path, tag, labels = {}, reserve = '', forceFormat = false } = request;
    const node = findNode(await readHosts(this.#store), request.node);
    if (path === '') throw new StorError('INVALID_ARGUMENT', 'the path of the disk is missing');
    if (!tagPattern.test(tag)) {
      throw new StorError(
        'INVALID_ARGUMENT',
        `tag ${JSON.stringify(tag)} is not valid: use 1 to 63 letters, digits, '.', '_' or '-', for example ssd or hdd`,
      );
    }
    checkLabels(labels);
    const order = { path, tag, labels, reserve, forceFormat };
    const { diskId } = await this.#peers.at(node.value.id).addDisk(order);
    const state = await readState(this.#store);
    const disk = state.disks.get(diskId);
    if (!disk) throw new StorError('NOT_FOUND', `disk ${diskId} was removed meanwhile`);
    return describeDisk(disk, state, diskUses(state));
  }

  /** See StorApi.inspectDisk. */
  async inspect(name: string): Promise<DiskInspection> {
    const state = await readSoon((options) => readState(this.#store, options));
    return inspectDisk(state, findDisk(state, name));
  }

  /** See StorApi.evacuateDisk. */
  async evacuate(request: Request<'evacuateDisk'>): Promise<EvacuationPlan> {
    const { plan: isPlan = false, cancel = false, force = false } = request;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readState(this.#store, options));
      const disk = findDisk(state, request.disk);
      const plan = planEvacuation(state, disk.value.id);
      const described = (known: Versioned<DiskRecord>): EvacuationPlan => ({
        disk: describeDisk(known, state, diskUses(state)),
        ...plan,
      });
      if (isPlan) return described(disk);
      if (cancel) {
        if (disk.value.evacuate !== true) return { ...described(disk), moves: [], blocked: [] };
        const { evacuate: _evacuate, ...kept } = disk.value;
        const written = await this.#write(disk, kept);
        if (written) return { ...described(written), moves: [], blocked: [], bytes: 0 };
        continue;
      }
      if (disk.value.evacuate === true) return described(disk);
      if (!force) refuseBlocked(state, disk.value, plan);
      const written = await this.#write(disk, { ...disk.value, evacuate: true });
      if (!written) continue;
      this.#logger.info({ diskId: disk.value.id, replicas: plan.moves.length }, 'disk evacuates');
      return described(written);
    }
    throw new StorError('CONFLICT', `disk ${request.disk} changes too often: try again`);
  }

  /** See StorApi.setDisk. */
  async set(request: Request<'setDisk'>): Promise<Disk> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readState(this.#store, options));
      const disk = findDisk(state, request.disk);
      const written = await this.#write(disk, withCapacity(disk.value, request));
      if (!written) continue;
      const { iopsCapacity, bpsCapacity } = written.value;
      this.#logger.info({ diskId: disk.value.id, iopsCapacity, bpsCapacity }, 'disk set');
      return describeDisk(written, state, diskUses(state));
    }
    throw new StorError('CONFLICT', `disk ${request.disk} changes too often: try again`);
  }

  /** See StorApi.removeDisk. */
  async remove(request: Request<'removeDisk'>): Promise<Record<string, never>> {
    const { lost = false } = request;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readState(this.#store, options));
      const disk = findDisk(state, request.disk);
      const { id, nodeId } = disk.value;
      checkRemoval(state, disk.value, lost);
      // from here on nothing is placed on it; a volume that was placed meanwhile finds that out
      const marked =
        disk.value.evacuate === true
          ? disk
          : await this.#write(disk, { ...disk.value, evacuate: true });
      if (!marked) continue;
      checkRemoval(await readState(this.#store), disk.value, lost);
      this.#logger.info({ diskId: id, nodeId, lost }, 'disk is taken out');
      if (isUp(state, nodeId)) await this.#peers.at(nodeId).removeDisk({ diskId: id, lost });
      else await this.#forget(id);
      return {};
    }
    throw new StorError('CONFLICT', `disk ${request.disk} changes too often: try again`);
  }

  /** See StorApi.listPools. */
  async pools(): Promise<{ pools: Pool[]; settings: ClusterSettings }> {
    const state = await readSoon((options) => readState(this.#store, options));
    return { pools: describePools(state), settings: settingsOf(state) };
  }

  /** See StorApi.setPool. */
  async setPool(request: Request<'setPool'>): Promise<ClusterSettings> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readHosts(this.#store);
      const settings = changedSettings(settingsOf(state), request);
      const { succeeded } = await this.#store.transact({
        compare: [{ key: settingsKey, modRevision: state.settings?.modRevision ?? 0 }],
        operations: [{ type: 'put', key: settingsKey, value: encodeRecord(settings) }],
      });
      if (!succeeded) continue;
      this.#logger.info({ ...settings }, 'limits of all disks changed');
      return settings;
    }
    throw new StorError('CONFLICT', 'the settings change too often: try again');
  }

  /** The record of a lost disk whose node cannot be asked. */
  async #forget(id: string): Promise<void> {
    const key = diskKey(id);
    const item = await this.#store.get(key);
    if (!item) return;
    await this.#store.transact({
      compare: [{ key, modRevision: item.modRevision }],
      operations: [{ type: 'delete', key }],
    });
  }

  /** Null when the record was changed meanwhile. */
  async #write(
    disk: Versioned<DiskRecord>,
    value: DiskRecord,
  ): Promise<Versioned<DiskRecord> | null> {
    const key = diskKey(value.id);
    const { succeeded, revision } = await this.#store.transact({
      compare: [{ key, modRevision: disk.modRevision }],
      operations: [{ type: 'put', key, value: encodeRecord(value) }],
    });
    return succeeded ? { value, modRevision: revision } : null;
  }
}

function refuseBlocked(
  state: ClusterState,
  disk: DiskRecord,
  plan: Pick<EvacuationPlan, 'blocked' | 'moves'>,
): void {
  const [first] = plan.blocked;
  if (!first) return;
  const all = plan.blocked.length + plan.moves.length;
  throw new StorError(
    'NO_SPACE',
    `disk ${fullName(disk, state)} is not evacuated: ${plan.blocked.length} of ${all} replicas can go nowhere; that of volume ${first.volume}: ${first.reason}. Add a node or a disk, or make room; "storctl disk evacuate ${disk.id} --plan" shows all`,
  );
}

/** INVALID_ARGUMENT; on the wire what is absent is null. */
function withCapacity(
  disk: DiskRecord,
  wanted: { iopsCapacity?: number | null; bpsCapacity?: number | null },
): DiskRecord {
  const { iopsCapacity: oldIops = 0, bpsCapacity: oldBps = 0, ...rest } = disk;
  const iopsCapacity = wanted.iopsCapacity ?? oldIops;
  const bpsCapacity = wanted.bpsCapacity ?? oldBps;
  // the same ranges as of what is guaranteed
  checkQos({ minIops: iopsCapacity, minBps: bpsCapacity });
  return {
    ...rest,
    ...(iopsCapacity > 0 ? { iopsCapacity } : {}),
    ...(bpsCapacity > 0 ? { bpsCapacity } : {}),
  };
}
