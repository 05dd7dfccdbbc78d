import { defaultLimits, type RaftLimits } from './core/limits.ts';
import type { MemberChange, Membership } from './core/membership.ts';
import {
  batchOf,
  RawNode,
  type OwnSnapshot,
  type PeerProgress,
  type Ready,
  type RaftStatus,
} from './core/raw-node.ts';
import type { StoredState } from './core/storage.ts';
import type { PeerId, RaftMessage } from './core/types.ts';
import { RaftError } from './errors.ts';
import { AppliedWaiters } from './applied-waiters.ts';
import { LeaderTransfers } from './leader-transfers.ts';
import { MembershipChanges } from './membership-changes.ts';
import { applyEntries, createState, leaseMs } from './raft-node-parts.ts';
import { PendingReads } from './pending-reads.ts';
import { Proposals, type Proposed } from './proposals.ts';
import { SnapshotFlow } from './snapshot-flow.ts';
import { checkOptions, type RaftNodeOptions, type Settings } from './raft-options.ts';

/**
 * The driver: feeds the pure core with time, messages and proposals, and carries out what it asks
 * for. One save is under way at a time; what arrives meanwhile goes into the next, so under load
 * many proposals share one synced write and one append.
 */
export class RaftNode {
  readonly id: PeerId;
  readonly #settings: Settings;
  readonly #raw: RawNode;
  readonly #proposals: Proposals;
  readonly #reads: PendingReads;
  readonly #applied: AppliedWaiters;
  readonly #changes = new MembershipChanges();
  readonly #transfers = new LeaderTransfers();
  readonly #snapshots: SnapshotFlow;
  readonly #roleListeners = new Set<(status: RaftStatus) => void>();
  #lastStatus: RaftStatus;
  #save: Promise<void> | null = null;
  #pumpQueued = false;
  #flushCommit = false;
  #cancelTick: () => void = () => {};
  #tickDueMs = 0;
  /** set once: why nothing is accepted any more */
  #stopped: RaftError | null = null;
  /** what broke, when a fault and not `close` stopped the node */
  #failure: RaftError | null = null;
  #closing: Promise<void> | null = null;

