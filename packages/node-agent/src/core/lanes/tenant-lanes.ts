import type { VolumeId } from '@stor/protocol';

/** On which lanes of this node volumes of a tenant are attached now: each has an equal part of the node's. */
export interface TenantSpread {
  tenant: string;
  lanes: number[];
}

interface Attached {
  lane: number;
  tenant: string | null;
  resourceVersion: number;
}

/** Which lanes of a node divide what the node may use of a tenant's limits. */
export class TenantLanes {
  readonly #volumes = new Map<VolumeId, Attached>();

  /**
   * The volume is about to be attached on this lane, or its record has changed; an older one than the
   * last changes nothing. Lanes are to be told what is returned before the volume is served so.
   */
  attached(volumeId: VolumeId, next: Attached): TenantSpread[] {
    const known = this.#volumes.get(volumeId);
    if (known && next.resourceVersion < known.resourceVersion) return [];
    return this.#changed(known?.tenant ?? null, next.tenant, () => {
      this.#volumes.set(volumeId, next);
    });
  }

  /** It is served no more. Those that are left have more from now on. */
  detached(volumeId: VolumeId): TenantSpread[] {
    const known = this.#volumes.get(volumeId);
    return this.#changed(known?.tenant ?? null, null, () => {
      this.#volumes.delete(volumeId);
    });
  }

  #changed(before: string | null, after: string | null, change: () => void): TenantSpread[] {
    const names = [...new Set([before, after])].filter((name) => name !== null);
    const then = names.map((name) => this.#lanesOf(name).join());
    change();
    return names
      .map((tenant) => ({ tenant, lanes: this.#lanesOf(tenant) }))
      .filter(({ lanes }, at) => lanes.length > 0 && lanes.join() !== then[at]);
  }

  #lanesOf(tenant: string): number[] {
    const lanes = new Set<number>();
    for (const each of this.#volumes.values()) if (each.tenant === tenant) lanes.add(each.lane);
    return [...lanes].sort((a, b) => a - b);
  }
}
