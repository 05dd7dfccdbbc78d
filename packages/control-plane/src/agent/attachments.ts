import { hasCode, nodeLeaseMs, StorError } from '@stor/protocol';
import type { Attachment, AttachmentGrant, NodeId, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort, ControlPlanePort } from '../agent-port.ts';
import type { ClusterStore, Compare } from '../cluster-store.ts';
import {
  changeMode,
  decideAcquire,
  holderLives,
  releaseAttachment,
  strongerMode,
  wantAt,
  wantedNode,
  wantNowhere,
} from '../core/controllers/attachment-rules.ts';
import type { AcquireDecision } from '../core/controllers/attachment-rules.ts';
import { grantOf } from '../core/volume/grant.ts';
import { withNodeNames } from '../resources/cluster-state.ts';
import type { ClusterState, SnapshotTable, Versioned } from '../resources/cluster-state.ts';
import { findVolume, readSnapshots, readVolume } from '../resources/find.ts';
import { joinedSignal } from '../resources/joined-signal.ts';
import { pause } from '../resources/pause.ts';
import { decodeForgotten, goneForEver } from '../resources/forgotten-record.ts';
import { forgottenKey } from '../resources/keys.ts';
import type { StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { volumesOn } from '../resources/state-index.ts';
import type { AgentPeers } from './agent-peers.ts';
import { attachedElsewhere, inUse, notAnswering } from './attached-elsewhere.ts';
import { BoundedTurns } from './bounded-turns.ts';
import { HolderCalls, leaseLookMs } from './holder-calls.ts';
import type { Wait } from './holder-calls.ts';
import { SetProposals } from './set-proposals.ts';
import { leaseCompare, maxConflicts, tooManyConflicts, VolumeRecords } from './volume-records.ts';

/** A holder that does not answer has lost its lease after this (ms): the lease and a second. */
export const deadHolderWaitMs = nodeLeaseMs + 2_000;
/** What a holder does that does not answer is seen by itself; a client that waits looks after this (ms). */
export const holderLookMs = 1_000;
/** Looks at once: with a node that dies, clients of all its volumes wait, and then all want theirs. */
export const maxLooks = 16;
/** A grant younger than this may not have reached the data path yet (ms): it is not taken back. */
const freshGrantMs = 3_000;

type Mode = Attachment['mode'];

/** See AttachOrder. */
interface AcquireOptions {
  onlyIfWanted?: boolean;
  force?: boolean;
  acceptUnflushedLoss?: boolean;
}

/** Attachments and in-sync sets: compare-and-set on the volume record (I2, I4). */
export class Attachments {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #agent: AgentPort;
  readonly #records: VolumeRecords;
  readonly #proposals: SetProposals;
  readonly #holders: HolderCalls;
  readonly #nodeId: NodeId;
  readonly #agentInstance: string;
  readonly #closing: AbortSignal;
  /** the last of what runs for a volume here: two grants to one node would fence each other */
  readonly #turns = new Map<VolumeId, Promise<unknown>>();
  readonly #grants = new Map<
    VolumeId,
    { epoch: number; atMs: number; previousReleased: boolean }
  >();
  /** looks at records by clients that want their volumes; of one volume one looks at a time (`#turns`) */
  readonly #looks = new BoundedTurns(maxLooks);
  /** how many `attachHere` run for a volume */
  readonly #attaching = new Map<VolumeId, number>();
  /** attachments of this process that its data path did not serve at the last look */
  #unserved = new Map<VolumeId, number>();
  #stopping = false;

  constructor(options: {
    store: ClusterStore;
    cache: StateCache;
    clock: Clock;
    logger: Logger;
    agent: AgentPort;
    peers: AgentPeers;
    nodeId: NodeId;
    agentInstance: string;
    /** ends every wait */
    closing: AbortSignal;
  }) {
    this.#closing = options.closing;
    this.#store = options.store;
    this.#cache = options.cache;
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#agent = options.agent;
    this.#records = new VolumeRecords(options.store);
    this.#proposals = new SetProposals({ ...options, records: this.#records });
    this.#holders = new HolderCalls(options);
    this.#nodeId = options.nodeId;
    this.#agentInstance = options.agentInstance;
  }

  /** See ControlPlanePort.acquire; `name` may be an id. */
  async acquire(
    name: string,
    mode: Mode,
    options: { waitMs: number; signal?: AbortSignal } & AcquireOptions,
  ): Promise<AttachmentGrant> {
    const { signal, dispose } = joinedSignal([this.#closing, options.signal]);
    try {
      const wait = this.#wait(options.waitMs, signal);
      const found = await findVolume(this.#store, name, { signal });
      const { id } = found.value.metadata;
      const { onlyIfWanted = false, force = false, acceptUnflushedLoss = false } = options;
      const asked = { mode, onlyIfWanted, force, acceptUnflushedLoss };
      return await this.#inTurn(id, () => this.#acquire(id, name, asked, wait));
    } finally {
      dispose();
    }
  }

  /** See ControlPlanePort.release. */
  async release(volumeId: VolumeId, epoch: number, clean: boolean): Promise<void> {
    const released = await this.#records.update(volumeId, (record) =>
      releaseAttachment(record, epoch, clean),
    );
    if (!released) return;
    this.#logger.info({ volume: released.value.metadata.name, epoch, clean }, 'released');
  }

  /** See ControlPlanePort.proposeSet. */
  proposeSet(
    proposal: Parameters<ControlPlanePort['proposeSet']>[0],
  ): ReturnType<ControlPlanePort['proposeSet']> {
    return this.#proposals.propose(proposal);
  }

  /** From now on nothing is attached here, so that what is given back stays so. */
  stopAttaching(): void {
    this.#stopping = true;
  }

  /**
   * Makes this node primary and serves the volume; again, it only makes the mode stronger. In mode
   * manual it is an operator's order, which the record keeps until `detach`; or, `onlyIfWanted`, a
   * controller carries out such an order again, provided that it still stands and nobody holds the
   * volume: else FAILED_PRECONDITION, ATTACHED_ELSEWHERE.
   */
  async attachHere(
    volumeId: VolumeId,
    mode: Mode,
    options: AcquireOptions,
  ): Promise<{ epoch: number }> {
    this.#attaching.set(volumeId, (this.#attaching.get(volumeId) ?? 0) + 1);
    try {
      const epoch = await this.#attachHere(volumeId, mode, options);
      if (mode === 'manual' && options.onlyIfWanted !== true) await this.#keepHere(volumeId, epoch);
      return { epoch };
    } finally {
      const left = (this.#attaching.get(volumeId) ?? 1) - 1;
      if (left > 0) this.#attaching.set(volumeId, left);
      else this.#attaching.delete(volumeId);
    }
  }

  /** Returns the epoch under which this node serves. */
  async #attachHere(volumeId: VolumeId, mode: Mode, options: AcquireOptions): Promise<number> {
    if (this.#stopping) throw new StorError('UNAVAILABLE', 'the node is stopping');
    const { onlyIfWanted = false, force = false } = options;
    const mine = await this.#mine(volumeId);
    if (mine && !force) {
      const stronger = strongerMode(mine.attachment.mode, mode);
      const changed = await this.#records.update(volumeId, (record) =>
        onlyIfWanted && wantedNode(record) !== this.#nodeId
          ? null
          : changeMode(record, mine.attachment.epoch, stronger),
      );
      const attachment = changed?.value.status.attachment;
      if (changed && attachment) {
        try {
          await this.#agent.attach(grantOf(changed, attachment, false, this.#cache.state));
          return attachment.epoch;
        } catch (error) {
          // it was being given back at that moment; an epoch never begins twice, so ask for another
          if (!hasCode(error, 'STALE_EPOCH')) throw error;
        }
      }
    }
    const grant = await this.acquire(volumeId, mode, { waitMs: deadHolderWaitMs, ...options });
    if (this.#stopping) {
      // never used, so the next primary waits exactly if this one had to
      await this.release(volumeId, grant.epoch, grant.previousReleased);
      throw new StorError('UNAVAILABLE', 'the node is stopping');
    }
    try {
      await this.#agent.attach(grant);
    } catch (error) {
      // how far the data path came is not known here, so the next primary waits (I6)
      await this.release(volumeId, grant.epoch, false);
      const { code, message, details } = StorError.from(error);
      // the data path knows nodes by their ids only
      throw new StorError(code, withNodeNames(this.#cache.state, message), {
        cause: error,
        details,
      });
    }
    return grant.epoch;
  }

  /**
   * Writes into the record that an operator wants the volume attached here, once it is: an order
   * that failed leaves nothing behind. One that `detach` has overtaken is not written, for it
   * would bring back what was detached.
   */
  async #keepHere(volumeId: VolumeId, epoch: number): Promise<void> {
    let isCurrent = false;
    await this.#records.update(volumeId, (record) => {
      isCurrent = record.status.attachment?.epoch === epoch;
      return isCurrent && record.spec.attachTo !== this.#nodeId
        ? wantAt(record, this.#nodeId)
        : null;
    });
    if (isCurrent) return;
    throw new StorError(
      'UNAVAILABLE',
      'the volume was attached and is no more: it was detached meanwhile, or its primary has ended (see the log of the node)',
    );
  }

  /** Gives up this node's attachment (volume, epoch), if it is one. */
  async releaseHere(
    volumeId: VolumeId,
    epoch: number,
    ifIdle: boolean,
  ): Promise<'released' | 'busy' | 'gone'> {
    const result = await this.#agent.detach(volumeId, epoch, ifIdle);
    if (result === 'busy') return 'busy';
    const fresh = this.#grants.get(volumeId);
    const isFresh = fresh?.epoch === epoch && this.#clock.monotonicMs() - fresh.atMs < freshGrantMs;
    if (result === 'gone' && isFresh) return 'busy';
    // The agent has released what it served, saying whether it was clean; this finds something to
    // do only when it did not serve at all.
    await this.release(volumeId, epoch, false);
    return result;
  }

  /**
   * Gives up attachments of this process that its data path does not serve at two looks in a row:
   * their release, or the answer to their grant, was lost. A node that lives keeps others from
   * repairing the volume as long as the record names it. Call now and then, seconds apart.
   */
  async releaseUnserved(): Promise<void> {
    const live = new Map<VolumeId, number>();
    for (const { volumeId, epoch } of await this.#agent.liveVolumes()) live.set(volumeId, epoch);
    const before = this.#unserved;
    this.#unserved = new Map();
    for (const { value: record } of volumesOn(this.#cache.state.volumes, this.#nodeId)) {
      const { id } = record.metadata;
      const { attachment } = record.status;
      if (attachment?.nodeId !== this.#nodeId) continue;
      if (attachment.agentInstance !== this.#agentInstance) continue;
      const { epoch } = attachment;
      const isUnderWay = this.#turns.has(id) || this.#attaching.has(id);
      if (isUnderWay || live.get(id) === epoch) continue;
      this.#unserved.set(id, epoch);
      // how far it came is not known, so the next primary waits (I6)
      if (before.get(id) === epoch) await this.release(id, epoch, false);
    }
  }

  /**
   * Makes the volume attached nowhere, and wanted nowhere; returns its record. `ifIdle`: it stays
   * wanted where it is, and FAILED_PRECONDITION while a client uses it or it is attached by hand.
   * UNAVAILABLE when the holder cannot be asked in time.
   */
  async detach(volumeId: VolumeId, ifIdle: boolean): Promise<Versioned<StoredVolume> | null> {
    const wait = this.#wait(deadHolderWaitMs);
    let asked = false;
    for (let conflicts = 0; conflicts < maxConflicts;) {
      if (wait.signal.aborted) throw new StorError('ABORTED', 'the node is stopping');
      const volume = await readVolume(this.#store, volumeId);
      if (!volume) return null;
      const { attachment: holder } = volume.value.status;
      if (!ifIdle && volume.value.spec.attachTo !== undefined) {
        // first of all: from then on no controller gets it attached again
        if (!(await this.#records.write(volume, wantNowhere(volume.value)))) conflicts += 1;
        continue;
      }
      if (!holder) return volume;
      const lease = await this.#records.lease(holder.nodeId);
      if (!holderLives(holder, lease?.value ?? null)) {
        const record = releaseAttachment(volume.value, holder.epoch, false);
        const compare = [leaseCompare(holder.nodeId, lease)];
        if (record && !(await this.#records.write(volume, record, compare))) conflicts += 1;
        continue;
      }
      const { state } = this.#cache;
      if (ifIdle && holder.mode === 'manual') throw inUse(volume.value, holder, state);
      if (asked && this.#isOver(wait)) throw notAnswering(volume.value, holder, state);
      const answer = await this.#holders.release(volume.value, holder, ifIdle, wait);
      asked = true;
      if (answer === 'busy' && ifIdle) throw inUse(volume.value, holder, state);
      if (answer === 'busy' || answer === 'unreachable') await this.#news(volume, holder, wait);
    }
    throw tooManyConflicts(volumeId);
  }

  async #acquire(
    id: VolumeId,
    name: string,
    request: { mode: Mode } & Required<AcquireOptions>,
    wait: Wait,
  ): Promise<AttachmentGrant> {
    let asked = false;
    for (let conflicts = 0; conflicts < maxConflicts;) {
      if (wait.signal.aborted) throw new StorError('ABORTED', 'the attachment was given up');
      const { volume, holderId, holderLease } = await this.#looks.run('', () =>
        this.#look(id, name, wait),
      );
      const decision = decideAcquire(volume.value, holderLease?.value ?? null, {
        nodeId: this.#nodeId,
        agentInstance: this.#agentInstance,
        ...request,
        nowWallMs: this.#clock.wallMs(),
      });
      if (decision.type === 'refuse') throw decision.error;
      if (decision.type === 'held') {
        throw attachedElsewhere(volume.value, decision.holder, this.#cache.state);
      }
      if (decision.type === 'ask-holder') {
        // the lease is looked at once more after the last try before this gives up
        if (asked && this.#isOver(wait))
          throw notAnswering(volume.value, decision.holder, this.#cache.state);
        await this.#persuade(volume, decision.holder, wait);
        asked = true;
        continue;
      }
      const again = request.force ? null : await this.#presentGrant(volume, decision.attachment);
      if (again) return again;
      const compare = holderId === undefined ? [] : [leaseCompare(holderId, holderLease)];
      // What becomes ready, or is deleted, changes the volume's record too: as long as that is the
      // same, this list is complete. A primary drops what it does not name.
      const snapshots = await readSnapshots(this.#store, id, { local: true });
      const granted = await this.#commitGrant(volume, decision, compare);
      if (granted) return this.#granted(granted, decision, snapshots, wait);
      conflicts += 1;
    }
    throw tooManyConflicts(name);
  }

  async #look(id: VolumeId, name: string, wait: Wait) {
    const volume = await readVolume(this.#store, id, { signal: wait.signal });
    if (!volume) throw new StorError('NOT_FOUND', `volume ${name} was deleted`);
    const holderId = volume.value.status.attachment?.nodeId;
    const holderLease = holderId === undefined ? null : await this.#records.lease(holderId);
    return { volume, holderId, holderLease };
  }

  /** Writes a grant, provided that this process still holds its node's lease. */
  async #commitGrant(
    volume: Versioned<StoredVolume>,
    decision: AcquireDecision & { type: 'grant' },
    compare: Compare[],
  ): Promise<Versioned<StoredVolume> | null> {
    const own = await this.#records.lease(this.#nodeId);
    if (own?.value.agentInstance !== this.#agentInstance) {
      throw new StorError('UNAVAILABLE', 'this node has no node lease yet: try again in a moment');
    }
    const ownCompare = leaseCompare(this.#nodeId, own);
    const gone = await this.#store.get(forgottenKey(this.#nodeId), { local: true });
    if (gone) {
      // of this node only: another one may serve it
      const { message } = goneForEver(decodeForgotten(gone.key, gone.value));
      throw new StorError('UNAVAILABLE', message);
    }
    const all = [
      ...compare.filter((other) => other.key !== ownCompare.key),
      ownCompare,
      // a node that has left the cluster begins nothing any more
      { key: forgottenKey(this.#nodeId), modRevision: 0 },
    ];
    try {
      return await this.#records.write(volume, decision.record, all);
    } catch (error) {
      if (!hasCode(error, 'OUTCOME_UNKNOWN')) throw error;
      // an epoch is given once: if the record shows ours, it was this grant
      const now = await readVolume(this.#store, volume.value.metadata.id);
      const attachment = now?.value.status.attachment;
      const isThis =
        attachment?.epoch === decision.attachment.epoch &&
        attachment.nodeId === this.#nodeId &&
        attachment.agentInstance === this.#agentInstance;
      return isThis ? now : null;
    }
  }

  /**
   * The grant that this process already serves under, or is about to, in the mode of `wanted`: a
   * client and an order that come at the same moment want the same, and another epoch would fence
   * what the first of them has got. Null when there is none, or it is being given back.
   */
  async #presentGrant(
    volume: Versioned<StoredVolume>,
    wanted: Attachment,
  ): Promise<AttachmentGrant | null> {
    const { id } = volume.value.metadata;
    const present = volume.value.status.attachment;
    const known = this.#grants.get(id);
    if (!present || present.agentInstance !== this.#agentInstance) return null;
    if (known?.epoch !== present.epoch) return null;
    const [live] = await this.#agent.liveVolumes([id]);
    if (live?.epoch !== present.epoch || live.state === 'stopping') return null;
    const changed =
      present.mode === wanted.mode
        ? volume
        : await this.#records.update(id, (record) =>
            changeMode(record, present.epoch, wanted.mode),
          );
    const attachment = changed?.value.status.attachment;
    if (!changed || !attachment) return null;
    return grantOf(changed, attachment, known.previousReleased, this.#cache.state);
  }

  async #granted(
    granted: Versioned<StoredVolume>,
    decision: AcquireDecision & { type: 'grant' },
    snapshots: SnapshotTable,
    wait: Wait,
  ): Promise<AttachmentGrant> {
    const { attachment, previousReleased } = decision;
    const { id, name } = granted.value.metadata;
    if (wait.signal.aborted) {
      await this.release(id, attachment.epoch, previousReleased);
      throw new StorError('ABORTED', 'the attachment was given up');
    }
    const { epoch, mode } = attachment;
    this.#grants.set(id, { epoch, previousReleased, atMs: this.#clock.monotonicMs() });
    this.#logger.info({ volume: name, epoch, mode, previousReleased }, 'attachment granted');
    const state = { ...this.#cache.state, snapshots: new Map([[id, snapshots]]) };
    return grantOf(granted, attachment, previousReleased, state);
  }

  /** Asks a living holder to let go. Throws ATTACHED_ELSEWHERE when it is in use. */
  async #persuade(volume: Versioned<StoredVolume>, holder: Attachment, wait: Wait): Promise<void> {
    const answer = await this.#holders.release(volume.value, holder, true, wait);
    if (answer === 'busy') throw attachedElsewhere(volume.value, holder, this.#cache.state);
    if (answer === 'unreachable') await this.#news(volume, holder, wait);
  }

  /**
   * Waits until this node sees that the record has changed or that the holder is dead, and not for longer
   * than `holderLookMs`: the store is asked by every client that waits.
   */
  async #news(volume: Versioned<StoredVolume>, holder: Attachment, wait: Wait): Promise<void> {
    const isNew = ({ volumes, leases }: ClusterState): boolean => {
      const seen = volumes.get(volume.value.metadata.id);
      if (seen?.modRevision !== volume.modRevision) return true;
      return !holderLives(holder, leases.get(holder.nodeId)?.value ?? null);
    };
    const leftMs = wait.deadlineMs - this.#clock.monotonicMs();
    const timeoutMs = Math.max(leaseLookMs, Math.min(holderLookMs, leftMs));
    const { signal } = wait;
    // what is seen here is behind what was read: it may stay so for a while
    if (isNew(this.#cache.state)) {
      await pause(this.#clock, leaseLookMs, signal);
      return;
    }
    try {
      await this.#cache.waitFor((state) => isNew(state) || undefined, { timeoutMs, signal });
    } catch {
      // given up, or this node is stopping: who waits sees that itself
      await pause(this.#clock, leaseLookMs, signal);
    }
  }

  #wait(waitMs: number, signal = this.#closing): Wait {
    return { deadlineMs: this.#clock.monotonicMs() + waitMs, signal };
  }

  #isOver(wait: Wait): boolean {
    return this.#clock.monotonicMs() >= wait.deadlineMs;
  }

  /** This process's attachment of the volume, when its data path serves it. */
  async #mine(volumeId: VolumeId): Promise<{ attachment: Attachment } | null> {
    const volume = await readVolume(this.#store, volumeId);
    const attachment = volume?.value.status.attachment;
    if (!attachment || attachment.nodeId !== this.#nodeId) return null;
    if (attachment.agentInstance !== this.#agentInstance) return null;
    const live = await this.#agent.liveVolumes([volumeId]);
    const serves = live.some(({ epoch }) => epoch === attachment.epoch);
    return serves ? { attachment } : null;
  }

  async #inTurn<T>(volumeId: VolumeId, run: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(volumeId) ?? Promise.resolve();
    const turn = before.then(run, run);
    this.#turns.set(volumeId, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(volumeId) === turn) this.#turns.delete(volumeId);
    }
  }
}
