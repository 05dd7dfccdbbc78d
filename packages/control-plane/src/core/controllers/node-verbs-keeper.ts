import type { EventNote, NodeId, VolumeId } from '@stor/protocol';
import type { Transaction } from '../../cluster-store.ts';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import { diskKey } from '../../resources/keys.ts';
import type { NodeRecord, StoredVolume } from '../../resources/records.ts';
import { disksOn, volumesOn } from '../../resources/state-index.ts';
import { isDrained, withIntent } from '../node/node-intent.ts';
import { holdingsOf, holdsNothing, maxDisksAtOnce, removalOf } from '../node/node-removal.ts';
import { doneNote, maintenanceOverNote } from '../node/node-notes.ts';
import { attachmentMoves } from '../node/plan-attachments.ts';
import type { AttachmentMove } from '../node/plan-attachments.ts';
import { placedOn } from '../node/plan-node.ts';
import type { Now } from './absence.ts';
import { wantAt, wantNowhere } from './attachment-rules.ts';
import type { ReplicaChange } from './replica-keeper.ts';

/** Attachments of one node that move at the same time: clients of each are paused meanwhile. */
export const maxHandOvers = 4;
/** One that has not come about after this is asked for again, and others are not kept waiting (ms). */
export const handOverPatienceMs = 30_000;
/** First and longest wait after one that failed (ms). */
export const handOverBackoffMs = 2_000;
export const handOverBackoffMaxMs = 60_000;
/**
 * A node to be decommissioned must have been seen to hold nothing for so long (ms): what was placed on it
 * by somebody who did not know of the order yet is recorded by then, or was given up. Calls of the store
 * take 5 s at most.
 */
export const settleMs = 10_000;

export type NodeAction =
  /** the record with another wish */
  | {
      type: 'put-node';
      node: Versioned<NodeRecord>;
      record: NodeRecord;
      what: string;
      /** told when it is written */
      note: EventNote;
    }
  | { type: 'note-event'; note: EventNote }
  /** hand the volume over, live, if it is still held at that epoch */
  | { type: 'move-primary'; volumeId: VolumeId; nodeId: NodeId; epoch: number }
  | { type: 'change-replicas'; volume: Versioned<StoredVolume>; change: ReplicaChange }
  /** it holds nothing any more and leaves the cluster */
  | { type: 'remove-node'; node: Versioned<NodeRecord>; transaction: Transaction }
  /** of a node that has left: it is to hear of it */
  | { type: 'end-lease'; nodeId: NodeId }
  /** of nodes that have left: recorded by them while they were leaving */
  | { type: 'forget-disks'; transaction: Transaction };

interface Memory {
  epoch: number;
  tries: number;
  askedMs: number;
}

/**
 * Carries out what operators want of nodes, as far as it is not replicas that move: that follows from
 * the rules of replicas. Level-triggered; it remembers only what it has asked for lately.
 */
export class NodeVerbsKeeper {
  readonly #asked = new Map<VolumeId, Memory>();
  /** nodes to be decommissioned that hold nothing, since then by this leader's own sight */
  readonly #emptySinceMs = new Map<NodeId, number>();
  /** `drain n-...` of nodes that had something to move at the last look */
  readonly #moving = new Set<string>();

