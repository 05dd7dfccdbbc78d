import { hasCode, nodeLeaseMs, StorError } from '@stor/protocol';
import type { Attachment, AttachmentGrant, NodeId, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort, ControlPlanePort } from '../agent-port.ts';
import type { ClusterStore, Compare } from '../cluster-store.ts';
import {
  changeMode,
  decideAcquire,
  decideSet,
  holderLives,
  releaseAttachment,
  strongerMode,
} from '../core/controllers/attachment-rules.ts';
import type { AcquireDecision } from '../core/controllers/attachment-rules.ts';
import { grantOf } from '../core/volume/grant.ts';
import { nodeName } from '../resources/cluster-state.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { findVolume, readVolume } from '../resources/find.ts';
import { nodeLeaseKey, volumeKey } from '../resources/keys.ts';
import { pause } from '../resources/pause.ts';
import { decodeNodeLease, encodeRecord } from '../resources/records.ts';
import type { NodeLeaseRecord, StoredVolume } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { AgentPeers } from './agent-peers.ts';
import { attachedElsewhere } from './attached-elsewhere.ts';

/** How often a dead holder's lease is looked at (ms). */
const leaseLookMs = 200;
/** A holder that does not answer has lost its lease after this (ms): the lease and a second. */
export const deadHolderWaitMs = nodeLeaseMs + 2_000;
/** A grant younger than this may not have reached the data path yet (ms): it is not taken back. */
const freshGrantMs = 3_000;
/** Lost races in a row after which a caller is told to come back. */
const maxConflicts = 100;

type Mode = Attachment['mode'];

interface Wait {
  deadlineMs: number;
  signal: AbortSignal;
}

