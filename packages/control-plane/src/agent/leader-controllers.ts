import { makeId, StorError } from '@stor/protocol';
import type { NodeId, ReplicaId, VolumeId } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore, Operation } from '../cluster-store.ts';
import type { AbsenceNote } from '../core/controllers/absence.ts';
import { Controllers } from '../core/controllers/controllers.ts';
import type { Action } from '../core/controllers/controllers.ts';
import type { RebalanceStep } from '../core/controllers/rebalance-keeper.ts';
import { placedSegments } from '../core/volume/segment-size.ts';
import { deletingSnapshot } from '../core/volume/snapshot-rules.ts';
import { agedInTrash, deletionOf, emptyingOf } from '../core/volume/trash-rules.ts';
import { isForgotten, nodeName } from '../resources/cluster-state.ts';
import {
  deletedKey,
  nodeKey,
  rebalanceKey,
  replicaReportKey,
  scrubKey,
  snapshotKey,
  snapshotNameKey,
  trashKey,
  volumeKey,
} from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import { pause } from '../resources/pause.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { AgentPeers } from './agent-peers.ts';
import { BoundedTurns } from './bounded-turns.ts';
import { MemberKeeper } from './member-keeper.ts';
import { carryOutRemoval } from './node-removals.ts';
import { shipPolicies } from './policy-shipping.ts';
import { writeShares } from './tenant-shares.ts';
import { TenantWatch } from './tenant-watch.ts';
import { SnapshotRecords } from './snapshot-records.ts';
import { writeVolumes } from './volume-writes.ts';
import type { VolumeWrite } from './volume-writes.ts';
import type { EventLog } from './event-log.ts';
import { PrimaryAccess } from '../api/primary-access.ts';
import type { PrimaryOrders } from '../api/primary-orders.ts';
import { VolumeRollbacks } from '../api/volume-rollbacks.ts';

/** The controllers look at least this often (ms), besides at each change. */
const lookMs = 1_000;
/** After a look nothing is looked at for so many times as long as it took: the process has other work. */
const restShare = 4;

/**
 * Attachments that one node is asked for at once. Each takes several round trips and some 20 ms of its main
 * thread: a node that is to take a thousand back after a restart would not renew its lease meanwhile.
 */
const maxAttachesPerNode = 16;

/** Deleted in one transaction, with room for the record (etcd takes 128 operations). */
const maxReportsAtOnce = 100;