  /** `voters`: see `Controllers.plan`. */
  plan(state: ClusterState, now: Now, voters: readonly NodeId[] | null): NodeAction[] {
    const actions: NodeAction[] = leftOf(state);
    const seen = new Set<VolumeId>();
    for (const node of state.nodes.values()) {
      if (node.value.spec === undefined) {
        this.#moving.delete(`drain ${node.value.id}`);
        this.#moving.delete(`evacuate ${node.value.id}`);
        continue;
      }
      const ended = endedMaintenance(node, now);
      if (ended) actions.push(ended);
      if (isDrained(node.value)) actions.push(...this.#drain(state, node.value, now, seen));
      actions.push(...this.#tellDone(state, node.value));
      const removal = this.#decommission(state, node, now, voters);
      if (removal) actions.push(removal);
    }
    for (const id of this.#emptySinceMs.keys()) {
      if (!state.nodes.get(id)?.value.spec?.decommission) this.#emptySinceMs.delete(id);
    }
    for (const id of this.#asked.keys()) if (!seen.has(id)) this.#asked.delete(id);
    return actions;
  }

  /** Once, when the last of what is to move has gone; a decommission ends with a note of its own. */
  #tellDone(state: ClusterState, node: NodeRecord): NodeAction[] {
    const { drain, evacuate } = node.spec ?? {};
    const counts = {
      drain: drain ? attachmentMoves(state, node.id).length : null,
      evacuate: evacuate ? placedOn(state, node.id).length : null,
    };
    return (['drain', 'evacuate'] as const).flatMap((verb): NodeAction[] => {
      const key = `${verb} ${node.id}`;
      const count = counts[verb];
      if (count !== null && count > 0) this.#moving.add(key);
      if (count === 0 && this.#moving.has(key)) {
        this.#moving.delete(key);
        return [{ type: 'note-event', note: doneNote(node, verb) }];
      }
      if (count === null) this.#moving.delete(key);
      return [];
    });
  }

  #decommission(
    state: ClusterState,
    node: Versioned<NodeRecord>,
    now: Now,
    voters: readonly NodeId[] | null,
  ): NodeAction | null {
    const { id, spec } = node.value;
    if (!spec?.decommission) return null;
    // a voter loses its vote by the rules of the members, which see the same order
    const mayGo = holdsNothing(holdingsOf(state, id)) && voters?.includes(id) !== true;
    if (!mayGo) {
      this.#emptySinceMs.delete(id);
      return null;
    }
    const sinceMs = this.#emptySinceMs.get(id) ?? now.monotonicMs;
    this.#emptySinceMs.set(id, sinceMs);
    if (now.monotonicMs - sinceMs < settleMs) return null;
    const transaction = removalOf(state, node, {
      how: 'decommissioned',
      nowWallMs: now.wallMs,
      mustBeDown: false,
      isMember: voters !== null,
    });
    return { type: 'remove-node', node, transaction };
  }

  #drain(state: ClusterState, node: NodeRecord, now: Now, seen: Set<VolumeId>): NodeAction[] {
    const actions: NodeAction[] = [];
    const moves = attachmentMoves(state, node.id);
    for (const { volume } of moves) seen.add(volume.value.metadata.id);
    const pending = moves.filter((move) => this.#isPending(move, now.monotonicMs));
    let free = maxHandOvers - pending.length;
    for (const move of moves) {
      const { volume, holder, toNodeId } = move;
      const { id } = volume.value.metadata;
      if (toNodeId === null) continue;
      if (!holder) {
        const record = wantAt(volume.value, toNodeId);
        const what = `it is wanted on another node, because ${node.name} is drained`;
        actions.push({
          type: 'change-replicas',
          volume,
          change: { record, what, forgotten: [] },
        });
        continue;
      }
      if (free <= 0 || !this.#isDue(id, holder.epoch, now.monotonicMs)) continue;
      const tries = this.#triesOf(id, holder.epoch);
      this.#asked.set(id, { epoch: holder.epoch, tries: tries + 1, askedMs: now.monotonicMs });
      free -= 1;
      actions.push({ type: 'move-primary', volumeId: id, nodeId: toNodeId, epoch: holder.epoch });
    }
    return actions;
  }

  /** It was asked for and may still come about. */
  #isPending({ volume, holder }: AttachmentMove, nowMs: number): boolean {
    const memory = this.#asked.get(volume.value.metadata.id);
    if (!memory || memory.epoch !== holder?.epoch) return false;
    return nowMs - memory.askedMs < handOverPatienceMs;
  }

  #isDue(id: VolumeId, epoch: number, nowMs: number): boolean {
    const memory = this.#asked.get(id);
    if (!memory) return true;
    const waitMs = Math.min(handOverBackoffMs * 2 ** (memory.tries - 1), handOverBackoffMaxMs);
    // another epoch: the last one came to an end, maybe because the new node could not take it
    const patienceMs = memory.epoch === epoch ? handOverPatienceMs : waitMs;
    return nowMs - memory.askedMs >= patienceMs;
  }

  #triesOf(id: VolumeId, epoch: number): number {
    const memory = this.#asked.get(id);
    return memory && memory.epoch <= epoch ? memory.tries : 0;
  }
}

/** What is still there of nodes that have left: a lease, disks, the wish to be attached there. */
function leftOf(state: ClusterState): NodeAction[] {
  const actions: NodeAction[] = [];
  for (const [nodeId, { value }] of state.forgotten) {
    // what a client has got there at the last moment it keeps until it has gone (I6): its lease says so
    const volumes = [...volumesOn(state.volumes, nodeId)];
    const isPrimary = volumes.some(({ value: v }) => v.status.attachment?.nodeId === nodeId);
    if (state.leases.has(nodeId) && !isPrimary) actions.push({ type: 'end-lease', nodeId });
    const disks = disksOn(state, nodeId).slice(0, maxDisksAtOnce);
    if (disks.length > 0) {
      const keys = disks.map((disk) => ({ key: diskKey(disk.value.id), disk }));
      const compare = keys.map(({ key, disk }) => ({ key, modRevision: disk.modRevision }));
      const operations = keys.map(({ key }) => ({ type: 'delete' as const, key }));
      actions.push({ type: 'forget-disks', transaction: { compare, operations } });
    }
    for (const volume of volumes) {
      if (volume.value.spec.attachTo !== nodeId) continue;
      const record = wantNowhere(volume.value);
      const what = `it is wanted on no node, because ${value.name} has left the cluster`;
      actions.push({ type: 'change-replicas', volume, change: { record, what, forgotten: [] } });
    }
  }
  return actions;
}

/** It ends by itself; what was not replaced meanwhile is from now on. */
function endedMaintenance(node: Versioned<NodeRecord>, now: Now): NodeAction | null {
  const { maintenance, ...kept } = node.value.spec ?? {};
  if (!maintenance || now.wallMs < maintenance.untilMs) return null;
  const record = withIntent(node.value, kept);
  const note = maintenanceOverNote(node.value);
  return { type: 'put-node', node, record, what: 'its maintenance is over', note };
}
