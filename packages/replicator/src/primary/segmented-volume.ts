import {
  StorError,
  segmentBytesOf,
  segmentSizeBytes,
  type AttachmentGrant,
  type PeerLanes,
  type SnapshotId,
  type ScrubOrder,
  type ScrubProgress,
  type VolumeSettings,
} from '@stor/protocol';

import type { BlockRequest, Extent } from '../block-device.ts';
import type { PrimaryStatus } from '../replicator-ports.ts';
import { activateAll } from './activate-all.ts';
import { OrderedVolume } from './ordered-volume.ts';
import type { PrimaryVolume } from './primary-volume.ts';
import { mergeStatus } from './merged-status.ts';
import type { Scrubber } from './scrubber.ts';
import { SegmentGrowth } from './segment-growth.ts';
import { SegmentedOrders } from './segmented-orders.ts';
import { FlushNeed, Joint, PartRequest, type PartKind } from './segment-requests.ts';
import { VolumeScrub } from './volume-scrub.ts';

/** The primary of one segment, as the volume drives it; offsets are those of the segment. */
export interface SegmentPrimary extends Omit<PrimaryVolume, 'scrub' | 'isScrubbing'> {
  /** Resolves when it serves. STALE_EPOCH, UNAVAILABLE, ABORTED. */
  activate(signal: AbortSignal): Promise<void>;
  tick(nowMs: number): void;
  /** Ends at once: what is under way fails with the reason. */
  finish(reason: StorError): void;
  /** A node listens elsewhere now. */
  peerMoved(peer: PeerLanes): void;
  /** its part of a scrub of the volume */
  readonly scrubber: Pick<Scrubber, 'order' | 'isWanted'>;
  /** replicas are still being made equal after an unclean stop: flushes are about that too */
  readonly isSettling: boolean;
}

/** Makes the primary of a segment; the settings say which replicas it has. */
export type MakeSegment = (grant: AttachmentGrant, index: number) => SegmentPrimary;

/** Parts kept for reuse; more than clients keep in flight. */
const maxPooledParts = 1_024;

/**
 * A volume of one or more segments, each with an engine of its own. Requests over a boundary are
 * split and answered when all parts are; the first error wins. A FLUSH goes to every segment with
 * something that may not be durable (I1). The volume serves when all segments do, and it is over
 * when one of them is. With one segment the engine gets the client's requests as they are.
 */
export class SegmentedVolume extends OrderedVolume implements PrimaryVolume {
  readonly volumeId: string;
  readonly epoch: number;
  readonly #segmentBytes: number;
  readonly #grant: AttachmentGrant;
  readonly #make: MakeSegment;
  #sizeBytes: number;
  #growth: SegmentGrowth | null = null;
  readonly #engines: SegmentPrimary[] = [];
  protected readonly orders: SegmentedOrders;
  /** by segment */
  readonly #flushNeeds: FlushNeed[] = [];
  readonly #scrub: VolumeScrub;
  /** the engine that is all of the volume; null when there are several, or it does not serve */
  #only: SegmentPrimary | null = null;
  #state: 'activating' | 'serving' | 'stopping' | 'stopped' = 'activating';
  #over: StorError | null = null;
  #stopping: Promise<void> | null = null;
  readonly #listeners: ((reason: StorError) => void)[] = [];
  readonly #pool: PartRequest[] = [];
  readonly #recycle = (part: PartRequest): void => {
    if (this.#pool.length < maxPooledParts) this.#pool.push(part);
  };