/** Runs the controllers while this member leads. */
export class LeaderControllers {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #peers: AgentPeers;
  readonly #events: EventLog;
  readonly #rollbacks: VolumeRollbacks;
  readonly #primaries: Pick<PrimaryOrders, 'movePrimary'>;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;
  readonly #snapshots: SnapshotRecords;
  readonly #members: MemberKeeper | null;
  readonly #tenants: TenantWatch;
  readonly #undo: (() => void)[];
  /** by volume and node: one that is slow to answer is not asked again meanwhile */
  readonly #asking = new Map<string, Promise<void>>();
  readonly #attaching = new BoundedTurns(maxAttachesPerNode);
  #controllers: Controllers | null = null;
  #cancel: () => void = () => {};
  #round: Promise<void> = Promise.resolve();
  #isLooking = false;
  #again = false;
  #closed = false;
  readonly #closing = new AbortController();

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    peers: AgentPeers;
    events: EventLog;
    nodeId: NodeId;
    primaries: Pick<PrimaryOrders, 'movePrimary'>;
    clock: Clock;
    random: Random;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#snapshots = new SnapshotRecords(options.store);
    this.#members = MemberKeeper.of(options);
    this.#tenants = new TenantWatch(options);
    this.#cache = options.cache;
    this.#peers = options.peers;
    this.#events = options.events;
    const access = new PrimaryAccess(options);
    this.#rollbacks = new VolumeRollbacks({ ...options, access });
    this.#primaries = options.primaries;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
    this.#undo = [
      this.#store.onLeadership((isLeader) => {
        this.#lead(isLeader);
      }),
      this.#cache.onChange(() => {
        this.#look();
      }),
    ];
    this.#lead(this.#store.status().isLeader);
  }

  /** Volumes that this member's controllers have looked at closely since it leads. */
  get looks(): number {
    return this.#controllers?.looks ?? 0;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#closing.abort();
    for (const undo of this.#undo) undo();
    this.#lead(false);
    await this.#members?.close();
    await this.#tenants.close();
    await this.#round;
    await Promise.allSettled(this.#asking.values());
  }

  #lead(isLeader: boolean): void {
    this.#cancel();
    // a new term starts with no memory: nothing is urgent that was not seen to wait
    this.#controllers = isLeader && !this.#closed ? new Controllers() : null;
    this.#tick();
  }

  #tick(): void {
    if (!this.#controllers) return;
    this.#cancel = this.#clock.after(lookMs, () => {
      this.#tick();
    });
    if (this.#cache.loaded) {
      this.#tenants.look(() => {
        this.#look();
      });
    }
    this.#look();
  }

  /** One round at a time; a change during a round leads to one more. */
  #look(): void {
    if (!this.#controllers || !this.#cache.loaded) return;
    this.#again = true;
    if (this.#isLooking) return;
    this.#isLooking = true;
    this.#round = this.#rounds();
  }

  async #rounds(): Promise<void> {
    try {
      while (this.#again && this.#controllers) await this.#oneRound(this.#controllers);
    } finally {
      // in the turn of the last look, or a change that comes before the next turn would wait for a tick
      this.#isLooking = false;
    }
  }

  async #oneRound(controllers: Controllers): Promise<void> {
    this.#again = false;
    const now = { monotonicMs: this.#clock.monotonicMs(), wallMs: this.#clock.wallMs() };
    const newReplicaId = (): ReplicaId => makeId('r', this.#random.bytes(8));
    const { demands } = this.#tenants;
    const { state } = this.#cache;
    const actions = controllers.plan(state, now, newReplicaId, this.#voters(), demands);
    const tookMs = this.#clock.monotonicMs() - now.monotonicMs;
    // what belongs to many volumes at once is written together
    const writes = actions.flatMap((action) => this.#volumeWrite(action) ?? []);
    if (writes.length > 0) {
      await this.#try('change-volumes', () => writeVolumes(this.#store, writes));
    }
    for (const action of actions) await this.#try(action.type, () => this.#do(action));
    if (this.#again && tookMs >= 1) {
      await pause(this.#clock, tookMs * restShare, this.#closing.signal);
    }
  }

  /** Of the membership that this member's log ends with: one that is being changed counts with both. */
  #voters(): readonly NodeId[] | null {
    const voters = this.#store.members?.local().voters ?? [];
    return voters.length === 0 ? null : voters;
  }

  async #try(action: string, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      // the next look plans it again
      const { message } = StorError.from(error);
      this.#logger.warn({ action, error: message }, 'controller action failed');
    }
  }

  /** Null: the action is something else. */
  #volumeWrite(action: Action): VolumeWrite | null {
    switch (action.type) {
      case 'mark-ready': {
        // a node that leaves at this moment must not be among those that the first writes go to
        const replicas = placedSegments(action.record).flatMap((segment) => segment.replicas);
        const nodes = new Set(replicas.map(({ nodeId }) => nodeId));
        return { ...action, nodes, forgotten: [], written: () => {} };
      }
      case 'mark-failed':
        return { ...action, forgotten: [], written: () => this.#noteFailed(action) };
      case 'change-replicas': {
        const { record, what, forgotten } = action.change;
        const volume = record.metadata.name;
        const written = () => this.#logger.info({ volume, what }, 'replicas change');
        return { volume: action.volume, record, forgotten, written };
      }
      default:
        return null;
    }
  }

  async #do(action: Action): Promise<void> {
    switch (action.type) {
      case 'mark-ready':
      case 'mark-failed':
      case 'change-replicas':
        // written before, with those of other volumes
        return;
      case 'roll-back': {
        const { name } = action.volume.value.metadata;
        this.#logger.warn({ volume: name, reason: action.failure.message }, 'creation rolled back');
        await this.#store.transact(deletionOf(action.volume, action.failure));
        return;
      }
      case 'put-scrub':
      case 'forget-scrub':
        await this.#changeScrub(action);
        return;
      case 'note-absence':
        await this.#noteAbsence(action.note);
        return;
      case 'note-event':
        this.#events.note(action.note);
        return;
      case 'give-up-snapshots':
        await this.#giveUpSnapshots(action);
        return;
      case 'forget-snapshots':
        await this.#forgetSnapshots(action);
        return;
      case 'empty-trash': {
        const { name } = action.volume.value.metadata;
        this.#logger.info({ volume: name }, 'its time in the trash is over');
        await this.#store.transact(emptyingOf(action.volume));
        return;
      }
      case 'note-trash-age':
        await this.#store.transact(agedInTrash(action.volume, action.agedMs));
        return;
      case 'finish-delete':
        await this.#finishDelete(action);
        return;
      case 'put-node':
        await this.#putNode(action);
        return;
      case 'rebalance':
        await this.#rebalance(action);
        return;
      case 'share-tenant':
      case 'ship-policies':
        await this.#keepQos(action);
        return;
      case 'remove-node':
      case 'end-lease':
      case 'forget-disks':
        await carryOutRemoval(action, this.#store, this.#events, this.#logger);
        return;
      case 'move-primary':
        this.#movePrimary(action);
        return;
      case 'resume-rollback':
        this.#resumeRollback(action.volumeId);
        return;
      case 'ask-attach': {
        const { volumeId, nodeId, mode, onlyIfWanted } = action;
        this.#ask(
          `${volumeId} ${nodeId}`,
          () =>
            this.#attaching.run(nodeId, async () => {
              // whoever leads now asks by itself
              if (!this.#controllers) return;
              this.#logger.info({ volumeId, nodeId, mode }, 'asking a node to attach');
              await this.#peers.at(nodeId).attachHere({ volumeId, mode, onlyIfWanted });
            }),
          (error) => {
            this.#logger.warn({ volumeId, nodeId, error }, 'the node did not attach');
          },
        );
        return;
      }
    }
  }

  async #keepQos(action: Action & { type: 'share-tenant' | 'ship-policies' }): Promise<void> {
    if (action.type === 'share-tenant') {
      await writeShares(action, this.#store);
      return;
    }
    const means = { store: this.#store, clock: this.#clock, random: this.#random };
    await shipPolicies(action.names, this.#cache.state, means);
  }

  async #changeScrub(action: Action & { type: 'put-scrub' | 'forget-scrub' }): Promise<void> {
    const isPut = action.type === 'put-scrub';
    const key = scrubKey(isPut ? action.record.volumeId : action.volumeId);
    await this.#store.transact({
      compare: [{ key, modRevision: action.modRevision }],
      operations: isPut
        ? [{ type: 'put', key, value: encodeRecord(action.record) }]
        : [{ type: 'delete', key }],
    });
  }

  async #putNode({ node, record, what, note }: Action & { type: 'put-node' }): Promise<void> {
    const key = nodeKey(record.id);
    const { succeeded } = await this.#store.transact({
      compare: [{ key, modRevision: node.modRevision }],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
    if (!succeeded) return;
    this.#logger.info({ node: record.name, what }, 'node changes');
    this.#events.note(note);
  }

  /** In one transaction: no move that is not in the record, and none after it was paused. */
  async #rebalance({ rebalance, record, begins, notes }: RebalanceStep): Promise<void> {
    const compare = [{ key: rebalanceKey, modRevision: rebalance.modRevision }];
    const operations: Operation[] = [
      { type: 'put', key: rebalanceKey, value: encodeRecord(record) },
    ];
    if (begins) {
      const { volume, change } = begins;
      const key = volumeKey(volume.value.metadata.id);
      compare.push({ key, modRevision: volume.modRevision });
      operations.push({ type: 'put', key, value: encodeRecord(change.record) });
    }
    const { succeeded } = await this.#store.transact({ compare, operations });
    if (!succeeded) return;
    for (const note of notes) this.#events.note(note);
    const volume = begins?.change.record.metadata.name;
    if (begins) this.#logger.info({ volume, what: begins.change.what }, 'replicas change');
  }

  #movePrimary({ volumeId, nodeId, epoch }: Action & { type: 'move-primary' }): void {
    this.#ask(
      `move ${volumeId}`,
      async (signal) => {
        await this.#primaries.movePrimary(volumeId, nodeId, { epoch, signal });
      },
      (error) => {
        this.#logger.warn({ volumeId, nodeId, error }, 'an attachment has not moved yet');
      },
    );
  }

  #resumeRollback(volumeId: VolumeId): void {
    this.#ask(
      `rollback ${volumeId}`,
      (signal) => this.#rollbacks.resume(volumeId, signal),
      (error) => {
        this.#logger.warn({ volumeId, error }, 'a rollback is not finished yet, will retry');
      },
    );
  }

  /** What takes seconds: the round goes on meanwhile, and the same is not begun twice. */
  #ask(
    key: string,
    run: (signal: AbortSignal) => Promise<void>,
    failed: (message: string) => void,
  ): void {
    if (this.#asking.has(key)) return;
    const asking = run(this.#closing.signal)
      .catch((error: unknown) => {
        failed(StorError.from(error).message);
      })
      .then(() => {
        this.#asking.delete(key);
      });
    this.#asking.set(key, asking);
  }

  #noteFailed({ volume, record }: Action & { type: 'mark-failed' }): void {
    const { state } = this.#cache;
    const before = new Set(
      volume.value.status.segments.flatMap(({ replicas }) =>
        replicas.filter((replica) => replica.state === 'failed').map(({ id }) => id),
      ),
    );
    for (const replica of record.status.segments.flatMap(({ replicas }) => replicas)) {
      if (replica.state !== 'failed' || before.has(replica.id)) continue;
      const why = isForgotten(state, replica.nodeId)
        ? 'the node has left the cluster'
        : (state.reports.get(replica.id)?.value.message ?? '');
      this.#events.note({
        type: 'warning',
        reason: 'replica-failed',
        object: { kind: 'replica', id: replica.id },
        volumeId: record.metadata.id,
        message: `the replica of volume ${record.metadata.name} on node ${nodeName(state, replica.nodeId)} failed for good: ${why}`,
      });
    }
  }

  async #giveUpSnapshots({
    snapshots,
    reason,
  }: Action & { type: 'give-up-snapshots' }): Promise<void> {
    this.#logger.warn({ snapshots: snapshots.map(({ id }) => id), reason }, 'snapshots given up');
    const before = new Map(snapshots.map(({ id, state }) => [id, state]));
    await this.#snapshots.change(snapshots, (record) =>
      // one that was finished meanwhile stays
      record.state === before.get(record.id) ? deletingSnapshot(record, reason) : null,
    );
  }

  async #forgetSnapshots({
    snapshots,
    withNames,
  }: Action & { type: 'forget-snapshots' }): Promise<void> {
    const operations = snapshots.map(({ value }): Operation => {
      return { type: 'delete', key: snapshotKey(value.volumeId, value.id) };
    });
    // a name may have had a snapshot that failed, or was deleted, before the one that has it
    const names = new Set<string>();
    for (const { value } of withNames ? snapshots : []) {
      if (value.name !== '') names.add(snapshotNameKey(value.volumeId, value.name));
    }
    for (const key of names) operations.push({ type: 'delete', key });
    const compare = snapshots.map(({ value, modRevision }) => {
      return { key: snapshotKey(value.volumeId, value.id), modRevision };
    });
    const [first] = snapshots;
    if (withNames && first) {
      // a volume whose record cannot be read looks as if it were gone, and its snapshots are whole
      const { volumeId } = first.value;
      compare.push({ key: volumeKey(volumeId), modRevision: 0 });
      compare.push({ key: trashKey(volumeId), modRevision: 0 });
    }
    await this.#store.transact({ compare, operations });
  }

  async #noteAbsence({ node, downSinceMs }: AbsenceNote): Promise<void> {
    const { downSinceMs: _old, ...rest } = node.value;
    const record = downSinceMs === null ? rest : { ...rest, downSinceMs };
    const key = nodeKey(rest.id);
    await this.#store.transact({
      compare: [{ key, modRevision: node.modRevision }],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
  }

  async #finishDelete(action: Action & { type: 'finish-delete' }): Promise<void> {
    const { id } = action.volume.value.metadata;
    const key = deletedKey(id);
    const compare = [{ key, modRevision: action.volume.modRevision }];
    const reports = action.replicaIds.map((replicaId): Operation => {
      return { type: 'delete', key: replicaReportKey(replicaId) };
    });
    // The record goes first: while it is there, nodes report again what has no report. More reports
    // than one transaction takes follow; those that a crash leaves behind harm nobody.
    const first: Operation[] = [{ type: 'delete', key }, ...reports.slice(0, maxReportsAtOnce)];
    const { succeeded } = await this.#store.transact({ compare, operations: first });
    if (!succeeded) return;
    for (let at = maxReportsAtOnce; at < reports.length; at += maxReportsAtOnce) {
      const operations = reports.slice(at, at + maxReportsAtOnce);
      await this.#store.transact({ compare: [], operations });
    }
  }
}
