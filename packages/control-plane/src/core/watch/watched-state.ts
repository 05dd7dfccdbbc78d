import { watchKinds } from '@stor/protocol';
import type { WatchedChange, WatchedObjects, WatchKind } from '@stor/protocol';
import type { ClusterState } from '../../resources/cluster-state.ts';
import * as keys from '../../resources/keys.ts';
import { diskShares, disksOn, volumesOn } from '../../resources/state-index.ts';
import { describeDisk } from '../disk/describe-disk.ts';
import { keptVolumes } from '../placement/disk-use.ts';
import type { DiskUse } from '../placement/disk-use.ts';
import { describePolicy, usersOf } from '../qos/policy-rules.ts';
import { describeNode } from '../volume/describe-cluster.ts';
import type { StoreRoles } from '../volume/describe-cluster.ts';
import { describeSnapshot } from '../volume/describe-snapshot.ts';
import { describeVolume } from '../volume/describe-volume.ts';

/** An object of the API, named without its kind's table: ids of different kinds differ. */
export interface WatchedName {
  kind: WatchKind;
  id: string;
}

/**
 * The objects of the API as a state of the records has them, and which of them a change of records
 * may have changed. Nothing in them is asked of a primary or depends on which node describes them:
 * the same records give the same objects everywhere.
 */
