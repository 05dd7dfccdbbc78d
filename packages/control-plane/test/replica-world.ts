import assert from 'node:assert/strict';
import type { NodeIntent, SegmentStatus, VolumeReplica } from '@stor/protocol';
import { Controllers } from '../src/core/controllers/controllers.ts';
import type { Action } from '../src/core/controllers/controllers.ts';
import { decideSet } from '../src/core/controllers/attachment-rules.ts';
import { isEvacuated, withIntent } from '../src/core/node/node-intent.ts';
import { movedReplica, updatedVolume } from '../src/core/volume/change-volume.ts';
import type { ClusterState } from '../src/resources/cluster-state.ts';
import type { StoredVolume } from '../src/resources/records.ts';
import { apply } from './plan-at.ts';
import { addDisk, addNode, clusterOf, put, setUp, volumeOn } from './volume-fixture.ts';

export type WorldEvent =
  | { type: 'down' | 'up' | 'reconcile' | 'fail-creations' | 'forget'; node: number }
  | { type: 'lose-disk'; disk: number }
  | { type: 'drain'; disk: number; wanted: boolean }
  | { type: 'evacuate' | 'decommission'; node: number; wanted: boolean }
  | { type: 'maintenance'; node: number; ms: number }
  | { type: 'primary' | 'write'; volume: number }
  | { type: 'count'; volume: number; replicas: number }
  | { type: 'move'; volume: number; replica: number; node: number }
  | { type: 'pause'; volume: number; paused: boolean }
  | { type: 'time'; ms: number }
  | { type: 'control'; isLate: boolean }
  | { type: 'leader' };

/** The same state in objects that nobody has seen before. */
function unknown(state: ClusterState): ClusterState {
  const volumes = [...state.volumes].map(
    ([id, volume]) => [id, { ...volume, value: { ...volume.value } }] as const,
  );
  return { ...state, volumes: new Map(volumes) };
}

interface Copy {
  volumeId: string;
  nodeId: string;
  diskId: string;
  /** writes that it has */
  version: number;
}

/**
 * Nodes, primaries and data as stupidly as possible: what the controllers plan is done to records by
 * compare-and-set, nodes create and delete what the records say, primaries copy whole volumes. It
 * throws when data is lost or a rule of the set is broken.
 */
export class ReplicaWorld {
  readonly state: ClusterState;
  readonly nodes: string[];
  readonly disks: string[];
  readonly copies = new Map<string, Copy>();
  readonly versions = new Map<string, number>();
  readonly counts: Record<string, number> = {};
  #controllers = new Controllers();
  /** the same, which look at everything each time */
  #tireless = new Controllers();
  #nowMs = 1_000;
  #ids = 0;
  #late: Action[] = [];
  readonly #refusing = new Set<string>();
  /** replicas on disks that broke */
  readonly #broken = new Set<string>();
  readonly #down = new Set<string>();

  constructor(
    nodes: number,
    volumes: { name: string; replicas: number }[],
    /** those after the first, on each node */
    moreDisks = 0,
  ) {
    this.nodes = Array.from({ length: nodes }, (_, i) => `n${i}`);
    this.state = clusterOf(Object.fromEntries(this.nodes.map((id) => [id, {}])));
    for (let i = 0; i < moreDisks; i++) {
      for (const id of this.nodes) addDisk(this.state, id, `e${i}-${id}`);
    }
    this.disks = [...this.state.disks.keys()];
    volumes.forEach(({ name, replicas }, i) => {
      const on = this.nodes.map((_, j) => this.nodes[(i + j) % nodes] ?? '').slice(0, replicas);
      const record = volumeOn(on, { name, policy: { replacementWaitMs: 60_000 } });
      put(this.state, record);
      this.versions.set(record.metadata.id, 0);
      for (const replica of record.status.segments[0]?.replicas ?? []) {
        const { id, nodeId, diskId } = replica;
        this.copies.set(id, { volumeId: record.metadata.id, nodeId, diskId, version: 0 });
      }
    });
  }

