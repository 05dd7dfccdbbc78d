import { StorError } from '@stor/protocol';
import type { AttachmentGrant, PeerLanes, VolumeSettings } from '@stor/protocol';

import type { BlockRequest } from '../block-device.ts';
import type { ExtentsDone } from '../snapshots/snapshot-reader.ts';
import { leaseSpanMs } from '../core/replication/lease-promises.ts';
import { Membership } from '../core/replication/membership.ts';
import {
  activationTimeoutMs,
  stopDrainMs,
  stopPollMs,
  type CheckpointPace,
} from '../replication/limits.ts';
import type { PrimaryStatus } from '../replicator-ports.ts';
import { Checkpointer } from './checkpointer.ts';
import { decideMembers } from './decide-members.ts';
import { ForegroundProbe } from './foreground-probe.ts';
import type { LaneParts } from './lane-parts.ts';
import { hasNoSpace, type Member } from './member.ts';
import { peerMoved } from './peer-moved.ts';
import { OrderedVolume } from './ordered-volume.ts';
import { QuietLook } from './quiet-look.ts';
import type { SegmentPrimary } from './segmented-volume.ts';
import { Resyncer } from './resyncer.ts';
import { Scrubber } from './scrubber.ts';
import { SegmentHold } from './segment-hold.ts';
import { SegmentSnapshots } from './segment-snapshots.ts';
import type { Segment } from './segment.ts';
import { VolumeIo } from './volume-io.ts';

type State = PrimaryStatus['state'];

/** One attached volume: its life from the fence to the last checkpoint. */
export class PrimaryEngine extends OrderedVolume implements SegmentPrimary {
  readonly volumeId: string;
  readonly epoch: number;
  /** as recorded: the replicas may be larger already */
  #sizeBytes: number;
  readonly #grant: AttachmentGrant;
  readonly #segment: Segment;
  readonly #io: VolumeIo;
  readonly #resyncer: Resyncer;
  readonly #looks: QuietLook;
  readonly #checkpointer: Checkpointer;
  readonly #hold: SegmentHold;
  protected readonly orders: SegmentSnapshots;
  readonly scrubber: Scrubber;
  readonly #listeners: ((reason: StorError) => void)[] = [];
  #state: State = 'activating';
  #reason = 'fencing the replicas';
  /** the state as last seen from outside, and since when */
  #seen: State = 'activating';
  #seenMs: number;
  /** said until all replicas are in sync again */
  #lossNote = '';
  #over: StorError | null = null;
  #stopping: Promise<void> | null = null;
  /** rejects the steps of an activation that is under way */
  #interrupt: (error: StorError) => void = () => {};

