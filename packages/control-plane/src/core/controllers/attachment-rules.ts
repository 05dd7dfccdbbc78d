import { StorError } from '@stor/protocol';
import type { Attachment, NodeId, ReplicaId, SegmentStatus } from '@stor/protocol';
import type { NodeLeaseRecord, StoredVolume } from '../../resources/records.ts';
import { nodesOf } from './replica-sites.ts';
import { wholeReplicas } from './whole-replicas.ts';

/**
 * The rules of attachments and in-sync sets, as changes of one volume record. Whoever applies them
 * writes the result only if the record is still the one they were given (I2, I4).
 */
export type AcquireDecision =
  | { type: 'grant'; record: StoredVolume; attachment: Attachment; previousReleased: boolean }
  /** the holder lives and may be persuaded */
  | { type: 'ask-holder'; holder: Attachment }
  | { type: 'held'; holder: Attachment }
  | { type: 'refuse'; error: StorError };

export interface AcquireRequest {
  nodeId: NodeId;
  agentInstance: string;
  mode: Attachment['mode'];
  /** a controller asks: only while nobody holds the volume and it is wanted on this node */
  onlyIfWanted: boolean;
  /** an operator wants the holder fenced, whoever it is: it is not asked */
  force?: boolean;
  /** with `force`: unflushed writes may be lost so that the volume can begin */
  acceptUnflushedLoss?: boolean;
  nowWallMs: number;
}

const strength: Record<Attachment['mode'], number> = { repair: 0, auto: 1, manual: 2 };

export function strongerMode(a: Attachment['mode'], b: Attachment['mode']): Attachment['mode'] {
  return strength[a] >= strength[b] ? a : b;
}

/** True when the process that holds the attachment may still be serving, as far as leases tell. */
export function holderLives(holder: Attachment, lease: NodeLeaseRecord | null): boolean {
  // another agent instance under the same node id: the process that was granted is dead
  return lease !== null && lease.agentInstance === holder.agentInstance;
}

/** The node on which an operator wants the volume attached until `detach`; null: on none. */
export function wantedNode(record: StoredVolume): NodeId | null {
  const { attachment } = record.status;
  // in records from before `attachTo` only the attachment tells
  return record.spec.attachTo ?? (attachment?.mode === 'manual' ? attachment.nodeId : null);
}

/** The record that wants the volume attached on `nodeId` until `detach`. */
export function wantAt(record: StoredVolume, nodeId: NodeId): StoredVolume {
  return { ...record, spec: { ...record.spec, attachTo: nodeId } };
}

/** The record that wants the volume attached on no node; the attachment there is stays. */
export function wantNowhere(record: StoredVolume): StoredVolume {
  const { attachTo: _attachTo, ...spec } = record.spec;
  return { ...record, spec };
}

/** Whether `request.nodeId` may become primary now; `holderLease` is that of the record's holder. */
export function decideAcquire(
  record: StoredVolume,
  holderLease: NodeLeaseRecord | null,
  request: AcquireRequest,
): AcquireDecision {
  const { phase, attachment: holder } = record.status;
  const { name } = record.metadata;
  // where an operator wants it attached, a client's or a controller's attachment is held as well
  const isOrdered = record.spec.attachTo === request.nodeId;
  const mode = isOrdered ? strongerMode(request.mode, 'manual') : request.mode;
  if (phase === 'creating') {
    return refuse('UNAVAILABLE', `volume ${name} is still being created: try again in a moment`);
  }
  if (phase !== 'ready') return refuse('FAILED_PRECONDITION', `volume ${name} is being deleted`);
  if (request.onlyIfWanted) {
    // what this node was asked for may have been taken back since: `detach` wins
    if (wantedNode(record) !== request.nodeId) {
      return refuse('FAILED_PRECONDITION', `volume ${name} is not wanted on this node any more`);
    }
    if (holder && holderLives(holder, holderLease)) return { type: 'held', holder };
  }
  if (!holder) return grant(record, request, mode, record.status.cleanRelease);
  if (holder.nodeId === request.nodeId) {
    // This node's older process is dead (the caller holds the locks of its disks), or its data path
    // gave the volume up. Nobody has confirmed that leases were drained, so they are waited out.
    // An order by force begins anew: the mode of what is fenced would keep the volume here.
    const kept = request.force ? mode : strongerMode(holder.mode, mode);
    return grant(record, request, kept, false);
  }
  if (request.force || !holderLives(holder, holderLease))
    return grant(record, request, mode, false);
  if (holder.mode === 'manual' || request.mode === 'repair') return { type: 'held', holder };
  return { type: 'ask-holder', holder };
}

