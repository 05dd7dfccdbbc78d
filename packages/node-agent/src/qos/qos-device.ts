import type { StorError } from '@stor/protocol';
import type { BlockDevice, BlockRequest, Extent } from '@stor/replicator';
import type { Flow } from '../core/qos/flow.ts';
import type { KeptRequest, RequestKind } from '../exports/kept-request.ts';

/** The part of LaneQos that a device needs. */
export interface QosLane {
  submit(device: QosDevice, kind: RequestKind, request: BlockRequest): void;
  readInline(
    device: QosDevice,
    offset: number,
    length: number,
    target: Uint8Array,
    start: number,
  ): boolean;
  isFull(flow: Flow): boolean;
  takeBack(device: QosDevice): KeptRequest[];
}

/**
 * A volume as one connection sees it under the quality of service of its flow: requests go on to the
 * primary at once, or wait here for their turn.
 */
export class QosDevice implements BlockDevice {
  readonly flow: Flow;
  readonly target: BlockDevice;
  readonly #lane: QosLane;

  constructor(lane: QosLane, flow: Flow, target: BlockDevice) {
    this.#lane = lane;
    this.flow = flow;
    this.target = target;
  }

  get sizeBytes(): number {
    return this.target.sizeBytes;
  }

  /** Too much waits already. */
  get isFull(): boolean {
    return !this.flow.isFree && this.#lane.isFull(this.flow);
  }

  readInline(offset: number, length: number, target: Uint8Array, start: number): boolean {
    if (this.flow.isFree) return this.target.readInline(offset, length, target, start);
    return this.#lane.readInline(this, offset, length, target, start);
  }
  /** Where there are limits or others to share with, a read of a hole counts as any other. */
  holeBytes(offset: number, length: number): number {
    return this.flow.isFree ? (this.target.holeBytes?.(offset, length) ?? 0) : 0;
  }
  read(request: BlockRequest): void {
    if (this.flow.isFree) this.target.read(request);
    else this.#lane.submit(this, 'read', request);
  }
  write(request: BlockRequest): void {
    if (this.flow.isFree) this.target.write(request);
    else this.#lane.submit(this, 'write', request);
  }
  writeZeroes(request: BlockRequest): void {
    if (this.flow.isFree) this.target.writeZeroes(request);
    else this.#lane.submit(this, 'writeZeroes', request);
  }
  trim(request: BlockRequest): void {
    if (this.flow.isFree) this.target.trim(request);
    else this.#lane.submit(this, 'trim', request);
  }
  /** It is about what was acknowledged, which nothing that waits here was: so it waits for nothing. */
  flush(request: BlockRequest): void {
    this.target.flush(request);
  }
  extents(
    offset: number,
    length: number,
    limit: number,
    done: (error: StorError | null, extents: Extent[]) => void,
  ): void {
    this.target.extents(offset, length, limit, done);
  }

  /** What waits and has not been started, in the order of its arrival: it is the caller's now. */
  takeBack(): KeptRequest[] {
    return this.#lane.takeBack(this);
  }
}
