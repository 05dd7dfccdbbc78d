import { joinSnapshotName, StorError } from '@stor/protocol';
import type { Disk, Node, NodePlan, NodeVerb, Policy, Tenant, Volume } from '@stor/protocol';
import type { ClusterStore } from '../cluster-store.ts';
import { findDisk } from '../core/disk/find-disk.ts';
import type { AnswerSource, ObjectKind } from '../core/requests/change-rules.ts';
import { planOfLeft } from '../core/node/plan-left-node.ts';
import { findPolicy } from '../core/qos/policy-rules.ts';
import { findTenant } from '../core/qos/tenant-rules.ts';
import { findTrashed } from '../core/volume/trash-rules.ts';
import { decodeForgotten } from '../resources/forgotten-record.ts';
import { findVolume, readHosts, readSnapshots, readState, readVolume } from '../resources/find.ts';
import {
  diskKey,
  forgottenKey,
  nodeKey,
  policyKey,
  snapshotKey,
  tenantKey,
  trashKey,
  volumeKey,
} from '../resources/keys.ts';
import { decodeVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { findNode } from './find-node.ts';
import { readSoon } from './read-soon.ts';
import type { SnapshotService } from './snapshot-service.ts';

/** How long the repetition of a rollback waits for its end (ms): as a client waits for a call. */
const rollbackWaitMs = 30_000;

export interface NamedObject {
  id: string;
  key: string;
  modRevision: number;
  /** no node holds it: nobody but the caller of the API has a reason to write it now */
  isIdle: boolean;
}

/** What changes of the API are about: by name, with their versions, and as they are afterwards. */
export class ChangedObjects {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #snapshots: SnapshotService;
  readonly #shown: {
    node: (id: string) => Promise<Node>;
    volume: (id: string) => Promise<Volume>;
    disks: () => Promise<Disk[]>;
    policy: (id: string) => Promise<Policy>;
    tenant: (id: string) => Promise<Tenant>;
  };

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    snapshots: SnapshotService;
    shown: {
      node: (id: string) => Promise<Node>;
      volume: (id: string) => Promise<Volume>;
      disks: () => Promise<Disk[]>;
      policy: (id: string) => Promise<Policy>;
      tenant: (id: string) => Promise<Tenant>;
    };
  }) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#snapshots = options.snapshots;
    this.#shown = options.shown;
  }

  keyOf(kind: ObjectKind, id: string): string {
    switch (kind) {
      case 'node':
        return nodeKey(id);
      case 'disk':
        return diskKey(id);
      case 'volume':
        return volumeKey(id);
      case 'trashed-volume':
        return trashKey(id);
      case 'snapshot':
        // its key needs the volume too; a repetition finds it by the id
        return snapshotKey(volumeOfSnapshot(this.#cache, id), id);
      case 'policy':
        // its key is its name
        return policyKey(nameOf(this.#cache.state.policies, id));
      case 'tenant':
        return tenantKey(nameOf(this.#cache.state.tenants, id));
    }
  }

  /** By name or id. NOT_FOUND; UNAVAILABLE without a quorum. */
  async find(kind: ObjectKind, name: string): Promise<NamedObject> {
    switch (kind) {
      case 'node': {
        const state = await readSoon((options) => readHosts(this.#store, options));
        const { value, modRevision } = findNode(state, name);
        return { id: value.id, key: nodeKey(value.id), modRevision, isIdle: true };
      }
      case 'disk': {
        const state = await readSoon((options) => readHosts(this.#store, options));
        const { value, modRevision } = findDisk(state, name);
        return { id: value.id, key: diskKey(value.id), modRevision, isIdle: true };
      }
      case 'volume': {
        const found = await readSoon((options) => findVolume(this.#store, name, options));
        const { id } = found.value.metadata;
        const isIdle = found.value.status.attachment === null;
        return { id, key: volumeKey(id), modRevision: found.modRevision, isIdle };
      }
      case 'trashed-volume': {
        const state = await readSoon((options) => readState(this.#store, options));
        const { value, modRevision } = findTrashed(state, name);
        const { id } = value.metadata;
        return { id, key: trashKey(id), modRevision, isIdle: true };
      }
      case 'snapshot': {
        const { snapshot } = await this.#snapshots.find(name);
        const { id, volumeId } = snapshot.value;
        const key = snapshotKey(volumeId, id);
        return { id, key, modRevision: snapshot.modRevision, isIdle: true };
      }
      case 'policy': {
        const { policies } = await readSoon((options) => readHosts(this.#store, options));
        const { value, modRevision } = findPolicy(policies, name);
        return { id: value.id, key: policyKey(value.name), modRevision, isIdle: true };
      }
      case 'tenant': {
        const state = await readSoon((options) => readState(this.#store, options));
        const { value, modRevision } = findTenant(state, name);
        return { id: value.id, key: tenantKey(value.name), modRevision, isIdle: true };
      }
    }
  }

  /** What a change answered that was made earlier, as its object is now. */
  async answer(source: AnswerSource, id: string, note: string): Promise<object> {
    switch (source) {
      case 'node':
        return this.#shown.node(id);
      case 'volume':
        return this.#shown.volume(id);
      case 'snapshot':
        return this.#snapshots.get(id);
      case 'policy':
        return this.#shown.policy(id);
      case 'tenant':
        return this.#shown.tenant(id);
      case 'deletion':
        return { keptUntilMs: await this.#keptUntilMs(id) };
      case 'rolled-back':
        return this.#rolledBack(id, note);
      case 'empty':
        return {};
    }
  }

  /** The answer to an order that has taken its node out of the cluster; null: it is not out by that. */
  async leftNode(id: string, order: object): Promise<NodePlan | null> {
    const { verb, cancel = false } = order as { verb: NodeVerb; cancel?: boolean };
    if (id === '' || cancel) return null;
    const key = forgottenKey(id);
    const item = await this.#store.get(key);
    return item && planOfLeft(verb, decodeForgotten(key, item.value));
  }

  /** NOT_FOUND */
  async diskAt({ node, path }: { node: string; path: string }): Promise<Disk> {
    const state = await readHosts(this.#store);
    const { id } = findDisk(state, `${findNode(state, node).value.id}:${path}`).value;
    const disk = (await this.#shown.disks()).find(({ metadata }) => metadata.id === id);
    if (disk) return disk;
    throw new StorError('NOT_FOUND', `disk ${id} was removed meanwhile`);
  }

  async #keptUntilMs(id: string): Promise<number> {
    const item = await this.#store.get(trashKey(id));
    return item ? (decodeVolume(item.key, item.value).trash?.keptUntilMs ?? 0) : 0;
  }

  /** Waits until it is over, as the first call does. */
  async #rolledBack(id: string, safetyId: string): Promise<object> {
    await this.#cache.waitFor(
      (state) => state.volumes.get(id)?.value.status.rollback === undefined || undefined,
      { timeoutMs: rollbackWaitMs },
    );
    const volume = await readVolume(this.#store, id);
    if (!volume) throw new StorError('NOT_FOUND', `volume ${id} was deleted meanwhile`);
    if (volume.value.status.rollback) {
      throw new StorError('TIMEOUT', `volume ${volume.value.metadata.name} is still rolled back`);
    }
    const safety = (await readSnapshots(this.#store, id, { local: true })).get(safetyId);
    const name = volume.value.metadata.name;
    return {
      volume: await this.#shown.volume(id),
      safetySnapshot: safety ? joinSnapshotName(name, safety.value.name) : '',
    };
  }
}

function volumeOfSnapshot(cache: StateCache, id: string): string {
  for (const [volumeId, table] of cache.state.snapshots) if (table.has(id)) return volumeId;
  return '';
}

/** Those whose keys are their names. */
function nameOf(
  table: ReadonlyMap<string, { value: { id: string; name: string } }>,
  id: string,
): string {
  for (const { value } of table.values()) if (value.id === id) return value.name;
  return '';
}