function refuse(code: 'UNAVAILABLE' | 'FAILED_PRECONDITION', message: string): AcquireDecision {
  return { type: 'refuse', error: new StorError(code, message) };
}

function grant(
  record: StoredVolume,
  request: AcquireRequest,
  mode: Attachment['mode'],
  previousReleased: boolean,
): AcquireDecision {
  const epoch = record.status.epoch + 1;
  const attachment: Attachment = {
    nodeId: request.nodeId,
    agentInstance: request.agentInstance,
    epoch,
    mode,
    sinceMs: request.nowWallMs,
  };
  // the consent is for this grant only: one that is left over must not be used at some later crash
  const consent = request.acceptUnflushedLoss ? { acceptLossSinceEpoch: record.status.epoch } : {};
  const status = {
    ...withoutConsent(record.status),
    ...consent,
    epoch,
    attachment,
    cleanRelease: false,
    segments: record.status.segments.map((segment) =>
      handOnUnconfirmed(segment, record.status.epoch, epoch),
    ),
  };
  return { type: 'grant', record: { ...record, status }, attachment, previousReleased };
}

/**
 * What the primary of the epoch before left unconfirmed is so for the next one. Of an older epoch it is
 * void: who granted the one between did not know of it.
 */
function handOnUnconfirmed(segment: SegmentStatus, before: number, epoch: number): SegmentStatus {
  const { unconfirmed, ...rest } = segment;
  if (!unconfirmed) return segment;
  if (unconfirmed.epoch !== before) return rest;
  return { ...segment, unconfirmed: { ...unconfirmed, epoch } };
}

/** The record without the attachment of `epoch`; null when that is not the current one. */
export function releaseAttachment(
  record: StoredVolume,
  epoch: number,
  clean: boolean,
): StoredVolume | null {
  if (record.status.attachment?.epoch !== epoch) return null;
  return { ...record, status: { ...record.status, attachment: null, cleanRelease: clean } };
}

/** The record with another mode of the attachment of `epoch`; null when that is not current. */
export function changeMode(
  record: StoredVolume,
  epoch: number,
  mode: Attachment['mode'],
): StoredVolume | null {
  const { attachment } = record.status;
  if (attachment?.epoch !== epoch) return null;
  return { ...record, status: { ...record.status, attachment: { ...attachment, mode } } };
}

export interface SetProposal {
  nowWallMs: number;
  segment: number;
  epoch: number;
  setRevision: number;
  /** The newest that replicas remember: above `setRevision` after the store went back in time. */
  rememberedRevision?: number;
  inSync: ReplicaId[];
  /** The set stays: from now on its primary acknowledges under it alone. */
  confirms?: boolean;
}

export type SetDecision =
  | { type: 'change'; record: StoredVolume; setRevision: number; isUnconfirmed: boolean }
  /** it took effect before: the answer was lost */
  | { type: 'done'; setRevision: number; isUnconfirmed: boolean }
  | { type: 'superseded'; reason: string };