/** Attachments and in-sync sets: compare-and-set on the volume record (I2, I4). */
export class Attachments {
  readonly #store: ClusterStore;
  readonly #cache: StateCache;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #agent: AgentPort;
  readonly #peers: AgentPeers;
  readonly #nodeId: NodeId;
  readonly #agentInstance: string;
  readonly #closing: AbortSignal;
  /** the last of what runs for a volume here: two grants to one node would fence each other */
  readonly #turns = new Map<VolumeId, Promise<unknown>>();
  readonly #grants = new Map<VolumeId, { epoch: number; atMs: number }>();
  /** how many `attachHere` run for a volume */
  readonly #attaching = new Map<VolumeId, number>();
  /** attachments of this process that its data path did not serve at the last look */
  #unserved = new Map<VolumeId, number>();

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
    this.#peers = options.peers;
    this.#nodeId = options.nodeId;
    this.#agentInstance = options.agentInstance;
  }

  /** See ControlPlanePort.acquire; `name` may be an id. */
  async acquire(
    name: string,
    mode: Mode,
    options: { waitMs: number; signal?: AbortSignal },
  ): Promise<AttachmentGrant> {
    const wait = this.#wait(options.waitMs, options.signal);
    const found = await findVolume(this.#store, name, { signal: wait.signal });
    const { id } = found.value.metadata;
    return this.#inTurn(id, () => this.#acquire(id, name, mode, wait));
  }

  /** See ControlPlanePort.release. */
  async release(volumeId: VolumeId, epoch: number, clean: boolean): Promise<void> {
    const released = await this.#update(volumeId, (record) =>
      releaseAttachment(record, epoch, clean),
    );
    if (released) this.#logger.info({ volume: released.metadata.name, epoch, clean }, 'released');
  }

  /** See ControlPlanePort.proposeSet. */
  async proposeSet(
    proposal: Parameters<ControlPlanePort['proposeSet']>[0],
  ): ReturnType<ControlPlanePort['proposeSet']> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, proposal.volumeId);
      if (!volume) return { outcome: 'superseded', reason: 'the volume was deleted' };
      const decision = decideSet(volume.value, proposal);
      if (decision.type === 'superseded')
        return { outcome: decision.type, reason: decision.reason };
      const committed = { outcome: 'committed' as const, setRevision: decision.setRevision };
      if (decision.type === 'done' || (await this.#write(volume, decision.record)))
        return committed;
    }
    throw tooManyConflicts(proposal.volumeId);
  }

  /** Makes this node primary and serves the volume; again, it only makes the mode stronger. */
  async attachHere(volumeId: VolumeId, mode: Mode): Promise<{ epoch: number }> {
    this.#attaching.set(volumeId, (this.#attaching.get(volumeId) ?? 0) + 1);
    try {
      return await this.#attachHere(volumeId, mode);
    } finally {
      const left = (this.#attaching.get(volumeId) ?? 1) - 1;
      if (left > 0) this.#attaching.set(volumeId, left);
      else this.#attaching.delete(volumeId);
    }
  }

  async #attachHere(volumeId: VolumeId, mode: Mode): Promise<{ epoch: number }> {
    const mine = await this.#mine(volumeId);
    if (mine) {
      const stronger = strongerMode(mine.attachment.mode, mode);
      const changed = await this.#update(volumeId, (record) =>
        changeMode(record, mine.attachment.epoch, stronger),
      );
      const attachment = changed?.status.attachment;
      if (changed && attachment) {
        try {
          await this.#agent.attach(grantOf(changed, attachment, false, this.#cache.state));
          return { epoch: attachment.epoch };
        } catch (error) {
          // it was being given back at that moment; an epoch never begins twice, so ask for another
          if (!hasCode(error, 'STALE_EPOCH')) throw error;
        }
      }
    }
    const grant = await this.acquire(volumeId, mode, { waitMs: deadHolderWaitMs });
    try {
      await this.#agent.attach(grant);
    } catch (error) {
      // how far the data path came is not known here, so the next primary waits (I6)
      await this.release(volumeId, grant.epoch, false);
      throw error;
    }
    return { epoch: grant.epoch };
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
    for (const { value: record } of [...this.#cache.state.volumes.values()]) {
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
   * Makes the volume attached nowhere; returns its record. `ifIdle`: FAILED_PRECONDITION while a
   * client uses it or it is attached by hand. UNAVAILABLE when the holder cannot be asked in time.
   */
  async detach(volumeId: VolumeId, ifIdle: boolean): Promise<Versioned<StoredVolume> | null> {
    const wait = this.#wait(deadHolderWaitMs, undefined);
    for (let asked = false; ; asked = true) {
      if (wait.signal.aborted) throw new StorError('ABORTED', 'the node is stopping');
      const volume = await readVolume(this.#store, volumeId);
      const holder = volume?.value.status.attachment;
      if (!volume || !holder) return volume;
      const lease = await this.#lease(holder.nodeId);
      if (!holderLives(holder, lease?.value ?? null)) {
        const record = releaseAttachment(volume.value, holder.epoch, false);
        if (record) await this.#write(volume, record, [leaseCompare(holder.nodeId, lease)]);
        continue;
      }
      if (ifIdle && holder.mode === 'manual') throw this.#inUse(volume.value, holder);
      if (asked && this.#isOver(wait)) throw this.#notAnswering(volume.value, holder);
      const answer = await this.#askRelease(volume.value, holder, ifIdle, wait);
      if (answer === 'busy' && ifIdle) throw this.#inUse(volume.value, holder);
      if (answer === 'busy' || answer === 'unreachable')
        await pause(this.#clock, leaseLookMs, wait.signal);
    }
  }

  async #acquire(id: VolumeId, name: string, mode: Mode, wait: Wait): Promise<AttachmentGrant> {
    let asked = false;
    for (let conflicts = 0; conflicts < maxConflicts;) {
      if (wait.signal.aborted) throw new StorError('ABORTED', 'the attachment was given up');
      const volume = await readVolume(this.#store, id, { signal: wait.signal });
      if (!volume) throw new StorError('NOT_FOUND', `volume ${name} was deleted`);
      const holderId = volume.value.status.attachment?.nodeId;
      const holderLease = holderId === undefined ? null : await this.#lease(holderId);
      const decision = decideAcquire(volume.value, holderLease?.value ?? null, {
        nodeId: this.#nodeId,
        agentInstance: this.#agentInstance,
        mode,
        nowWallMs: this.#clock.wallMs(),
      });
      if (decision.type === 'refuse') throw decision.error;
      if (decision.type === 'held') {
        throw attachedElsewhere(volume.value, decision.holder, this.#cache.state);
      }
      if (decision.type === 'ask-holder') {
        // the lease is looked at once more after the last try before this gives up
        if (asked && this.#isOver(wait)) throw this.#notAnswering(volume.value, decision.holder);
        await this.#persuade(volume.value, decision.holder, wait);
        asked = true;
        continue;
      }
      const compare = holderId === undefined ? [] : [leaseCompare(holderId, holderLease)];
      if (await this.#commitGrant(volume, decision, compare)) {
        return this.#granted(decision, wait);
      }
      conflicts += 1;
    }
    throw tooManyConflicts(name);
  }

  /** Writes a grant, provided that this process still holds its node's lease. */
  async #commitGrant(
    volume: Versioned<StoredVolume>,
    decision: AcquireDecision & { type: 'grant' },
    compare: Compare[],
  ): Promise<boolean> {
    const own = await this.#lease(this.#nodeId);
    if (own?.value.agentInstance !== this.#agentInstance) {
      throw new StorError('UNAVAILABLE', 'this node has no node lease yet: try again in a moment');
    }
    const ownCompare = leaseCompare(this.#nodeId, own);
    const all = [...compare.filter((other) => other.key !== ownCompare.key), ownCompare];
    try {
      return await this.#write(volume, decision.record, all);
    } catch (error) {
      if (!hasCode(error, 'OUTCOME_UNKNOWN')) throw error;
      // an epoch is given once: if the record shows ours, it was this grant
      const now = await readVolume(this.#store, volume.value.metadata.id);
      const attachment = now?.value.status.attachment;
      return (
        attachment?.epoch === decision.attachment.epoch &&
        attachment.nodeId === this.#nodeId &&
        attachment.agentInstance === this.#agentInstance
      );
    }
  }

  async #granted(
    decision: AcquireDecision & { type: 'grant' },
    wait: Wait,
  ): Promise<AttachmentGrant> {
    const { record, attachment, previousReleased } = decision;
    const { id, name } = record.metadata;
    if (wait.signal.aborted) {
      await this.release(id, attachment.epoch, previousReleased);
      throw new StorError('ABORTED', 'the attachment was given up');
    }
    this.#grants.set(id, { epoch: attachment.epoch, atMs: this.#clock.monotonicMs() });
    const { epoch, mode } = attachment;
    this.#logger.info({ volume: name, epoch, mode, previousReleased }, 'attachment granted');
    return grantOf(record, attachment, previousReleased, this.#cache.state);
  }

  /** Asks a living holder to let go. Throws ATTACHED_ELSEWHERE when it is in use. */
  async #persuade(record: StoredVolume, holder: Attachment, wait: Wait): Promise<void> {
    const answer = await this.#askRelease(record, holder, true, wait);
    if (answer === 'busy') throw attachedElsewhere(record, holder, this.#cache.state);
    if (answer === 'unreachable') await pause(this.#clock, leaseLookMs, wait.signal);
  }

  /**
   * Asks until the holder answers, its lease is seen to end or the time is over: a process that is
   * stopped keeps its connections and answers nothing.
   */
  async #askRelease(
    record: StoredVolume,
    holder: Attachment,
    ifIdle: boolean,
    wait: Wait,
  ): Promise<'released' | 'busy' | 'gone' | 'unreachable'> {
    const { nodeId, epoch } = holder;
    const giveUp = new AbortController();
    const abort = (): void => {
      giveUp.abort();
    };
    const look = (): void => {
      const lease = this.#cache.state.leases.get(nodeId)?.value ?? null;
      if (!holderLives(holder, lease)) abort();
    };
    const undo = this.#cache.onChange(look);
    look();
    const leftMs = Math.max(leaseLookMs, wait.deadlineMs - this.#clock.monotonicMs());
    const cancel = this.#clock.after(leftMs, abort);
    wait.signal.addEventListener('abort', abort, { once: true });
    try {
      const volumeId = record.metadata.id;
      const request = { volumeId, epoch, ifIdle };
      return await this.#peers.at(nodeId).releaseAttachment(request, giveUp.signal);
    } catch (error) {
      // whatever went wrong over there, the record or the lease will tell when it is looked at again
      const { message } = StorError.from(error);
      this.#logger.warn(
        { volume: record.metadata.name, nodeId, message },
        'holder did not release',
      );
      return 'unreachable';
    } finally {
      undo();
      cancel();
      wait.signal.removeEventListener('abort', abort);
    }
  }

  #wait(waitMs: number, signal: AbortSignal | undefined): Wait {
    const both = signal ? AbortSignal.any([this.#closing, signal]) : this.#closing;
    return { deadlineMs: this.#clock.monotonicMs() + waitMs, signal: both };
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
    const live = await this.#agent.liveVolumes();
    const serves = live.some((v) => v.volumeId === volumeId && v.epoch === attachment.epoch);
    return serves ? { attachment } : null;
  }

  async #lease(nodeId: NodeId): Promise<Versioned<NodeLeaseRecord> | null> {
    // follows a linearizable read of the record, so this member has all that it depends on
    const item = await this.#store.get(nodeLeaseKey(nodeId), { local: true });
    if (!item) return null;
    return { value: decodeNodeLease(item.key, item.value), modRevision: item.modRevision };
  }

  async #write(
    volume: Versioned<StoredVolume>,
    record: StoredVolume,
    compare: Compare[] = [],
  ): Promise<boolean> {
    const key = volumeKey(record.metadata.id);
    const { succeeded } = await this.#store.transact({
      compare: [{ key, modRevision: volume.modRevision }, ...compare],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
    return succeeded;
  }

  /** Changes the record until it holds; null when `change` finds nothing to do. */
  async #update(
    volumeId: VolumeId,
    change: (record: StoredVolume) => StoredVolume | null,
  ): Promise<StoredVolume | null> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const volume = await readVolume(this.#store, volumeId);
      const record = volume && change(volume.value);
      if (!volume || !record) return null;
      if (await this.#write(volume, record)) return record;
    }
    throw tooManyConflicts(volumeId);
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

  #inUse(record: StoredVolume, holder: Attachment): StorError {
    const { message, details } = attachedElsewhere(record, holder, this.#cache.state);
    return new StorError('FAILED_PRECONDITION', message, { details: { ...details } });
  }

  #notAnswering(record: StoredVolume, holder: Attachment): StorError {
    const name = nodeName(this.#cache.state, holder.nodeId);
    const { details } = attachedElsewhere(record, holder, this.#cache.state);
    return new StorError(
      'UNAVAILABLE',
      `volume ${record.metadata.name} is attached on node ${name}, which does not answer and whose lease still runs: try again in some seconds`,
      { details: { ...details } },
    );
  }
}

function leaseCompare(nodeId: NodeId, lease: Versioned<unknown> | null): Compare {
  return { key: nodeLeaseKey(nodeId), modRevision: lease?.modRevision ?? 0 };
}

function tooManyConflicts(what: string): StorError {
  return new StorError('CONFLICT', `${what} changes too often to be changed: try again`);
}
