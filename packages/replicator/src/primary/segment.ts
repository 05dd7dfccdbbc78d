import {
  StorError,
  hasCode,
  membersNeeded,
  type GrantedReplica,
  type VolumePolicy,
  type VolumeSettings,
} from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';

import {
  decideWrites,
  explainRule,
  type MembersView,
  type WriteRule,
} from '../core/replication/acknowledgement.ts';
import type { Membership } from '../core/replication/membership.ts';
import { type MembershipStep } from '../core/replication/membership.ts';
import { RangeLock } from '../core/replication/range-lock.ts';
import { isGivenUp } from '../core/replication/slow-member.ts';
import { RegionUse } from '../core/replication/region-use.ts';
import type { Outbox } from '../peer/outbox.ts';
import { memberLongStallMs, memberStallMs } from '../replication/limits.ts';
import type { ReplicatorControl } from '../replicator-ports.ts';
import { GrantedReplicas } from './granted-replicas.ts';
import type { LocalMember } from './local-member.ts';
import type { Member, MemberEvents, OpenAnswer } from './member.ts';
import type { RemoteMember } from './remote-member.ts';
import { ReturnCheck } from './return-check.ts';
import { confirmSet, proposeChange } from './set-changes.ts';

/** Until the first set is decided nothing is refused. */
const nobodyYet = { committed: 0, inSync: 0, changing: true, allAway: false };
const neverRefused = { failureMode: 'alwayson', onLoss: 'suspend' } as const;

export interface SegmentOptions {
  readonly volumeId: string;
  readonly index: number;
  readonly epoch: number;
  readonly sizeBytes: number;
  /** where the segment begins in the volume (bytes): what is told to people counts from there */
  readonly offsetBytes: number;
  /** of this primary */
  readonly nodeId: string;
  readonly channel: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly outbox: Outbox;
  readonly control: ReplicatorControl;
  /** what the volume is served under to begin with; `update` changes it */
  readonly settings: VolumeSettings;
  /** A member for a replica: the local one when it lies on a disk of this lane and none is yet. */
  readonly memberOf: (replica: GrantedReplica, segment: Segment) => RemoteMember | LocalMember;
  /** A newer primary or set exists: stop (I2, I4). */
  readonly superseded: (reason: StorError) => void;
  readonly replicaFailed: (member: Member, error: StorError) => void;
}

/** Parts of the engine that look again when members come, go, or make progress. */
export interface SegmentPart {
  /** who is a member, target or required may have changed */
  membersChanged(): void;
  /** what the member is sent again when it may go on */
  resentTo?(member: Member): { offset: number; length: number }[];
  /** the member is open again, or for the first time */
  memberOpened?(member: Member): void;
  memberLost?(member: Member): void;
}

/**
 * One segment as its primary sees it: the members and who of them must have a write. The parts
 * that do I/O, settle, resync and checkpoints hang on it.
 */
export class Segment implements MemberEvents {
  readonly options: SegmentOptions;
  readonly lock = new RangeLock();
  readonly regionUse: RegionUse;
  members: readonly Member[] = [];
  remotes: readonly RemoteMember[] = [];
  local: LocalMember | null = null;
  /** null until the first set is decided */
  membership: Membership | null = null;
  /** number of the last write given to any member */
  sequence = 0;
  /** remote members that are sent every write */
  targets: RemoteMember[] = [];
  localIsTarget = false;
  /** remote members whose acknowledgement every write needs */
  required: RemoteMember[] = [];
  localIsRequired = false;
  /** the local replica may be read */
  localIsInSync = false;
  /** members being filled: they get every write and are needed by none (resync) */
  readonly syncing = new Set<Member>();
  readonly joining = new Set<Member>();
  parts: SegmentPart[] = [];
  /** of every in-sync replica; the device may be smaller for a moment */
  sizeBytes: number;
  /** no write starts: every member is about to be told something at the same point (SegmentHold) */
  isHeld = false;
  /** Called at each answer while the first set is not decided. */
  onAnswer: () => void = () => {};
  stopped = false;
  settings: VolumeSettings;
  /** what happens to clients' writes now: follows from the members and the policy */
  rule: WriteRule = decideWrites(nobodyYet, neverRefused, 1);
  /** why a member that is not open is not, as it was last said */
  readonly lastErrors = new Map<string, StorError>();
  /** replicas whose disk does not keep what is written: never filled again by this primary (I7) */
  readonly distrusted = new Set<string>();
  readonly #returns = new ReturnCheck();
  #isStarted = false;
  #granted: GrantedReplicas;
  #progress: () => void = () => {};
  #advancing = false;