/** Compare-and-set of one segment's in-sync set on (epoch, setRevision) (I4). */
export function decideSet(record: StoredVolume, proposal: SetProposal): SetDecision {
  const { attachment, segments } = record.status;
  if (attachment?.epoch !== proposal.epoch) {
    const now = attachment ? `epoch ${attachment.epoch} is` : 'nobody is';
    return superseded(`${now} attached, not epoch ${proposal.epoch}`);
  }
  const segment = segments.find((candidate) => candidate.index === proposal.segment);
  if (!segment) throw new StorError('INVALID_ARGUMENT', `no segment ${proposal.segment}`);
  const inSync = segment.replicas.map((r) => r.id).filter((id) => proposal.inSync.includes(id));
  if (inSync.length === 0) {
    throw new StorError('INVALID_ARGUMENT', 'an in-sync set is never empty (I7)');
  }
  if (inSync.length !== proposal.inSync.length) {
    throw new StorError('INVALID_ARGUMENT', 'the set names a replica twice or one unknown here');
  }
  if (proposal.confirms) return confirmSet(record, segment, proposal);
  const { rememberedRevision = 0 } = proposal;
  if (segment.setRevision === proposal.setRevision) {
    const setRevision = Math.max(segment.setRevision, rememberedRevision) + 1;
    // one that was in the set once returns when it is behind; before that it is new
    const replicas = segment.replicas.map((replica) =>
      inSync.includes(replica.id) && replica.purpose !== undefined && replica.filled !== true
        ? { ...replica, filled: true }
        : replica,
    );
    const { unconfirmed: _before, ...rest } = segment;
    const changed: SegmentStatus = {
      ...rest,
      setRevision,
      replicas,
      inSync,
      ...unconfirmedBy(segment, inSync, proposal.epoch),
      changedAtMs: proposal.nowWallMs,
    };
    const isUnconfirmed = changed.unconfirmed !== undefined;
    return { type: 'change', record: withSegment(record, changed), setRevision, isUnconfirmed };
  }
  // Only this epoch's primary proposes, one at a time, and its grant named a revision not older
  // than any change of an earlier epoch: an equal set at the revision that follows is this proposal's own.
  const isRepeat =
    segment.setRevision === Math.max(proposal.setRevision, rememberedRevision) + 1 &&
    segment.inSync.length === inSync.length &&
    inSync.every((id) => segment.inSync.includes(id));
  const isUnconfirmed = segment.unconfirmed?.epoch === proposal.epoch;
  if (isRepeat) return { type: 'done', setRevision: segment.setRevision, isUnconfirmed };
  return superseded(`the set is at revision ${segment.setRevision}, not ${proposal.setRevision}`);
}

/**
 * A set on one node dies with that node or its disk. Its primary may be cut off, and may never hear
 * that it has it: then the members of the set before have everything too, as long as nobody has
 * acknowledged without them. So that is written down, and taken back by the primary before it does.
 * Sets on several nodes are spared that second write.
 */
function unconfirmedBy(
  segment: SegmentStatus,
  inSync: readonly ReplicaId[],
  epoch: number,
): Pick<SegmentStatus, 'unconfirmed'> {
  const whole = wholeReplicas(segment, epoch);
  const members = segment.replicas.filter(({ id }) => inSync.includes(id));
  if (nodesOf(members) > 1 || whole.every((id) => inSync.includes(id))) return {};
  return { unconfirmed: { epoch, members: [...new Set([...whole, ...inSync])] } };
}

/** Its primary acknowledges under this set alone from now on. */
function confirmSet(
  record: StoredVolume,
  segment: SegmentStatus,
  { setRevision, inSync }: SetProposal,
): SetDecision {
  const isThis =
    segment.setRevision === setRevision && segment.inSync.every((id) => inSync.includes(id));
  if (!isThis) {
    return superseded(`the set is at revision ${segment.setRevision}, not ${setRevision}`);
  }
  const { unconfirmed, ...confirmed } = segment;
  if (!unconfirmed) return { type: 'done', setRevision, isUnconfirmed: false };
  const changed = withSegment(record, confirmed);
  return { type: 'change', record: changed, setRevision, isUnconfirmed: false };
}

function withSegment(record: StoredVolume, changed: SegmentStatus): StoredVolume {
  const segments = record.status.segments.map((segment) =>
    segment.index === changed.index ? changed : segment,
  );
  return { ...record, status: { ...withoutConsent(record.status), segments } };
}

/** A set was committed: what was given up for it to begin is used up. */
function withoutConsent(status: StoredVolume['status']): StoredVolume['status'] {
  const { acceptLossSinceEpoch: _used, ...rest } = status;
  return rest;
}

function superseded(reason: string): SetDecision {
  return { type: 'superseded', reason };
}