  private constructor(settings: Settings, stored: StoredState, limits: RaftLimits) {
    this.id = settings.id;
    this.#settings = settings;
    this.#raw = new RawNode(
      {
        id: settings.id,
        electionTicks: settings.electionTicks,
        heartbeatTicks: settings.heartbeatTicks ?? 1,
        voteHoldTicks: settings.leaseClockDrift === undefined ? 0 : settings.electionTicks,
        limits,
        random: settings.random,
      },
      { ...stored, commit: stored.hardState.commit },
    );
    this.#proposals = new Proposals(limits);
    this.#reads = new PendingReads(limits.pendingReads, {
      monotonicMs: () => settings.clock.monotonicMs(),
      leaseMs: leaseMs(settings),
    });
    this.#applied = new AppliedWaiters(limits.pendingWaits, (error) => {
      settings.logger?.error({ error }, 'a listener for applied entries threw');
    });
    this.#lastStatus = this.#raw.status;
    this.#snapshots = new SnapshotFlow(
      {
        raw: this.#raw,
        settings,
        limits,
        isStopped: () => this.#stopped !== null,
        pump: () => {
          this.#pump();
        },
        send: (messages) => {
          this.#send(messages);
        },
        fail: (error) => {
          this.#fail(error);
        },
        restored: ({ index }) => {
          this.#applied.advance(index);
        },
      },
      stored.snapshot.index,
    );
  }

  /**
   * Loads what the member remembers, restores the state machine and begins to take part. Errors:
   * INVALID_ARGUMENT, and those of the storage, CORRUPT above all.
   */
  static async open(options: RaftNodeOptions): Promise<RaftNode> {
    const settings = checkOptions(options);
    const stored = (await settings.storage.load()) ?? (await createState(settings));
    const limits = { ...defaultLimits, ...settings.limits };
    const node = new RaftNode(settings, stored, limits);
    node.#checkRecoverable();
    await node.#snapshots.restore();
    if (!node.#stopped) node.#start();
    if (node.#failure) throw node.#failure;
    node.#warnOfRecovery();
    return node;
  }

  #start(): void {
    this.#tickDueMs = this.#settings.clock.monotonicMs() + this.#settings.tickMs;
    this.#scheduleTick();
    // what is known to be committed is applied first, and with it the members that hold now
    this.#pump();
    this.#warnOfOtherVoters();
    const { voters, outgoing } = this.#raw.membership;
    // Nobody else could be elected, so there is nothing to wait for.
    if (new Set([...voters, ...outgoing]).size === 1) this.#raw.campaign();
    this.#pump();
  }

  #warnOfOtherVoters(): void {
    const { initialVoters, logger } = this.#settings;
    const { voters } = this.#raw.membership;
    // none given: the stored ones are what is asked for
    if (initialVoters.length === 0) return;
    if ([...voters].sort().join() === [...initialVoters].sort().join()) return;
    logger?.warn(
      { stored: voters, given: initialVoters },
      'the stored voters count, not the ones given',
    );
  }

  /** Alone there is nobody who could bring back what is lost. */
  #checkRecoverable(): void {
    const { voters, outgoing } = this.#raw.membership;
    if (!this.#raw.recoverTo || new Set([...voters, ...outgoing]).size > 1) return;
    throw new RaftError(
      'CORRUPT',
      `the Raft log of ${this.id} has lost entries up to ${this.#raw.recoverTo.index}, and it is ` +
        'the only voter: restore a backup',
    );
  }

  #warnOfRecovery(): void {
    const { recoverTo } = this.#raw;
    if (!recoverTo) return;
    const fields = { raftId: this.id, recoverTo };
    const what =
      'the Raft log has lost what was acknowledged: no vote until a leader brings it back';
    this.#settings.logger?.error(fields, what);
  }

  /**
   * - `recovering`: its store has lost entries that it had acknowledged; it gives no vote and does
   *   not stand until a leader has brought its log so far again. That ends by itself.
   * - `failed`: stopped for good by a fault, which `error` tells, for example DISK_FULL.
   */
  health(): { state: 'ok' | 'recovering' | 'failed' | 'closed'; error: RaftError | null } {
    if (this.#failure) return { state: 'failed', error: this.#failure };
    if (this.#stopped) return { state: 'closed', error: null };
    return { state: this.#raw.recoverTo ? 'recovering' : 'ok', error: null };
  }

  /** A node that has stopped follows nobody and leads nobody, whatever it was. */
  status(): RaftStatus {
    const status = this.#raw.status;
    return this.#stopped ? { ...status, role: 'follower', leaderId: null } : status;
  }

  /**
   * Replicates `data`, which must not be changed afterwards. Resolves when it is committed and
   * applied here, with what the state machine returned. Leader only. Errors: NOT_LEADER, TOO_BUSY,
   * INVALID_ARGUMENT, ABORTED, CLOSED (nothing happened); OUTCOME_UNKNOWN (it may still commit).
   */
  propose(data: Uint8Array, options: { signal?: AbortSignal } = {}): Promise<Proposed> {
    if (this.#stopped) return Promise.reject(this.#stopped);
    const promise = this.#proposals.add(data, this.#raw, options.signal);
    this.#queuePump();
    return promise;
  }

  /**
   * An index such that a read of the state machine, once that is applied, sees every write that
   * was committed before this call; resolves when it is applied. Leadership is confirmed by a
   * quorum round begun after the call. With `lease` a round that was confirmed within the lease is
   * enough, so most reads send nothing; it is as good only while no clock drifts by more than
   * `leaseClockDrift`, without which it is refused. Errors: NOT_LEADER, TOO_BUSY, ABORTED, CLOSED,
   * INVALID_ARGUMENT.
   */
  readIndex(options: { signal?: AbortSignal; lease?: boolean } = {}): Promise<number> {
    if (this.#stopped) return Promise.reject(this.#stopped);
    if (options.lease) {
      if (this.#settings.leaseClockDrift === undefined) {
        const reason = 'a lease read needs leaseClockDrift, the bound that it relies on';
        return Promise.reject(new RaftError('INVALID_ARGUMENT', reason));
      }
      const index = this.#reads.leaseIndex(this.#raw);
      if (index !== null) return this.waitApplied(index, options).then(() => index);
    }
    const promise = this.#reads.add(this.#raw, options.signal);
    this.#queuePump();
    return promise;
  }

  /**
   * Changes the members, and resolves with the membership when the change is complete. All changes
   * take effect at once, by a joint membership when more than one voter is concerned. A new voter
   * is a learner until it has caught up, however long that takes (give a signal). A repetition of
   * what is done already resolves. Leader only; a leader may remove itself, and leads no more then.
   * Errors: NOT_LEADER, CHANGE_PENDING, INVALID_ARGUMENT, CLOSED (nothing happened); ABORTED (new
   * voters were added as learners, no more); OUTCOME_UNKNOWN (look at `members()`, and repeat).
   */
  changeMembership(
    changes: MemberChange[],
    options: { signal?: AbortSignal } = {},
  ): Promise<Membership> {
    if (this.#stopped) return Promise.reject(this.#stopped);
    const promise = this.#changes.change(this.#raw, changes, options.signal);
    this.#queuePump();
    return promise;
  }

  /**
   * Hands leadership to another voter, and resolves when this member follows another leader. No
   * proposal is accepted meanwhile (TOO_BUSY). Errors: NOT_LEADER, CHANGE_PENDING,
   * INVALID_ARGUMENT, CLOSED; TIMED_OUT (after an election timeout this member leads on; the other
   * may still be elected a little later).
   */
  transferLeadership(to: PeerId): Promise<void> {
    if (this.#stopped) return Promise.reject(this.#stopped);
    try {
      this.#raw.transferLeadership(to);
    } catch (error) {
      if (error instanceof RaftError && error.code !== 'INTERNAL') return Promise.reject(error);
      throw error;
    }
    this.#queuePump();
    return this.#transfers.wait(to);
  }

  /** The members by the newest change in this member's log, which may not be committed yet. */
  members(): Membership {
    return structuredClone(this.#raw.membership);
  }

  /** Leader: what is known of each member's log, its own included; else empty. */
  peers(): (PeerProgress & { isCaughtUp: boolean })[] {
    if (this.status().role !== 'leader') return [];
    return this.#raw.peers().map((peer) => {
      return { ...peer, isCaughtUp: this.#raw.isCaughtUp(peer.id) };
    });
  }

  /** Messages from the network, as decoded. Those for somebody else are ignored. */
  step(messages: RaftMessage[]): void {
    if (this.#stopped) return;
    this.#guard(() => {
      for (const message of messages) this.#raw.step(message);
    });
    this.#queuePump();
  }

  /**
   * The connection to a peer has broken, so that it may be dead. If this member follows it, the next
   * election comes after a few ticks and not after a whole election timeout; a leader that the others
   * still hear stays. A hint: without it all works, and it changes nothing where lease reads are allowed.
   */
  suspectLeader(peer: PeerId): void {
    if (!this.#stopped) this.#raw.suspectLeader(peer);
  }

  /**
   * Called after role, term or known leader changed, also by a stop; returns the undo. It must be
   * quick; what it throws is logged.
   */
  onRoleChange(listener: (status: RaftStatus) => void): () => void {
    this.#roleListeners.add(listener);
    return () => {
      this.#roleListeners.delete(listener);
    };
  }

  /** Called with the applied index when it has moved; returns the undo. */
  onApplied(listener: (appliedIndex: number) => void): () => void {
    return this.#applied.listen(listener);
  }

  /** Resolves when `index` is applied here. Errors: TOO_BUSY, ABORTED, CLOSED. */
  waitApplied(index: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.#stopped) return Promise.reject(this.#stopped);
    return this.#applied.wait(index, this.#raw.status.appliedIndex, options.signal);
  }

  /** Stops, waits for the write under way, fails what is pending. Works twice. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    this.#stop(new RaftError('CLOSED', `the Raft node ${this.id} is closed`));
    await this.#save;
    await this.#snapshots.stop();
    if (this.#failure || this.#raw.saving || !this.#raw.commitUnsaved) return;
    // Not needed for safety: it only spares the next start from learning it again.
    try {
      await this.#settings.storage.save(batchOf(this.#raw.ready(true), null));
    } catch (error) {
      this.#settings.logger?.warn({ error }, 'the commit index could not be saved at close');
    }
  }

  // --- the loop ---

  #scheduleTick(): void {
    const { clock, tickMs } = this.#settings;
    const delayMs = Math.max(0, this.#tickDueMs - clock.monotonicMs());
    this.#cancelTick = clock.after(delayMs, () => {
      const lateMs = clock.monotonicMs() - this.#tickDueMs;
      // A stop of the process is one tick, not many: messages that wait must be read before an
      // election is called because of silence that was our own.
      this.#tickDueMs = lateMs > tickMs ? clock.monotonicMs() + tickMs : this.#tickDueMs + tickMs;
      if (lateMs > (tickMs * this.#settings.electionTicks) / 2) {
        this.#settings.logger?.warn({ lateMs }, 'a Raft tick is late: the process was held up');
      }
      this.#scheduleTick();
      this.#guard(() => {
        this.#raw.tick();
      });
      this.#flushCommit = this.#raw.commitUnsaved;
      this.#pump();
    });
  }

  /** Later in this turn, so that what arrives together is handled together. */
  #queuePump(): void {
    if (this.#pumpQueued || this.#stopped) return;
    this.#pumpQueued = true;
    queueMicrotask(() => {
      this.#pumpQueued = false;
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#stopped) return;
    this.#guard(() => {
      do {
        if (this.#save === null) this.#proposals.append(this.#raw);
        this.#reads.begin(this.#raw);
        this.#send(this.#raw.takeMessages());
        this.#snapshots.sendChunks();
        this.#apply();
        this.#reads.confirm(this.#raw);
        this.#changes.proceed(this.#raw);
        this.#transfers.proceed(this.#raw);
        this.#noticeRole();
      } while (this.#stopped === null && this.#beginSave());
    });
  }

  /** True when the work is already done, so that the loop must look again. */
  #beginSave(): boolean {
    if (this.#save !== null) return false;
    const own = this.#snapshots.ownWork();
    if (!own && !this.#flushCommit && !this.#raw.hasReady()) return false;
    const ready = this.#raw.ready(this.#flushCommit || own !== null);
    this.#flushCommit = false;
    if (!own && RawNode.needsNoWrite(ready)) {
      this.#send(this.#raw.saved(ready));
      return true;
    }
    this.#save = this.#saveReady(ready, own);
    return false;
  }

  async #saveReady(ready: Ready, own: OwnSnapshot | null): Promise<void> {
    const compaction = own?.compaction ?? null;
    const isNewest = compaction !== null || ready.snapshot !== null;
    const batch = batchOf(ready, own, isNewest ? this.#snapshots.inUse() : []);
    try {
      await this.#settings.storage.save(batch);
    } catch (error) {
      this.#save = null;
      const reason = `the Raft store of ${this.id} failed: ${String(error)}`;
      const failure = new RaftError('STORAGE_FAILED', reason, { cause: error });
      this.#fail(error instanceof RaftError ? error : failure);
      return;
    }
    this.#save = null;
    if (this.#stopped) return;
    this.#guard(() => {
      if (compaction) this.#raw.compacted(compaction.snapshot, compaction.start);
      this.#send(this.#raw.saved(ready));
    });
    this.#pump();
  }

  #apply(): void {
    const { stateMachine } = this.#settings;
    const before = this.#raw.status.appliedIndex;
    // in its own time; what is committed meanwhile waits
    if (this.#raw.takeSnapshot()) void this.#snapshots.restore();
    for (;;) {
      const entries = this.#raw.takeCommitted();
      if (entries.length === 0) break;
      applyEntries(stateMachine, entries, this.#proposals);
      for (const { data } of entries) this.#snapshots.applied(data.length);
    }
    const { appliedIndex } = this.#raw.status;
    if (appliedIndex > before) this.#applied.advance(appliedIndex);
  }

  #send(messages: RaftMessage[]): void {
    const byPeer = new Map<PeerId, RaftMessage[]>();
    for (const message of messages) {
      const list = byPeer.get(message.to);
      if (list) list.push(message);
      else byPeer.set(message.to, [message]);
    }
    for (const [to, list] of byPeer) {
      try {
        this.#settings.transport.send(to, list);
      } catch (error) {
        // To Raft a message that could not be sent is one that was lost.
        this.#settings.logger?.warn({ to, error }, 'the Raft transport threw');
      }
    }
  }

  #noticeRole(): void {
    const status = this.status();
    const last = this.#lastStatus;
    const changed =
      status.role !== last.role || status.term !== last.term || status.leaderId !== last.leaderId;
    if (!changed) return;
    this.#lastStatus = status;
    if (last.role === 'leader' && (status.role !== 'leader' || status.term !== last.term)) {
      this.#proposals.leadershipLost(this.#raw);
      this.#reads.leadershipLost(this.#raw);
      this.#changes.leadershipLost(this.#raw);
    }
    const { role, term, leaderId } = status;
    this.#settings.logger?.info({ raftId: this.id, role, term, leaderId }, 'Raft role');
    for (const listener of this.#roleListeners) {
      try {
        listener(status);
      } catch (error) {
        this.#settings.logger?.error({ error }, 'a listener for Raft roles threw');
      }
    }
  }

  /** What throws in here broke an invariant, in the core or the state machine: stop for good. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (this.#stopped) return;
    const cause =
      error instanceof RaftError
        ? error
        : new RaftError('INTERNAL', `the Raft node ${this.id} failed: ${String(error)}`, {
            cause: error,
          });
    this.#failure = cause;
    this.#settings.logger?.error({ raftId: this.id, error: cause }, 'the Raft node has stopped');
    this.#stop(
      new RaftError('CLOSED', `the Raft node ${this.id} has stopped: ${cause.message}`, { cause }),
    );
    this.#settings.onFatal?.(cause);
  }

  #stop(reason: RaftError): void {
    if (this.#stopped) return;
    this.#stopped = reason;
    this.#cancelTick();
    void this.#snapshots.stop();
    this.#proposals.stop(reason);
    this.#reads.stop(reason);
    this.#changes.stop(reason);
    this.#transfers.stop(reason);
    this.#applied.stop(reason);
    // who acts for the leader must hear that this one leads no more
    this.#noticeRole();
    this.#roleListeners.clear();
  }
}