  constructor(options: SegmentOptions) {
    this.options = options;
    this.settings = options.settings;
    this.sizeBytes = options.sizeBytes;
    this.regionUse = new RegionUse(options.sizeBytes);
    this.#granted = new GrantedReplicas(null, options.index);
    this.#applySettings();
  }

  get policy(): VolumePolicy {
    return this.settings.policy;
  }

  /** How many in-sync members an acknowledgement needs, as the failure mode says. */
  get membersNeeded(): number {
    return membersNeeded(this.policy.failureMode, this.settings.replicas);
  }

  /** The control plane wants the replica gone: it is not filled any more. */
  isLeaving(member: Member): boolean {
    return this.#granted.get(member.replicaId)?.leaving !== false;
  }

  /** Replicas that the record knows to have failed for good: they have no member and never answer. */
  get knownFailed(): string[] {
    return this.#granted.failed;
  }

  /** A request may be answered while its write is still under way. */
  get mayAnswerEarly(): boolean {
    return this.policy.ioTimeoutMs > 0 || this.policy.onLoss === 'error';
  }

  /** Why writes do not go on; empty when they do. */
  explainHold(): string {
    const away = this.members.filter((member) => !(member.isOpen && this.isInSync(member)));
    const missing = away.map((member) => this.describe(member.replicaId));
    const { policy, replicas } = this.settings;
    return explainRule(this.rule, this.#view(), policy, replicas, missing);
  }

  /** A replica for people: where it is, and why it does not answer. */
  describe(replicaId: string): string {
    const member = this.members.find((each) => each.replicaId === replicaId);
    return this.#granted.describe(replicaId, member, this.lastErrors.get(replicaId));
  }

  /** Policy and replicas as the record has them now; the caller has checked epoch and version. */
  update(settings: VolumeSettings): void {
    if (this.stopped) return;
    this.settings = settings;
    this.#applySettings();
    for (const member of [...this.syncing, ...this.joining]) {
      if (this.isLeaving(member)) {
        member.drop(new StorError('ABORTED', `replica ${member.replicaId} is to go`));
      }
    }
    this.changed();
    if (!this.membership) this.onAnswer();
  }

  setProgress(progress: () => void): void {
    this.#progress = progress;
  }

  /** Leases of all that must acknowledge run until then (I6). */
  get leaseUntilMs(): number {
    let until = this.localIsRequired && this.local ? this.local.leaseUntilMs : Infinity;
    for (const member of this.required) until = Math.min(until, member.leaseUntilMs);
    return until;
  }

  /** Reads and acknowledgements are allowed now (I6). */
  get leased(): boolean {
    const isLocalAway = this.localIsRequired && this.local?.isOpen !== true;
    if (this.required.length === 0 && !isLocalAway) return true;
    return this.options.clock.monotonicMs() < this.leaseUntilMs;
  }

  /**
   * From then on no older primary serves this segment, by the own clock (I6): any of them needs the
   * leases of *all* members of the recorded set, and of one that is fenced here it has none left.
   * Not known before one of them has answered. docs/adr/0008-remaining-lease.md has the argument.
   */
  oldLeasesOverMs(inSync: readonly string[]): number {
    let over = Infinity;
    for (const { replicaId, answer } of this.members) {
      // a failed replica's fence need not outlive its process, so its word does not count
      if (!answer || answer.failure || !inSync.includes(replicaId)) continue;
      over = Math.min(over, answer.leasesOverMs);
    }
    return over;
  }

  isInSync(member: Member): boolean {
    const { membership } = this;
    return (
      membership !== null &&
      membership.isCommitted(member.replicaId) &&
      !membership.isAway(member.replicaId)
    );
  }

  /** In-sync members that answer, the local one first. */
  sources(): Member[] {
    return this.members.filter((member) => member.isOpen && this.isInSync(member));
  }

  /** Fences every replica. */
  start(): void {
    this.#isStarted = true;
    for (const member of this.members) member.start();
  }

  begin(membership: Membership): void {
    this.membership = membership;
    this.#setLeaving();
    for (const id of membership.committed) {
      const member = this.members.find((each) => each.replicaId === id);
      if (!member?.isOpen || member.answer?.failure) membership.lost(id);
    }
    this.changed();
  }

  /** Looks at everything again after a change of members. */
  changed(): void {
    this.#forgetVanished();
    this.#refresh();
    this.#advance();
    this.#readmit();
    for (const part of this.parts) part.membersChanged();
    this.#progress();
  }

  /** Every in-sync replica is so large now. */
  grow(sizeBytes: number): void {
    this.sizeBytes = Math.max(this.sizeBytes, sizeBytes);
    this.regionUse.grown(sizeBytes);
  }

  /** `drained`: those that must have every write are equal, and nothing is under way. */
  stop(drained = false): void {
    this.stopped = true;
    const required = this.membership?.required() ?? [];
    for (const member of this.members) member.stop(drained && required.includes(member.replicaId));
  }

  tick(nowMs: number): void {
    for (const member of this.members) member.tick(nowMs);
  }

  // what members say

  opened(member: Member, answer: OpenAnswer): void {
    if (this.stopped) return;
    const { membership } = this;
    this.lastErrors.delete(member.replicaId);
    if (answer.failure) this.options.replicaFailed(member, answer.failure);
    if (!membership) {
      this.onAnswer();
      return;
    }
    this.#checkMemoryLost();
    this.changed();
  }

  progressed(): void {
    if (!this.stopped) this.#progress();
  }

  lost(member: Member, error: StorError): void {
    if (this.stopped) return;
    const { membership, options } = this;
    const { replicaId } = member;
    this.lastErrors.set(replicaId, error);
    if (hasCode(error, 'DISK_FAILED', 'NO_SPACE')) options.replicaFailed(member, error);
    if (!membership) {
      this.onAnswer();
      return;
    }
    const mattered = membership.required().includes(replicaId);
    this.syncing.delete(member);
    this.joining.delete(member);
    if (this.isInSync(member)) this.#returns.lost(member);
    membership.lost(replicaId);
    membership.settleRecording();
    if (mattered) {
      options.logger.warn({ replica: replicaId, reason: error.message }, 'a replica was lost');
    }
    for (const part of this.parts) part.memberLost?.(member);
    this.changed();
  }

  /** A slow member leaves by policy: never one that acknowledgements need (failure row 10). */
  isTooSlow(member: Member, oldestMs: number): boolean {
    if (this.stopped || oldestMs <= memberStallMs) return false;
    const others = this.sources().filter((each) => each !== member);
    return isGivenUp({
      oldestMs,
      limitMs: memberStallMs,
      longLimitMs: memberLongStallMs,
      isInSync: this.isInSync(member),
      isLocal: member.isLocal,
      others: this.#nodesOf(others.map(({ replicaId }) => replicaId)),
      needed: this.membersNeeded,
    });
  }

  superseded(reason: StorError): void {
    if (!this.stopped) this.options.superseded(reason);
  }

  /**
   * Nobody is left who has all acknowledged writes for certain: which state stands is decided as at
   * any activation, so this primary ends and the next attach decides (I5).
   */
  #checkMemoryLost(): void {
    const { membership } = this;
    if (!membership?.suspended || membership.isKnownHereOnly) return;
    const all = membership.committed.every((id) => {
      const member = this.members.find((each) => each.replicaId === id);
      return member?.isOpen === true && member.answer?.keptMemory === false;
    });
    if (all && membership.committed.length > 0) {
      this.superseded(new StorError('UNAVAILABLE', 'every in-sync replica has lost its memory'));
    }
  }