  constructor(grant: AttachmentGrant, segment: Segment, pace: CheckpointPace, lane: LaneParts) {
    super();
    const { resyncPace, scrubBudget, turns, integrity } = lane;
    this.#grant = grant;
    this.#segment = segment;
    this.#seenMs = segment.options.clock.monotonicMs();
    this.volumeId = grant.volumeId;
    this.epoch = grant.epoch;
    this.#sizeBytes = grant.sizeBytes;
    const settled = (): boolean => this.#state === 'serving' && !this.#io.settler.active;
    this.#io = new VolumeIo(segment, integrity, () => {
      segment.changed();
    });
    const probe = new ForegroundProbe(segment.options.clock, resyncPace);
    this.#io.probe = probe;
    this.#looks = new QuietLook(segment, this.#io);
    const shared = { mayStart: settled, pace: resyncPace, turns };
    this.#resyncer = new Resyncer(segment, this.#io.reads, {
      ...shared,
      pendingRanges: () => this.#io.writes.pendingRanges(),
      joined: () => {
        segment.changed();
      },
      probe,
      rules: {
        isWanted: (snapshotId) => this.orders.isWanted(snapshotId),
        isRecorded: (snapshotId) => this.orders.isRecorded(snapshotId),
      },
    });
    this.#checkpointer = new Checkpointer(
      segment,
      pace,
      () =>
        (this.#state === 'serving' || this.#state === 'stopping') &&
        !this.#io.settler.active &&
        this.#resyncer.adopting === 0,
    );
    this.scrubber = new Scrubber(segment, {
      ...shared,
      blocks: this.#io.blocks,
      log: integrity,
      budget: scrubBudget,
    });
    this.#hold = new SegmentHold(segment, this.#io.writes);
    this.orders = new SegmentSnapshots({
      segment,
      hold: this.#hold,
      flushes: this.#io.flushes,
      refusal: () => this.#orderRefusal(),
      filling: this.#resyncer,
    });
    this.orders.update(grant);
    segment.parts = [
      this.#io,
      this.#io.writes,
      this.#io.reads,
      this.#io.flushes,
      this.#io.settler,
      this.#resyncer,
      this.scrubber,
      this.#hold,
      this.orders,
    ];
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  // the block device

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    return this.#state === 'serving' && this.#io.readInline(offset, length, target, start);
  }
  holeBytes(offset: number, length: number): number {
    return this.#state === 'serving' ? this.#io.holeBytes(offset, length) : 0;
  }
  read(request: BlockRequest): void {
    if (this.#accepts(request)) this.#io.read(request);
  }
  write(request: BlockRequest): void {
    if (this.#accepts(request)) this.#io.write(request);
  }
  writeZeroes(request: BlockRequest): void {
    if (this.#accepts(request)) this.#io.zero(request, request.noHole, true);
  }
  trim(request: BlockRequest): void {
    if (this.#accepts(request)) this.#io.zero(request, false, false);
  }
  flush(request: BlockRequest): void {
    if (this.#state !== 'serving') request.done(this.#refusal());
    else {
      this.#io.flush((error) => {
        request.done(error);
      });
    }
  }
  extents(offset: number, length: number, limit: number, done: ExtentsDone): void {
    if (this.#state !== 'serving') done(this.#refusal(), []);
    else this.#io.extents(offset, length, limit, done);
  }

  // its life

  /** Resolves when the volume serves. STALE_EPOCH, UNAVAILABLE, ABORTED. */
  async activate(signal: AbortSignal): Promise<void> {
    const { clock } = this.#segment.options;
    const interrupted = new Promise<never>((_resolve, reject) => {
      this.#interrupt = reject;
    });
    interrupted.catch(() => {});
    const onAbort = (): void => {
      this.#interrupt(new StorError('ABORTED', 'the attach was called off'));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    const cancelTimeout = clock.after(activationTimeoutMs, () => {
      this.#interrupt(new StorError('UNAVAILABLE', `${this.volumeId}: ${this.#reason}`));
    });
    try {
      await this.#steps(interrupted);
    } catch (error) {
      const failure = this.#over ?? StorError.from(error);
      this.finish(failure);
      throw failure;
    } finally {
      cancelTimeout();
      signal.removeEventListener('abort', onAbort);
      this.#interrupt = () => {};
    }
  }

  tick(nowMs: number): void {
    if (this.#over || !this.#looks.isDue(nowMs, this.scrubber.isWanted)) return;
    this.#look();
    this.#segment.tick(nowMs);
    this.#io.tick(nowMs);
    this.#checkpointer.tick(nowMs);
    this.#resyncer.tick(nowMs);
    this.scrubber.tick();
  }

  /** Ends at once: what is under way fails with the reason. */
  finish(reason: StorError, drained = false): void {
    if (this.#over) return;
    this.#over = reason;
    this.#state = 'stopped';
    this.#reason = reason.message;
    this.#interrupt(reason);
    // segment first: no callback may start anything on behalf of a primary that is over
    this.#segment.stopped = true;
    for (const part of [this.#resyncer, this.scrubber]) part.abandon();
    this.#hold.abandon(reason);
    this.#io.abandon(reason);
    this.#segment.stop(drained);
    for (const listener of this.#listeners) listener(reason);
  }

  idle(): Promise<void> {
    return this.#io.idle();
  }

  stop(options = { checkpoint: true }): Promise<void> {
    this.#stopping ??= this.#stop(options.checkpoint);
    return this.#stopping;
  }

  update(settings: VolumeSettings): void {
    if (this.#over || settings.epoch !== this.epoch) return;
    if (settings.resourceVersion < this.#segment.settings.resourceVersion) return;
    this.#segment.update(settings);
    this.orders.update(settings);
    this.#grow(settings.sizeBytes ?? 0);
  }

  /** The record has the new size; the replicas have it already, unless another primary made them. */
  #grow(sizeBytes: number): void {
    const grown = (): void => {
      this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes);
    };
    if (sizeBytes <= this.#segment.sizeBytes) grown();
    else {
      // what fails now is tried again with the next settings
      this.orders.resize(sizeBytes).then(grown, (error: unknown) => {
        const { message } = StorError.from(error);
        this.#segment.options.logger.warn({ sizeBytes, error: message }, 'replicas did not grow');
      });
    }
  }

  /** A node listens elsewhere now. */
  peerMoved(peer: PeerLanes): void {
    peerMoved(this.#segment.remotes, peer);
  }

  /** replicas are still being made equal after an unclean stop */
  get isSettling(): boolean {
    return this.#io.settler.active;
  }

  onStopped(listener: (reason: StorError) => void): void {
    if (this.#over) listener(this.#over);
    else this.#listeners.push(listener);
  }

  status(): PrimaryStatus {
    const segment = this.#segment;
    const { membership } = segment;
    const state = this.#look();
    return {
      volumeId: this.volumeId,
      epoch: this.epoch,
      state,
      reason: this.#state === 'serving' ? this.#holdReason() : this.#reason,
      stateAgeMs: segment.options.clock.monotonicMs() - this.#seenMs,
      segments: [
        {
          index: segment.options.index,
          setRevision: membership?.setRevision ?? this.#grant.segments[0]?.setRevision ?? 0,
          inSync: [...(membership?.committed ?? this.#grant.segments[0]?.inSync ?? [])],
          members: segment.members.map((member) => {
            const resync = this.#resyncer.status(member);
            return {
              replicaId: member.replicaId,
              nodeId: member.nodeId,
              state: this.#memberState(member),
              bytesRemaining: this.#resyncer.bytesRemaining(member),
              ...(hasNoSpace(member) ? { noSpace: true } : {}),
              ...(resync && { resync }),
            };
          }),
          settleBytesRemaining: this.#io.settler.bytesRemaining,
          noSpaceWrites: this.#io.noSpaceWrites,
          badBlocks: { found: this.#io.blocks.found, repaired: this.#io.blocks.repaired },
        },
      ],
    };
  }

  async #steps(interrupted: Promise<never>): Promise<void> {
    const { clock } = this.#segment.options;
    const beganMs = clock.monotonicMs();
    const decision = await Promise.race([
      decideMembers(this.#segment, this.#grant, (reason) => {
        this.#reason = reason;
      }),
      interrupted,
    ]);
    const recorded = this.#grant.segments[0];
    const membership = new Membership(
      decision.from.inSync,
      recorded?.setRevision ?? 0,
      decision.highestRevision,
      decision.isRecorded,
    );
    for (const id of decision.from.inSync) {
      if (!decision.members.includes(id)) membership.lost(id);
    }
    if (decision.unheard) this.#tellLoss(decision.members, decision.unheard);
    this.#segment.begin(membership);
    if (!this.#grant.previousReleased) {
      this.#reason = 'waiting until leases of the previous primary have run out';
      await this.#oldLeasesOver(decision.from.inSync, interrupted);
    }
    this.#reason = 'agreeing on the in-sync set';
    await Promise.race([this.#stable(membership), interrupted]);
    this.#state = 'serving';
    const regions = new Set<number>();
    for (const member of decision.equal ? [] : this.#segment.sources()) {
      for (const region of member.answer?.marks.list() ?? []) regions.add(region);
    }
    this.#io.settler.begin(regions);
    this.#segment.options.logger.info(
      {
        inSync: membership.committed,
        setRevision: membership.setRevision,
        regionsToSettle: regions.size,
        waitedForLeases: !this.#grant.previousReleased,
        tookMs: Math.round(clock.monotonicMs() - beganMs),
      },
      'the primary serves',
    );
    this.#segment.changed();
    this.orders.begin();
  }

  async #oldLeasesOver(inSync: readonly string[], interrupted: Promise<never>): Promise<void> {
    const { clock } = this.#segment.options;
    const latestMs = clock.monotonicMs() + leaseSpanMs;
    for (;;) {
      const untilMs = Math.min(latestMs, this.#segment.oldLeasesOverMs(inSync));
      const waitMs = untilMs - clock.monotonicMs();
      if (waitMs <= 0) return;
      await Promise.race([this.#after(waitMs), interrupted]);
    }
  }

  /** Nobody kept its memory, so writes that were not flushed may be gone: said aloud. */
  #tellLoss(members: readonly string[], unheard: readonly string[]): void {
    const segment = this.#segment;
    const without = unheard.map((id) => segment.describe(id)).join(', ');
    this.#lossNote =
      `serving from ${members.join(', ')}: writes that were not flushed before the crash may be lost` +
      (without === '' ? '' : `, by consent without ${without}`);
    segment.options.logger.warn({ members, unheard }, this.#lossNote);
  }

  #stable(membership: Membership): Promise<void> {
    return new Promise((resolve) => {
      const part = {
        membersChanged: (): void => {
          if (!membership.stable || this.#segment.stopped) return;
          this.#segment.parts = this.#segment.parts.filter((each) => each !== part);
          resolve();
        },
      };
      this.#segment.parts = [...this.#segment.parts, part];
      part.membersChanged();
    });
  }

  #after(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.#segment.options.clock.after(Math.max(0, delayMs), resolve);
    });
  }

  async #stop(checkpoint: boolean): Promise<void> {
    const { clock } = this.#segment.options;
    if (this.#state === 'serving') {
      this.#state = 'stopping';
      this.#reason = 'draining';
      let cancel = (): void => {};
      const timeout = new Promise<void>((resolve) => {
        cancel = clock.after(stopDrainMs, resolve);
      });
      this.#io.giveUpHeld(new StorError('ABORTED', 'the volume was detached here'));
      await Promise.race([this.#drain(checkpoint), timeout, this.#ended()]);
      cancel();
    }
    this.finish(new StorError('ABORTED', 'the volume was detached here'), this.#areEqual());
    const session = this.#segment.local?.session;
    // a flush that nobody waits for may take long; what could change the replica is waited for
    await (checkpoint ? session?.drained() : session?.changesOver());
  }

  /** Every member has applied the same writes, and none is under way. */
  #areEqual(): boolean {
    const { membership } = this.#segment;
    if (this.#over || this.#state !== 'stopping' || membership?.stable !== true) return false;
    if (this.#hold.isPinned) return false;
    const isOpen = (id: string): boolean =>
      this.#segment.members.some((member) => member.replicaId === id && member.isOpen);
    return this.#io.isIdle && !this.#io.settler.active && membership.required().every(isOpen);
  }

  async #drain(checkpoint: boolean): Promise<void> {
    await this.#io.idle();
    if (!checkpoint) return;
    await new Promise<void>((resolve) => {
      this.#io.flush(() => {
        resolve();
      });
    });
    const isBusy = (): boolean => this.#checkpointer.running || this.#resyncer.adopting > 0;
    while (isBusy() && !this.#over) await this.#after(stopPollMs);
    if (this.#over) return;
    await new Promise<void>((resolve) => {
      this.#checkpointer.runTwice(() => {
        resolve();
      });
    });
  }

  #ended(): Promise<void> {
    return new Promise((resolve) => {
      this.onStopped(() => {
        resolve();
      });
    });
  }

  #accepts(request: BlockRequest): boolean {
    if (this.#state !== 'serving') {
      request.done(this.#refusal());
      return false;
    }
    if (request.length === 0) {
      request.done(null);
      return false;
    }
    return true;
  }

  /** Why no order about snapshots is taken now; null when they are. */
  #orderRefusal(): StorError | null {
    if (this.#state !== 'serving') return this.#refusal();
    if (!this.#io.settler.active) return null;
    const message = `${this.volumeId}: the replicas are made equal after an unclean stop: try again later`;
    return new StorError('UNAVAILABLE', message);
  }

  #refusal(): StorError {
    return (
      this.#over ??
      new StorError('UNAVAILABLE', `${this.volumeId} is ${this.#state}: ${this.#reason}`)
    );
  }

  /** The state as it is seen from outside; remembers when it last changed. */
  #look(): State {
    const segment = this.#segment;
    const { writes } = segment.rule;
    let state = this.#state;
    if (state === 'serving' && writes === 'refuse') state = 'failing';
    else if (state === 'serving' && (writes !== 'start' || !segment.leased)) state = 'holding';
    if (state !== this.#seen) {
      this.#seen = state;
      this.#seenMs = segment.options.clock.monotonicMs();
    }
    return state;
  }

  /** Why it does not serve everything; empty when it does. */
  #holdReason(): string {
    const reason = this.#segment.explainHold();
    if (reason !== '') return this.#segment.leased ? reason : `${reason}; reads wait too`;
    if (this.#segment.leased) return this.#isWhole ? '' : this.#lossNote;
    return 'waiting for a replica to renew its lease';
  }

  get #isWhole(): boolean {
    const { inSyncNodes, settings } = this.#segment;
    return inSyncNodes >= settings.replicas;
  }

  #memberState(member: Member): PrimaryStatus['segments'][0]['members'][0]['state'] {
    const segment = this.#segment;
    if (member.answer?.failure || segment.distrusted.has(member.replicaId)) return 'failed';
    if (segment.isInSync(member) && member.isOpen) return 'in-sync';
    if (segment.joining.has(member)) return 'joining';
    if (this.#resyncer.isFilling(member)) return 'syncing';
    return member.isOpen ? 'absent' : 'connecting';
  }
}
