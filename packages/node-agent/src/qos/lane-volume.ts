import { defaultQosWeight, type VolumeQos } from '@stor/protocol';
import type { LiveThrottle } from '@stor/control-plane';
import type { BlockDevice } from '@stor/replicator';
import type { Clock } from '@stor/runtime';
import { Flow, type ThrottleReason } from '../core/qos/flow.ts';
import { Guarantee } from '../core/qos/guarantee.ts';
import type { LaneScheduler } from '../core/qos/lane-scheduler.ts';
import type { LaneTenants } from './lane-tenants.ts';
import { QosDevice, type QosLane } from './qos-device.ts';

/** What is known of a volume's quality of service, for those who watch it. */
export interface VolumeQosReport {
  volumeId: string;
  name: string;
  qos: VolumeQos;
  queued: number;
  throttledRequests: Record<ThrottleReason, number>;
  throttledMs: Record<ThrottleReason, number>;
  /** left for bursts, as part of what may be saved; null: the volume has none */
  burstCredits: number | null;
}

/** The volume that is being served, as its lane shares itself among volumes. */
export interface QosVolume {
  /** What its record says now; an older one than the last changes nothing. */
  update(qos: VolumeQos | undefined, resourceVersion: number): void;
  /** For one client. */
  device(primary: BlockDevice): QosDevice;
  /** Who its clients wait for, and what they had. */
  throttle(): LiveThrottle;
  /** Nothing of it comes any more. What still waits is refused. Works twice. */
  close(): void;
}

export interface OpenVolume {
  volumeId: string;
  name: string;
  qos?: VolumeQos;
  resourceVersion: number;
}

export interface LaneVolumeParts {
  lane: QosLane;
  scheduler: LaneScheduler;
  clock: Clock;
  tenants: LaneTenants;
  changed: () => void;
  closed: (flow: Flow) => void;
}

/** A volume on its lane: the flow of its clients, and what its record says of it. */
export class LaneVolume implements QosVolume {
  readonly #facts: OpenVolume;
  readonly #parts: LaneVolumeParts;
  readonly #clients = new Flow('client');
  #version: number;
  #tenant: string | null = null;
  #isClosed = false;

  constructor(facts: OpenVolume, parts: LaneVolumeParts) {
    this.#facts = facts;
    this.#parts = parts;
    this.#version = facts.resourceVersion;
    this.#set(facts.qos ?? {});
  }

  update(qos: VolumeQos | undefined, resourceVersion: number): void {
    if (this.#isClosed || resourceVersion < this.#version) return;
    this.#version = resourceVersion;
    this.#set(qos ?? {});
    this.#parts.changed();
  }

  device(primary: BlockDevice): QosDevice {
    return new QosDevice(this.#parts.lane, this.#clients, primary);
  }

  /** What its tenant may use on this lane is another now. */
  tenantChanged(name: string): void {
    if (this.#tenant !== name) return;
    this.#parts.scheduler.changed(this.#clients, this.#clients.weight);
    this.#parts.changed();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#tenant !== null) this.#parts.tenants.leave(this.#tenant);
    this.#parts.closed(this.#clients);
  }

  report(nowMs: number): VolumeQosReport {
    const { throttled, limits, qos, queued } = this.#clients;
    return {
      volumeId: this.#facts.volumeId,
      name: this.#facts.name,
      qos,
      queued,
      throttledRequests: { ...throttled.requests },
      throttledMs: { ...throttled.ms },
      burstCredits: limits.credits(nowMs),
    };
  }

  throttle(): LiveThrottle {
    const nowMs = this.#parts.clock.monotonicMs();
    const { throttled, limits, shared, queued, used, waitsFor } = this.#clients;
    const of = waitsFor === 'limit' ? limits : waitsFor === 'tenant' ? shared : null;
    return {
      waitsFor: waitsFor ?? '',
      limits: of?.usedUp(nowMs) ?? [],
      queued,
      limitMs: Math.round(throttled.ms.limit),
      tenantMs: Math.round(throttled.ms.tenant),
      contentionMs: Math.round(throttled.ms.contention),
      ...used,
    };
  }

  #set(qos: VolumeQos): void {
    const { scheduler, clock, tenants } = this.#parts;
    const flow = this.#clients;
    const nowMs = clock.monotonicMs();
    const { minIops = 0, minBps = 0, tenant } = qos;
    const before = flow.qos;
    flow.qos = qos;
    flow.limits.update(qos, nowMs);
    if (minIops !== (before.minIops ?? 0) || minBps !== (before.minBps ?? 0)) {
      flow.guarantee = minIops > 0 || minBps > 0 ? new Guarantee(minIops, minBps, nowMs) : null;
    }
    const name = tenant?.name ?? null;
    if (name !== this.#tenant) {
      if (this.#tenant !== null) tenants.leave(this.#tenant);
      flow.shared = name === null ? null : tenants.join(name);
      this.#tenant = name;
    }
    if (tenant) tenants.share(tenant.name, tenant.share, nowMs);
    scheduler.changed(flow, qos.weight ?? defaultQosWeight);
  }
}