  constructor(grant: AttachmentGrant, make: MakeSegment) {
    super();
    this.volumeId = grant.volumeId;
    this.epoch = grant.epoch;
    this.#grant = grant;
    this.#make = make;
    this.#sizeBytes = grant.sizeBytes;
    this.#segmentBytes = segmentBytesOf(grant);
    this.orders = new SegmentedOrders(this.#engines, this.#segmentBytes);
    this.orders.update(grant);
    for (const [index, segment] of [...grant.segments].entries()) {
      if (segment.index !== index) throw misfit(grant.volumeId);
      const sizeBytes = segmentSizeBytes(grant.sizeBytes, this.#segmentBytes, index);
      if (sizeBytes === 0) throw misfit(grant.volumeId);
      this.#add(make({ ...grant, sizeBytes, segments: [segment] }, index));
    }
    if (this.#engines.length * this.#segmentBytes < this.#sizeBytes) throw misfit(grant.volumeId);
    this.#scrub = new VolumeScrub((index) => {
      const engine = this.#engines[index];
      return engine && ((order) => engine.scrubber.order(order));
    });
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  // the block device

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (this.#only) return this.#only.readInline(offset, length, target, start);
    if (this.#state !== 'serving') return false;
    const index = this.#indexOf(offset);
    const base = index * this.#segmentBytes;
    // what lies on both sides of a boundary is read as two parts
    if (offset + length > base + this.#segmentBytes) return false;
    return this.#engines[index]?.readInline(offset - base, length, target, start) ?? false;
  }
  holeBytes(offset: number, length: number): number {
    if (this.#only) return this.#only.holeBytes?.(offset, length) ?? 0;
    if (this.#state !== 'serving') return 0;
    const index = this.#indexOf(offset);
    const base = index * this.#segmentBytes;
    // no further than the end of the segment: whoever asks goes on from there
    const within = Math.min(length, base + this.#segmentBytes - offset);
    return this.#engines[index]?.holeBytes?.(offset - base, within) ?? 0;
  }
  read(request: BlockRequest): void {
    if (this.#only) this.#only.read(request);
    else this.#submit('read', request);
  }
  write(request: BlockRequest): void {
    if (this.#only) this.#only.write(request);
    else this.#submit('write', request);
  }
  writeZeroes(request: BlockRequest): void {
    if (this.#only) this.#only.writeZeroes(request);
    else this.#submit('writeZeroes', request);
  }
  trim(request: BlockRequest): void {
    if (this.#only) this.#only.trim(request);
    else this.#submit('trim', request);
  }
  flush(request: BlockRequest): void {
    if (this.#only) this.#only.flush(request);
    else if (this.#state !== 'serving') request.done(this.#refusal());
    else {
      const joint = new Joint(request);
      // at least one is asked: it knows whether this primary may still answer (I6)
      if (!this.#flushOthers(joint, -1, -1)) this.#flushSegment(joint, 0);
      joint.begun();
    }
  }

  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    if (this.#only) this.#only.extents(offset, length, limit, done);
    else if (this.#state !== 'serving') done(this.#refusal(), []);
    else this.#extents(offset, offset + length, limit, [], done);
  }

  // its life

  /** Resolves when every segment serves. STALE_EPOCH, UNAVAILABLE, ABORTED. */
  async activate(signal: AbortSignal): Promise<void> {
    const { served, settled } = activateAll(this.#engines, signal);
    // one that fails is over, which ends the others: nobody waits for long
    await settled;
    if (!this.#over) await served;
    if (this.#over) throw this.#over;
    if (this.#state !== 'activating') throw this.#refusal();
    this.#state = 'serving';
    this.#only = this.#engines.length === 1 ? (this.#engines[0] ?? null) : null;
  }

  tick(nowMs: number): void {
    for (const engine of this.#engines) engine.tick(nowMs);
    for (const engine of this.#growth?.added ?? []) engine.tick(nowMs);
    this.#lookGrown();
  }

  finish(reason: StorError): void {
    if (this.#over) return;
    this.#end(reason);
    for (const engine of this.#engines) engine.finish(reason);
    this.#growth?.end(reason);
    this.#tell(reason);
  }

  async idle(): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.idle()));
  }

  stop(options = { checkpoint: true }): Promise<void> {
    this.#stopping ??= this.#stop(options);
    return this.#stopping;
  }

  update(settings: VolumeSettings): void {
    if (this.#over || settings.epoch !== this.epoch) return;
    const segments = new Map(settings.segments.map((segment) => [segment.index, segment]));
    const all = [...this.#engines, ...(this.#growth?.added ?? [])];
    all.forEach((engine, index) => {
      const segment = segments.get(index);
      const { sizeBytes, ...rest } = settings;
      const own = sizeBytes && segmentSizeBytes(sizeBytes, this.#segmentBytes, index);
      engine.update({
        ...rest,
        ...(own === undefined ? {} : { sizeBytes: own }),
        segments: segment ? [segment] : [],
      });
    });
    this.orders.update(settings);
    this.#grow(settings);
  }

  override async rollback(snapshotId: SnapshotId, options?: { token: string }): Promise<void> {
    // its changes are seen by no request of a client
    for (const need of this.#flushNeeds) need.unseen();
    await super.rollback(snapshotId, options);
  }

  peerMoved(peer: PeerLanes): void {
    const all = [...this.#engines, ...(this.#growth?.added ?? [])];
    for (const engine of all) engine.peerMoved(peer);
  }

  scrub(order: ScrubOrder): ScrubProgress | null {
    return this.#state === 'serving' ? this.#scrub.order(order) : null;
  }

  get isScrubbing(): boolean {
    return this.#state === 'serving' && this.#engines.some((engine) => engine.scrubber.isWanted);
  }

  onStopped(listener: (reason: StorError) => void): void {
    if (this.#over) listener(this.#over);
    else this.#listeners.push(listener);
  }

  status(): PrimaryStatus {
    return mergeStatus(this.#engines.map((engine) => engine.status()));
  }

  #add(engine: SegmentPrimary): void {
    this.#engines.push(engine);
    this.#flushNeeds.push(new FlushNeed());
    engine.onStopped((reason) => {
      // in an orderly stop the others finish what they have begun
      if (this.#state !== 'stopping') this.finish(reason);
    });
  }

  /** The record says a larger size: the device follows when everything behind it is as large. */
  #grow(settings: VolumeSettings): void {
    const { sizeBytes = 0 } = settings;
    if (this.#state !== 'serving' || sizeBytes <= this.#sizeBytes) return;
    // one that is under way ends first; the settings are repeated
    if (this.#growth && !this.#growth.failure) return;
    const target = {
      grant: this.#grant,
      segmentBytes: this.#segmentBytes,
      present: this.#engines,
      make: this.#make,
    };
    this.#growth = new SegmentGrowth(target, settings, sizeBytes);
    this.#lookGrown();
  }

  #lookGrown(): void {
    const growth = this.#growth;
    if (this.#state !== 'serving' || !growth) return;
    if (growth.failure) this.#growth = null;
    if (!growth.isReady) return;
    this.#growth = null;
    // requests that the only engine had for itself end unseen
    if (growth.added.length > 0 && this.#only) this.#flushNeeds[0]?.unseen();
    for (const engine of growth.added) this.#add(engine);
    this.#only = this.#engines.length === 1 ? (this.#engines[0] ?? null) : null;
    this.#sizeBytes = growth.sizeBytes;
  }

  #submit(kind: PartKind, request: BlockRequest): void {
    if (this.#state !== 'serving') {
      request.done(this.#refusal());
      return;
    }
    const { offset, length } = request;
    const first = this.#indexOf(offset);
    const last = length === 0 ? first : this.#indexOf(offset + length - 1);
    if (first === last && !request.fua) {
      this.#part(kind, request, first, offset, length, request.start, request);
      return;
    }
    const joint = new Joint(request);
    // FUA too is about all that was acknowledged before (I1); the parts do it for their segments
    if (request.fua) this.#flushOthers(joint, first, last);
    let at = offset;
    for (let index = first; index <= last; index++) {
      const end = Math.min(offset + length, (index + 1) * this.#segmentBytes);
      joint.open += 1;
      this.#part(kind, request, index, at, end - at, request.start + at - offset, joint);
      at = end;
    }
    joint.begun();
  }

  /** Gives a part of `whole` to its segment; `parent` hears when it is done. */
  #part(
    kind: PartKind,
    whole: BlockRequest,
    index: number,
    offset: number,
    length: number,
    start: number,
    parent: { done(error: StorError | null): void },
  ): void {
    const engine = this.#engines[index];
    const need = this.#flushNeeds[index];
    if (!engine || !need) {
      parent.done(new StorError('INVALID_ARGUMENT', 'the request is behind the end'));
      return;
    }
    const part = this.#pool.pop() ?? new PartRequest(this.#recycle);
    part.set(whole, offset - index * this.#segmentBytes, length, start);
    part.parent = parent;
    part.need = kind === 'read' ? null : need;
    engine[kind](part);
  }

  /** Flushes every segment that needs it but those from `first` to `last`; whether any does. */
  #flushOthers(joint: Joint, first: number, last: number): boolean {
    let any = false;
    for (let index = 0; index < this.#engines.length; index++) {
      if (index >= first && index <= last) continue;
      const isSettling = this.#engines[index]?.isSettling === true;
      if (this.#flushNeeds[index]?.isNeeded(isSettling) !== true) continue;
      any = true;
      this.#flushSegment(joint, index);
    }
    return any;
  }

  #flushSegment(joint: Joint, index: number): void {
    const engine = this.#engines[index];
    const need = this.#flushNeeds[index];
    if (!engine || !need) return;
    joint.open += 1;
    need.begins(engine.isSettling);
    engine.flush({
      offset: 0,
      length: 0,
      bytes: null,
      start: 0,
      retained: true,
      fua: false,
      noHole: false,
      done: (error) => {
        need.ended(error);
        joint.done(error);
      },
    });
  }

  #extents(
    from: number,
    end: number,
    limit: number,
    found: Extent[],
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    const index = this.#indexOf(from);
    const base = index * this.#segmentBytes;
    const to = Math.min(end, base + this.#segmentBytes);
    const engine = this.#engines[index];
    if (!engine || from >= end || found.length >= limit) {
      done(null, found);
      return;
    }
    engine.extents(from - base, to - from, limit - found.length, (error, extents) => {
      if (error) {
        done(error, []);
        return;
      }
      let reached = from;
      for (const extent of extents) {
        const offset = extent.offset + base;
        found.push({ ...extent, offset });
        reached = offset + extent.length;
      }
      // cut off by the limit, or nothing was said: what is known are the first ones
      if (reached < to) done(null, found);
      else this.#extents(to, end, limit, found, done);
    });
  }

  #indexOf(offset: number): number {
    return Math.floor(offset / this.#segmentBytes);
  }

  async #stop(options: { checkpoint: boolean }): Promise<void> {
    if (!this.#over) {
      this.#state = 'stopping';
      this.#only = null;
    }
    this.#growth?.end(new StorError('ABORTED', 'the volume was detached here'));
    await Promise.all(this.#engines.map((engine) => engine.stop(options)));
    if (this.#over) return;
    const reason = new StorError('ABORTED', 'the volume was detached here');
    this.#end(reason);
    this.#tell(reason);
  }

  #end(reason: StorError): void {
    this.#over = reason;
    this.#state = 'stopped';
    this.#only = null;
  }

  #tell(reason: StorError): void {
    for (const listener of this.#listeners) listener(reason);
  }

  #refusal(): StorError {
    return (
      this.#over ?? new StorError('UNAVAILABLE', `${this.volumeId} is ${this.#state}, not serving`)
    );
  }
}

function misfit(volumeId: string): StorError {
  return new StorError(
    'FAILED_PRECONDITION',
    `the segments of the grant of ${volumeId} do not fit its size`,
  );
}