  /**
   * While every member was away none could be dropped; one that answers again with its memory is a
   * member as before, and gets again what it has not acknowledged.
   */
  #readmit(): void {
    const { membership } = this;
    if (!membership?.suspended || this.stopped) return;
    for (const member of this.members) {
      if (!member.isOpen || !member.answer?.keptMemory) continue;
      if (!membership.isAway(member.replicaId) || !this.#mayGoOn(member)) continue;
      if (!membership.readmit(member.replicaId)) continue;
      this.options.logger.info({ replica: member.replicaId }, 'the last in-sync replica is back');
      this.#refresh();
      for (const part of this.parts) part.memberOpened?.(member);
      this.#advance();
      return;
    }
  }

  /** Else it is looked at once more, or this primary has ended. */
  #mayGoOn(member: Member): boolean {
    const resent = this.parts.flatMap((part) => part.resentTo?.(member) ?? []);
    const result = this.#returns.look(member, this.sizeBytes, resent, () => {
      if (!this.stopped) this.changed();
    });
    if (result === 'bad') {
      const reason = `replica ${member.replicaId} was killed before all checksums were on its disk`;
      this.superseded(new StorError('UNAVAILABLE', reason));
    }
    return result === 'good' && !this.stopped;
  }

  /** Takes in what the record has now; members that it has no more go when nobody needs them. */
  #applySettings(): void {
    this.#granted = new GrantedReplicas(this.settings, this.options.index);
    for (const replica of this.#granted.inOrder) {
      const member = this.members.find((each) => each.replicaId === replica.id);
      if (!member) this.#add(replica);
      else this.remotes.find((each) => each === member)?.moved(replica.host, replica.port);
    }
    this.#setLeaving();
  }

  #setLeaving(): void {
    const { leaving } = this.#granted;
    this.membership?.setLeaving(leaving, this.settings.replicas, (id) => this.#nodeOf(id));
  }

  #nodeOf(replicaId: string): string {
    const member = this.members.find((each) => each.replicaId === replicaId);
    return this.#granted.get(replicaId)?.nodeId ?? member?.nodeId ?? replicaId;
  }

  /** On how many nodes these lie: two on one node die together, so they count as one. */
  #nodesOf(replicaIds: readonly string[]): number {
    return new Set(replicaIds.map((id) => this.#nodeOf(id))).size;
  }

  /** Nodes that have an in-sync replica that is not away. */
  get inSyncNodes(): number {
    return this.#nodesOf(this.membership?.inSync ?? []);
  }

  #add(replica: GrantedReplica): void {
    if (replica.failed) return;
    if (this.local && this.#isReplaceable(this.local, replica)) this.#remove(this.local);
    const member = this.options.memberOf(replica, this);
    if (member.isLocal) this.local = member;
    else this.remotes = [...this.remotes, member];
    this.members = [...this.members, member].sort((a, b) => this.#distance(a) - this.#distance(b));
    if (this.#isStarted) member.start();
  }

  #forgetVanished(): void {
    const { membership } = this;
    if (!membership) return;
    const required = membership.required();
    const isGone = ({ replicaId }: Member): boolean =>
      (this.#granted.get(replicaId)?.failed ?? true) && !required.includes(replicaId);
    const gone = this.members.filter(isGone);
    if (gone.length === 0) return;
    for (const member of gone) this.#remove(member);
    for (const replica of this.#granted.inOrder) {
      if (!this.members.some((each) => each.replicaId === replica.id)) this.#add(replica);
    }
  }

  #distance(member: Member): number {
    if (member.isLocal) return 0;
    return member.nodeId === this.options.nodeId ? 1 : 2;
  }

  /**
   * A newer replica on this node becomes the local one in place of one that nobody needs and that does
   * not answer: its disk is gone, and the other was placed beside it.
   */
  #isReplaceable(member: Member, newer: GrantedReplica): boolean {
    if (newer.nodeId !== member.nodeId || member.isOpen) return false;
    if (this.membership?.required().includes(member.replicaId) !== false) {
      return false;
    }
    return this.#granted.isNewer(newer.id, member.replicaId);
  }

  #remove(member: Member): void {
    member.stop(false);
    this.syncing.delete(member);
    this.joining.delete(member);
    this.lastErrors.delete(member.replicaId);
    for (const part of this.parts) part.memberLost?.(member);
    if (member === this.local) this.local = null;
    this.members = this.members.filter((each) => each !== member);
    this.remotes = this.remotes.filter((each) => each !== member);
  }

  #view(): MembersView {
    const { membership } = this;
    return {
      committed: this.#nodesOf(membership?.committed ?? []),
      inSync: this.inSyncNodes,
      changing: membership?.holding ?? true,
      allAway: membership?.suspended ?? false,
    };
  }

  #refresh(): void {
    const { membership } = this;
    if (!membership) return;
    this.rule = decideWrites(this.#view(), this.policy, this.settings.replicas);
    const required = new Set(membership.required());
    const isTarget = (member: Member): boolean =>
      member.isOpen &&
      !membership.isAway(member.replicaId) &&
      (required.has(member.replicaId) || this.syncing.has(member));
    this.targets = this.remotes.filter(isTarget);
    this.required = this.remotes.filter((member) => required.has(member.replicaId));
    this.localIsTarget = this.local !== null && isTarget(this.local);
    this.localIsInSync = this.local !== null && this.local.isOpen && this.isInSync(this.local);
    this.localIsRequired = this.local !== null && required.has(this.local.replicaId);
  }

  #advance(): void {
    if (this.#advancing || this.stopped || !this.membership) return;
    this.#advancing = true;
    for (;;) {
      const step = this.membership.next();
      if (!step) break;
      if (step.type === 'propose') proposeChange(this, step);
      else if (step.type === 'record') this.#record(step);
      else confirmSet(this, step);
    }
    this.#advancing = false;
    this.#refresh();
  }

  #record(step: MembershipStep): void {
    const { epoch } = this.options;
    const view = { epoch, setRevision: step.setRevision, members: step.inSync };
    for (const member of this.members) {
      if (!step.inSync.includes(member.replicaId) || !this.isInSync(member)) continue;
      member.recordSetView(view, (error) => {
        if (this.stopped || !this.membership) return;
        if (error) {
          member.drop(error);
          return;
        }
        this.membership.recorded(member.replicaId);
        this.changed();
      });
    }
  }
}