export class WatchedState {
  readonly #shown = new Map<WatchKind, Map<string, WatchedChange['object']>>(
    watchKinds.map((kind) => [kind, new Map()]),
  );
  /** volumes of snapshots that the records have, shown or not */
  readonly #volumeOf = new Map<string, string>();
  #uses = new Map<string, DiskUse>();
  /** policies that volumes name, by the keys of their records */
  readonly #policyOf = new Map<string, string>();

  objects(kind: WatchKind): ReadonlyMap<string, WatchedChange['object']> {
    return this.#table(kind);
  }

  /** Before everything is looked at for the first time, or again. */
  prepare(state: ClusterState): void {
    this.#uses = usesOf(state);
    this.#policyOf.clear();
    for (const { metadata, spec, trash } of keptVolumes(state).map(({ value }) => value)) {
      const key = trash ? keys.trashKey(metadata.id) : keys.volumeKey(metadata.id);
      if (spec.policyName !== undefined) this.#policyOf.set(key, spec.policyName);
    }
    for (const [volumeId, table] of state.snapshots) {
      for (const id of table.keys()) this.#volumeOf.set(id, volumeId);
    }
  }

  /** Everything that is to be looked at when all records are new. */
  all(state: ClusterState): WatchedName[] {
    const names = (kind: WatchKind, ids: Iterable<string>): WatchedName[] =>
      Array.from(new Set([...ids, ...this.#table(kind).keys()]), (id) => ({ kind, id }));
    const snapshots = [...state.snapshots.values()].flatMap((table) => [...table.keys()]);
    return [
      ...names('node', state.nodes.keys()),
      ...names('disk', state.disks.keys()),
      ...names('volume', state.volumes.keys()),
      ...names('snapshot', snapshots),
      ...names('policy', state.policies.keys()),
    ];
  }

  /** What changes of these records may have changed, each once. */
  affected(state: ClusterState, changed: readonly string[]): WatchedName[] {
    const found = new Map<string, WatchedName>();
    const add = (kind: WatchKind, id: string): void => {
      found.set(`${kind} ${id}`, { kind, id });
    };
    for (const key of changed) this.#affectedBy(key, state, add);
    return [...found.values()];
  }

  /** Nodes, when the store's leader or learners are others. */
  nodes(): WatchedName[] {
    return Array.from(this.#table('node').keys(), (id) => ({ kind: 'node', id }));
  }

  /** Looks at these again; what is as it was is not returned. */
  update(
    state: ClusterState,
    names: readonly WatchedName[],
    roles: StoreRoles,
  ): { changes: WatchedChange[]; chars: number } {
    const changes: WatchedChange[] = [];
    let chars = 0;
    for (const { kind, id } of names) {
      const table = this.#table(kind);
      const before = table.get(id);
      const now = this.#describe(kind, id, state, roles);
      if (!now && !before) continue;
      const text = now ? JSON.stringify(now) : '';
      if (before && now && JSON.stringify(before) === text) continue;
      if (now) table.set(id, now);
      else table.delete(id);
      const type = !now ? 'DELETED' : before ? 'MODIFIED' : 'ADDED';
      changes.push({ type, kind, id, object: now ?? before } as WatchedChange);
      chars += now ? text.length : JSON.stringify(before).length;
    }
    return { changes, chars };
  }

  #table(kind: WatchKind): Map<string, WatchedChange['object']> {
    return this.#shown.get(kind) as Map<string, WatchedChange['object']>;
  }

  #describe(
    kind: WatchKind,
    id: string,
    state: ClusterState,
    roles: StoreRoles,
  ): WatchedObjects[WatchKind] | null {
    switch (kind) {
      case 'node': {
        const node = state.nodes.get(id);
        return node ? describeNode(node, state, roles) : null;
      }
      case 'disk': {
        const disk = state.disks.get(id);
        return disk ? describeDisk(disk, state, this.#uses) : null;
      }
      case 'volume': {
        const volume = state.volumes.get(id);
        // no node's address is named while nobody is attached: it would be another one everywhere
        return volume ? describeVolume(volume, state, null, '') : null;
      }
      case 'snapshot':
        return this.#describeSnapshot(id, state);
      case 'policy': {
        const policy = state.policies.get(id);
        return policy ? describePolicy(policy, usersOf(state, id).length) : null;
      }
    }
  }

  #describeSnapshot(id: string, state: ClusterState): WatchedObjects['snapshot'] | null {
    const known = this.#table('snapshot').get(id) as WatchedObjects['snapshot'] | undefined;
    const volumeId = this.#volumeOf.get(id) ?? known?.spec.volumeId;
    if (volumeId === undefined) return null;
    const snapshot = state.snapshots.get(volumeId)?.get(id);
    const volume = state.volumes.get(volumeId);
    if (!snapshot || !volume || snapshot.value.isHidden) return null;
    return describeSnapshot(snapshot, volume.value.metadata.name, null);
  }

  #affectedBy(key: string, state: ClusterState, add: (kind: WatchKind, id: string) => void): void {
    const idAfter = (prefix: string): string | null =>
      key.startsWith(prefix) ? key.slice(prefix.length) : null;
    const nodeId = idAfter(keys.nodesPrefix) ?? idAfter(keys.nodeLeasesPrefix);
    if (nodeId !== null) {
      this.#affectedByNode(nodeId, state, add);
      return;
    }
    const diskId = idAfter(keys.disksPrefix);
    if (diskId !== null) {
      add('disk', diskId);
      const known = this.#table('disk').get(diskId) as WatchedObjects['disk'] | undefined;
      if (known) add('node', known.spec.nodeId);
      const now = state.disks.get(diskId);
      if (now) add('node', now.value.nodeId);
      return;
    }
    const snapshot = idAfter(keys.snapshotsPrefix);
    if (snapshot !== null) {
      const [volumeId = '', id = ''] = snapshot.split('/');
      this.#volumeOf.set(id, volumeId);
      if (!state.snapshots.get(volumeId)?.has(id)) this.#volumeOf.delete(id);
      add('snapshot', id);
      add('volume', volumeId);
      return;
    }
    const policy = idAfter(keys.policiesPrefix);
    if (policy !== null) {
      add('policy', policy);
      for (const { metadata } of usersOf(state, policy)) add('volume', metadata.id);
      return;
    }
    const volumeId = idAfter(keys.volumesPrefix);
    if (volumeId !== null) {
      add('volume', volumeId);
      for (const id of state.snapshots.get(volumeId)?.keys() ?? []) {
        this.#volumeOf.set(id, volumeId);
        add('snapshot', id);
      }
    }
    if (volumeId === null && !key.startsWith(keys.trashPrefix)) return;
    this.#affectedPolicies(key, state, add);
    this.#affectedUses(state, add);
  }

  #affectedByNode(
    nodeId: string,
    state: ClusterState,
    add: (kind: WatchKind, id: string) => void,
  ): void {
    add('node', nodeId);
    for (const { value } of disksOn(state, nodeId)) add('disk', value.id);
    for (const { value } of volumesOn(state.volumes, nodeId)) add('volume', value.metadata.id);
    const known = this.#table('node').get(nodeId)?.metadata.name;
    const now = state.nodes.get(nodeId)?.value.name;
    if (known === now) return;
    // messages name nodes: by the id those that are not known
    for (const [id, volume] of this.#table('volume')) {
      const { message } = (volume as WatchedObjects['volume']).status;
      if (message.includes(nodeId) || (known !== undefined && message.includes(known))) {
        add('volume', id);
      }
    }
  }

  /** Policies count their users: those that the volume of this key had, and has. */
  #affectedPolicies(key: string, state: ClusterState, add: (kind: WatchKind, id: string) => void) {
    const before = this.#policyOf.get(key);
    const table = key.startsWith(keys.volumesPrefix)
      ? state.volumes.get(key.slice(keys.volumesPrefix.length))
      : state.trash.get(key.slice(keys.trashPrefix.length));
    const after = table?.value.spec.policyName;
    if (before === after) return;
    if (after === undefined) this.#policyOf.delete(key);
    else this.#policyOf.set(key, after);
    for (const name of [before, after]) if (name !== undefined) add('policy', name);
  }

  /** Disks on which there are more or fewer replicas than before. */
  #affectedUses(state: ClusterState, add: (kind: WatchKind, id: string) => void): void {
    const uses = usesOf(state);
    for (const id of new Set([...uses.keys(), ...this.#uses.keys()])) {
      const [before, now] = [this.#uses.get(id), uses.get(id)];
      const isSame =
        before?.replicas === now?.replicas && before?.provisionedBytes === now?.provisionedBytes;
      if (!isSame) add('disk', id);
    }
    this.#uses = uses;
  }
}

/** As `diskUses`, without what is on its way, which no object shows. */
function usesOf(state: ClusterState): Map<string, DiskUse> {
  const uses = new Map<string, DiskUse>();
  for (const volumes of [state.volumes, state.trash]) {
    for (const [id, { replicas, provisionedBytes }] of diskShares(volumes)) {
      const use = uses.get(id) ?? { replicas: 0, provisionedBytes: 0, comingBytes: 0 };
      uses.set(id, {
        ...use,
        replicas: use.replicas + replicas,
        provisionedBytes: use.provisionedBytes + provisionedBytes,
      });
    }
  }
  return uses;
}