  run(event: WorldEvent): void {
    this.#count(event.type);
    switch (event.type) {
      case 'down':
        this.#setDown(this.#node(event.node));
        break;
      case 'up':
        this.#setUp(this.#node(event.node));
        break;
      case 'forget':
        this.#forget(this.#node(event.node));
        break;
      case 'reconcile':
        this.#reconcile(this.#node(event.node));
        break;
      case 'fail-creations':
        this.#refusing.add(this.#node(event.node));
        break;
      case 'lose-disk':
        this.#loseDisk(this.#disk(event.disk));
        break;
      case 'drain':
        this.#drain(this.#disk(event.disk), event.wanted);
        break;
      case 'evacuate':
      case 'decommission':
        this.#intend(this.#node(event.node), {
          [event.type]: event.wanted ? { sinceMs: this.#nowMs } : undefined,
        });
        break;
      case 'maintenance':
        this.#intend(this.#node(event.node), {
          maintenance: { sinceMs: this.#nowMs, untilMs: this.#nowMs + event.ms },
        });
        break;
      case 'primary':
        this.#primary(this.#volume(event.volume));
        break;
      case 'write':
        this.#write(this.#volume(event.volume));
        break;
      case 'time':
        this.#nowMs += event.ms;
        break;
      case 'leader':
        this.#controllers = new Controllers();
        this.#tireless = new Controllers();
        break;
      case 'control':
        this.#control(event.isLate);
        break;
      default:
        this.#order(event);
    }
    this.#check();
  }

  /** Everything comes back and is given time; returns what is still not right. */
  settle(): string[] {
    this.#refusing.clear();
    for (let round = 0; round < 100; round++) {
      for (const node of this.nodes) if (this.#down.has(node)) this.#setUp(node);
      for (const volume of [...this.state.volumes.values()]) {
        if (volume.value.spec.policy.rebuildPaused) this.#putPaused(volume.value, false);
      }
      // nobody uses the volumes: what must be repaired is repaired because a controller asks for it
      for (const id of this.#control(false)) this.#primary(id);
      for (const node of this.nodes) this.#reconcile(node);
      this.#nowMs += 20_000;
      this.#check();
    }
    return this.#unsettled();
  }

  #unsettled(): string[] {
    const wrong: string[] = [];
    const known = new Set<string>();
    for (const { value } of this.state.volumes.values()) {
      for (const segment of value.status.segments) {
        const able = segment.replicas.filter(({ state }) => state === 'ready');
        const on = new Set(able.map(({ nodeId }) => nodeId));
        const wanted = Math.min(value.spec.replicas, this.#usable(value));
        const isIn = able.every(({ id }) => segment.inSync.includes(id));
        if (on.size < wanted) wrong.push(`${value.metadata.name} is on ${on.size} of ${wanted}`);
        if (able.length > value.spec.replicas) wrong.push(`${value.metadata.name} has too many`);
        if (able.length > on.size) wrong.push(`${value.metadata.name} has two on one node`);
        const canMove = this.#usable(value, true) >= value.spec.replicas;
        const stuck = able.filter(({ diskId }) => this.#isDrained(diskId));
        if (canMove && stuck.length > 0) wrong.push(`${value.metadata.name} did not move away`);
        if (!isIn) wrong.push(`${value.metadata.name} is not in sync`);
        if (segment.replicas.some((r) => r.leaving === true)) wrong.push('somebody is leaving');
        if ((segment.removed ?? []).length > 0) wrong.push('something is still to be deleted');
        for (const { id } of segment.replicas) known.add(id);
      }
    }
    for (const id of this.copies.keys()) if (!known.has(id)) wrong.push(`${id} is an orphan`);
    for (const id of this.state.reports.keys()) {
      if (!known.has(id)) wrong.push(`the report of ${id} is left over`);
    }
    const rest = this.#plan().filter(({ type }) => type !== 'ask-attach');
    if (rest.length > 0) wrong.push(`still planned: ${rest.map(({ type }) => type).join()}`);
    return wrong;
  }

  #drain(diskId: string, evacuate: boolean): void {
    const disk = this.state.disks.get(diskId);
    if (!disk) return;
    const { modRevision, value } = disk;
    this.state.disks.set(diskId, { value: { ...value, evacuate }, modRevision: modRevision + 1 });
  }

  #intend(
    nodeId: string,
    change: {
      evacuate?: NodeIntent['evacuate'] | undefined;
      decommission?: NodeIntent['decommission'] | undefined;
      maintenance?: NodeIntent['maintenance'];
    },
  ): void {
    const node = this.state.nodes.get(nodeId);
    if (!node) return;
    const entries = Object.entries({ ...node.value.spec, ...change });
    const intent = Object.fromEntries(entries.filter(([, part]) => part !== undefined));
    const value = withIntent(node.value, intent as NodeIntent);
    this.state.nodes.set(nodeId, { value, modRevision: node.modRevision + 1 });
  }

  #isDrained(diskId: string): boolean {
    const disk = this.state.disks.get(diskId)?.value;
    const node = this.state.nodes.get(disk?.nodeId ?? '')?.value;
    return disk?.evacuate === true || isEvacuated(node);
  }

  /** Nodes with a disk that holds, or could take, a replica of the volume. */
  #usable(volume: StoredVolume, butDrained = false): number {
    const replicas = volume.status.segments.flatMap((s) => s.replicas);
    const isAble = (diskId: string): boolean => {
      const there = replicas.filter((r) => r.diskId === diskId);
      if (this.state.disks.get(diskId)?.value.state !== 'online') return false;
      if (there.some((r) => r.state === 'failed')) return false;
      return !this.#isDrained(diskId) || (!butDrained && there.length > 0);
    };
    const able = this.disks.filter(isAble);
    return new Set(able.map((id) => this.state.disks.get(id)?.value.nodeId)).size;
  }

  #plan(): Action[] {
    const now = { monotonicMs: this.#nowMs, wallMs: this.#nowMs };
    const before = this.#ids;
    const actions = this.#controllers.plan(this.state, now, () => `r-new-${++this.#ids}`);
    // the same, from controllers that can remember no volume as one at which nothing is to be done
    let ids = before;
    const all = this.#tireless.plan(unknown(this.state), now, () => `r-new-${++ids}`);
    assert.deepEqual(actions, all);
    return actions;
  }

  /** Returns the volumes that some node was asked to attach. */
  #control(isLate: boolean): string[] {
    // actions of an older look, as of a leader that was replaced: compare-and-set refuses them
    for (const action of this.#late) this.#apply(action, true);
    this.#late = [];
    const actions = this.#plan();
    this.#checkBudget();
    if (isLate) {
      this.#late = actions;
      return [];
    }
    for (const action of actions) this.#apply(action);
    return actions.flatMap((action) => (action.type === 'ask-attach' ? [action.volumeId] : []));
  }

  #apply(action: Action, isLate = false): void {
    if (action.type === 'note-absence' || action.type === 'put-node') {
      const { node } = action.type === 'put-node' ? action : action.note;
      if (this.state.nodes.get(node.value.id)?.modRevision !== node.modRevision) return;
    } else if (action.type === 'rebalance') {
      if (this.state.rebalance?.modRevision !== action.rebalance.modRevision) return;
      const { volume, change } = action.begins ?? {};
      const now = volume && this.state.volumes.get(volume.value.metadata.id);
      if (now?.modRevision !== volume?.modRevision) return;
      if (volume && change) this.#checkChange(volume.value, change.record, isLate);
      if (change) this.#count('begun by a rebalance');
    } else if (action.type === 'remove-node') {
      const { id } = action.node.value;
      if (this.state.nodes.get(id)?.modRevision !== action.node.modRevision) return;
      for (const [replicaId, copy] of this.copies) {
        if (copy.nodeId === id) throw new Error(`${replicaId} lies on ${id}, which is removed`);
      }
    } else if ('volume' in action) {
      const { volume } = action;
      const now = this.state.volumes.get(volume.value.metadata.id);
      if (now?.modRevision !== volume.modRevision) return;
    }
    this.#count(action.type);
    if (action.type === 'change-replicas') {
      this.#count(action.change.what);
      this.#checkChange(action.volume.value, action.change.record, isLate);
    }
    apply(this.state, action);
  }

  /** I4: no controller touches the set; what leaves leaves enough behind. */
  #checkChange(before: StoredVolume, after: StoredVolume, isLate: boolean): void {
    before.status.segments.forEach((old, i) => {
      const now = after.status.segments[i];
      if (!now) throw new Error('a segment is gone');
      if (JSON.stringify(old.inSync) !== JSON.stringify(now.inSync)) throw new Error('I4');
      if (old.setRevision !== now.setRevision) throw new Error('I4: revision');
      const marked = now.replicas.filter(
        (r) => r.leaving === true && old.replicas.some((o) => o.id === r.id && o.leaving !== true),
      );
      this.#checkAdded(old, now, isLate);
      // a node that went down since the look is no change of the record: the primary waits then
      if (marked.length === 0 || isLate) return;
      const isMoved = now.replicas.some(
        (r) => r.purpose === 'move' && !old.replicas.some((o) => o.id === r.id),
      );
      // it leaves when the one that is added with it is in sync, as when an operator moves one
      if (isMoved) {
        if (old.replicas.some((r) => !this.#isGood(old, r)))
          throw new Error('moved while degraded');
        this.#count('moved by a rule');
        return;
      }
      const stay = now.replicas.filter((r) => r.leaving !== true && this.#isGood(now, r));
      const on = new Set(stay.map(({ nodeId }) => nodeId));
      const isSucceeded = marked.every(({ nodeId }) => on.has(nodeId));
      if (isSucceeded && marked.length > 0) this.#count('succeeded on its node');
      if (on.size < after.spec.replicas && !isSucceeded) throw new Error('too few stay');
    });
  }

  /** A second one on a node is there in place of one that is lost, or whose disk is to be emptied. */
  #checkAdded(old: SegmentStatus, now: SegmentStatus, isLate: boolean): void {
    for (const added of now.replicas) {
      if (old.replicas.some(({ id }) => id === added.id)) continue;
      const others = old.replicas.filter((r) => r.state !== 'failed');
      if (others.some(({ diskId }) => diskId === added.diskId)) throw new Error('two on one disk');
      const beside = others.filter((r) => r.nodeId === added.nodeId && r.leaving !== true);
      if (beside.length === 0) continue;
      this.#count('placed beside');
      if (isLate) continue;
      const isGoing = beside.every((r) => this.#isDrained(r.diskId) || !this.copies.has(r.id));
      if (!isGoing) throw new Error('two of one volume on one node');
    }
  }

  #isGood(segment: SegmentStatus, replica: VolumeReplica): boolean {
    const isUp = this.state.leases.has(replica.nodeId);
    return isUp && replica.state === 'ready' && segment.inSync.includes(replica.id);
  }

  #checkBudget(): void {
    let filling = 0;
    for (const { value } of this.state.volumes.values()) {
      for (const segment of value.status.segments) {
        filling += segment.replicas.filter(
          (r) =>
            r.purpose === 'replacement' &&
            r.leaving !== true &&
            !segment.inSync.includes(r.id) &&
            this.state.leases.has(r.nodeId),
        ).length;
      }
    }
    this.counts['most filling'] = Math.max(this.counts['most filling'] ?? 0, filling);
  }

  #check(): void {
    for (const { value } of this.state.volumes.values()) {
      const { id, name } = value.metadata;
      for (const { replicas, inSync, removed = [] } of value.status.segments) {
        if (inSync.length === 0) throw new Error(`I7: the set of ${name} is empty`);
        for (const member of inSync) {
          if (!replicas.some((r) => r.id === member))
            throw new Error(`${member} is in no replicas`);
          if (removed.some((r) => r.id === member)) throw new Error(`${member} is removed`);
          const copy = this.copies.get(member);
          if (!copy && !this.#broken.has(member))
            throw new Error(`member ${member} of ${name} was deleted`);
          if (copy && copy.version !== this.versions.get(id)) throw new Error(`${member} is old`);
        }
        const disks = replicas.filter((r) => r.state !== 'failed').map((r) => r.diskId);
        if (new Set(disks).size !== disks.length) throw new Error(`two of ${name} on one disk`);
      }
    }
  }

  #setDown(node: string): void {
    this.state.leases.delete(node);
    this.#down.add(node);
  }

  #setUp(node: string): void {
    // its agent may come back, and is refused
    if (this.state.forgotten.has(node)) return;
    setUp(this.state, node);
    this.#down.delete(node);
    const known = this.state.nodes.get(node);
    if (!known) return;
    const { downSinceMs: _since, ...value } = known.value;
    this.state.nodes.set(node, { value, modRevision: known.modRevision + 1 });
  }

  /** A node that is down is given up with all it has, unless it has the only copy of something. */
  #forget(node: string): void {
    const known = this.state.nodes.get(node);
    if (!known || !this.#down.has(node)) return;
    if (!this.#isElsewhere((copy) => copy.nodeId === node)) return;
    this.#count('forgotten');
    const value = { id: node, name: node, atMs: this.#nowMs, how: 'forgotten' };
    this.state.forgotten.set(node, { value, modRevision: 1 });
    this.state.nodes.delete(node);
    for (const [id, disk] of this.state.disks) {
      if (disk.value.nodeId === node) this.state.disks.delete(id);
    }
    for (const [id, copy] of this.copies) {
      if (copy.nodeId !== node) continue;
      this.copies.delete(id);
      this.#broken.add(id);
    }
  }

  /** Every volume has a member that does not go. */
  #isElsewhere(goes: (copy: Copy) => boolean): boolean {
    return [...this.state.volumes.values()].every(({ value }) => {
      const members = value.status.segments.flatMap(({ inSync }) => inSync);
      return members.some((id) => {
        const copy = this.copies.get(id);
        return copy !== undefined && !goes(copy);
      });
    });
  }

  /** A disk breaks for good, unless it has the only copy of something. */
  #loseDisk(diskId: string): void {
    const disk = this.state.disks.get(diskId);
    if (!disk || disk.value.state !== 'online') return;
    if (!this.#isElsewhere((copy) => copy.diskId === diskId)) return;
    const value = { ...disk.value, state: 'failed' };
    this.state.disks.set(diskId, { value, modRevision: disk.modRevision + 1 });
    for (const [id, copy] of this.copies) {
      if (copy.diskId !== diskId) continue;
      this.copies.delete(id);
      this.#broken.add(id);
      this.#report(id, copy.volumeId, copy.nodeId, 'failed');
    }
  }

  #reconcile(node: string): void {
    if (this.#down.has(node)) return;
    for (const { value } of this.state.volumes.values()) {
      const volumeId = value.metadata.id;
      for (const segment of value.status.segments) {
        for (const { id, nodeId, diskId, state } of segment.replicas) {
          if (nodeId !== node || state !== 'creating' || this.state.reports.has(id)) continue;
          const isOnline = this.state.disks.get(diskId)?.value.state === 'online';
          const fails = this.#refusing.has(node) || !isOnline;
          if (!fails) this.copies.set(id, { volumeId, nodeId, diskId, version: -1 });
          this.#report(id, volumeId, node, fails ? 'failed' : 'ready');
        }
        for (const { id, nodeId } of segment.removed ?? []) {
          if (nodeId !== node) continue;
          this.copies.delete(id);
          this.#report(id, volumeId, node, 'deleted');
        }
      }
    }
  }

  #report(replicaId: string, volumeId: string, nodeId: string, state: string): void {
    const value = { replicaId, volumeId, nodeId, state, code: '', message: '' };
    this.state.reports.set(replicaId, { value, modRevision: 1 });
  }

  /** What a primary on some node does in the end: shrinks, fills, lets leaving ones go. */
  #primary(volumeId: string): void {
    const volume = this.state.volumes.get(volumeId)?.value;
    const segment = volume?.status.segments[0];
    if (!volume || !segment) return;
    const canReach = (r: VolumeReplica): boolean =>
      r.state === 'ready' && this.copies.has(r.id) && !this.#down.has(r.nodeId);
    const sources = segment.replicas.filter((r) => canReach(r) && segment.inSync.includes(r.id));
    if (sources.length === 0) return;
    const fills = volume.spec.policy.rebuildPaused
      ? []
      : segment.replicas.filter((r) => canReach(r) && r.leaving !== true && !sources.includes(r));
    const all = [...sources, ...fills];
    const stay = all.filter((r) => r.leaving !== true);
    const ready = segment.replicas.filter((r) => r.leaving !== true && r.state === 'ready');
    const on = new Set(stay.map((r) => r.nodeId));
    const able = new Set(ready.map((r) => r.nodeId));
    const mayGo = stay.length > 0 && on.size >= Math.min(volume.spec.replicas, able.size);
    const kept = all.filter((r) => r.leaving !== true || !(mayGo || on.has(r.nodeId)));
    const inSync = kept.map(({ id }) => id);
    const version = this.versions.get(volumeId) ?? 0;
    if (!sources.some(({ id }) => this.copies.get(id)?.version === version)) {
      throw new Error('the newest writes are gone');
    }
    const epoch = volume.status.epoch + 1;
    const attachment = {
      nodeId: 'n0',
      agentInstance: 'i-n0',
      epoch,
      mode: 'auto' as const,
      sinceMs: 0,
    };
    const held = { ...volume, status: { ...volume.status, epoch, attachment } };
    const { setRevision } = segment;
    const proposal = { nowWallMs: this.#nowMs, segment: 0, epoch, setRevision, inSync };
    const decision = decideSet(held, proposal);
    if (decision.type !== 'change') throw new Error(`refused: ${decision.type}`);
    for (const id of inSync) {
      const copy = this.copies.get(id);
      if (copy) copy.version = version;
    }
    const alone = { ...proposal, setRevision: decision.setRevision, confirms: true };
    const confirmed = decision.isUnconfirmed ? decideSet(decision.record, alone) : decision;
    if (confirmed.type !== 'change') throw new Error(`refused: ${confirmed.type}`);
    const { status } = confirmed.record;
    this.#put({ ...confirmed.record, status: { ...status, attachment: null } });
  }

  /** A write reaches every member, or none when one is away and the set was not shrunk. */
  #write(volumeId: string): void {
    const volume = this.state.volumes.get(volumeId)?.value;
    const members = volume?.status.segments.flatMap(({ inSync }) => inSync) ?? [];
    const copies = members.map((id) => this.copies.get(id));
    if (copies.some((copy) => !copy || this.#down.has(copy.nodeId))) return;
    const version = (this.versions.get(volumeId) ?? 0) + 1;
    this.versions.set(volumeId, version);
    for (const copy of copies) if (copy) copy.version = version;
  }

  #order(event: WorldEvent & { type: 'count' | 'move' | 'pause' }): void {
    const volume = this.state.volumes.get(this.#volume(event.volume));
    if (!volume) return;
    const context = {
      state: this.state,
      wallMs: this.#nowMs,
      newReplicaId: () => `r-new-${++this.#ids}`,
    };
    try {
      if (event.type === 'pause') {
        this.#putPaused(volume.value, event.paused);
        return;
      }
      if (event.type === 'count') {
        this.#put(updatedVolume(volume.value, { replicas: event.replicas }, context));
        return;
      }
      const replicas = volume.value.status.segments.flatMap((segment) => segment.replicas);
      const replica = replicas[event.replica % replicas.length]?.id ?? '';
      const move = { replica, nodeId: this.#node(event.node), disk: '' };
      const moved = movedReplica(volume.value, move, context);
      if (moved) this.#put(moved);
    } catch {
      this.#count('refused order');
    }
  }

  #putPaused(volume: StoredVolume, rebuildPaused: boolean): void {
    const { spec } = volume;
    this.#put({ ...volume, spec: { ...spec, policy: { ...spec.policy, rebuildPaused } } });
  }

  #put(record: StoredVolume): void {
    const { id } = record.metadata;
    const modRevision = (this.state.volumes.get(id)?.modRevision ?? 0) + 1;
    this.state.volumes.set(id, { value: record, modRevision });
  }

  #node(index: number): string {
    return this.nodes[index % this.nodes.length] ?? '';
  }

  #disk(index: number): string {
    return this.disks[index % this.disks.length] ?? '';
  }

  #volume(index: number): string {
    const ids = [...this.state.volumes.keys()];
    return ids[index % ids.length] ?? '';
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }
}

export { addNode };
