import { qosLimitNames, type QosSpec } from '@stor/protocol';
import { LimitSet } from '../core/qos/limit-set.ts';

interface Tenant {
  readonly limits: LimitSet;
  /** what the node may use */
  share: QosSpec;
  /** volumes on this lane */
  users: number;
}

/** Buckets that the volumes of one tenant share on a lane; kept as long as one of them is served. */
export class LaneTenants {
  readonly #tenants = new Map<string, Tenant>();
  /** on how many lanes of the node there are volumes of it; absent: on this one */
  readonly #lanes = new Map<string, number>();

  join(name: string): LimitSet {
    const tenant = this.#tenants.get(name) ?? { limits: new LimitSet(), share: {}, users: 0 };
    tenant.users += 1;
    this.#tenants.set(name, tenant);
    return tenant.limits;
  }

  leave(name: string): void {
    const tenant = this.#tenants.get(name);
    if (!tenant) return;
    tenant.users -= 1;
    if (tenant.users > 0) return;
    this.#tenants.delete(name);
    this.#lanes.delete(name);
  }

  /** What all lanes of the node together may use. */
  share(name: string, share: QosSpec, nowMs: number): void {
    const tenant = this.#tenants.get(name);
    if (!tenant) return;
    tenant.share = share;
    this.#update(name, nowMs);
  }

  /** So many lanes divide it, this one among them. */
  spread(name: string, lanes: number, nowMs: number): void {
    this.#lanes.set(name, lanes);
    this.#update(name, nowMs);
  }

  #update(name: string, nowMs: number): void {
    const tenant = this.#tenants.get(name);
    if (!tenant) return;
    const lanes = this.#lanes.get(name) ?? 1;
    const own: QosSpec = { ...tenant.share };
    for (const limit of qosLimitNames) {
      const all: number = own[limit] ?? 0;
      if (all > 0) own[limit] = Math.max(1, Math.floor(all / lanes));
    }
    tenant.limits.update(own, nowMs);
  }
}
