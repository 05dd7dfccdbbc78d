import {
  changedQos,
  checkTenantName,
  checkTenantQos,
  knownQos,
  makeId,
  maxTenants,
  StorError,
} from '@stor/protocol';
import type { QosSpec, Tenant } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { describeTenant, findTenant } from '../core/qos/tenant-rules.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import { tenantKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { TenantRecord } from '../resources/tenant-record.ts';
import { readSoon } from './read-soon.ts';

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;

interface SetTenantRequest {
  name: string;
  qos?: QosSpec | null;
  clearQos?: string[] | null;
}

/** The calls of the API that concern tenants. */
export class TenantService {
  readonly #store: ClusterStore;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: { store: ClusterStore; clock: Clock; random: Random; logger: Logger }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  async list(): Promise<Tenant[]> {
    const state = await this.#state();
    return [...state.tenants.values()]
      .map((tenant) => describeTenant(tenant, state))
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }

  async get(name: string): Promise<Tenant> {
    const state = await this.#state();
    return describeTenant(findTenant(state, name), state);
  }

  /** See StorApi.setTenant. */
  async set(request: SetTenantRequest): Promise<Tenant> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await this.#state();
      const known = [...state.tenants.values()].find(
        ({ value }) => value.name === request.name || value.id === request.name,
      );
      const name = known?.value.name ?? request.name;
      checkTenantName(name);
      if (!known && state.tenants.size >= maxTenants) {
        throw new StorError('FAILED_PRECONDITION', `there are ${maxTenants} tenants already`);
      }
      const qos = changedQos(known?.value.qos ?? {}, knownQos(request.qos), request.clearQos ?? []);
      checkTenantQos(knownQos(qos));
      const made = { id: makeId('t', this.#random.bytes(8)), createdAtMs: this.#clock.wallMs() };
      const value: TenantRecord = { ...(known?.value ?? { ...made, name }), qos };
      const key = tenantKey(name);
      const { succeeded, revision } = await this.#store.transact({
        compare: [{ key, modRevision: known?.modRevision ?? 0 }],
        operations: [{ type: 'put', key, value: encodeRecord(value) }],
      });
      if (!succeeded) continue;
      this.#logger.info({ tenant: name, qos }, 'tenant set');
      return describeTenant({ value, modRevision: revision }, state);
    }
    throw tooMany(request.name);
  }

  /** See StorApi.removeTenant. */
  async remove(name: string): Promise<void> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const { value, modRevision } = findTenant(await this.#state(), name);
      const key = tenantKey(value.name);
      const { succeeded } = await this.#store.transact({
        compare: [{ key, modRevision }],
        operations: [{ type: 'delete', key }],
      });
      if (!succeeded) continue;
      this.#logger.info({ tenant: value.name }, 'tenant removed');
      return;
    }
    throw tooMany(name);
  }

  #state(): Promise<ClusterState> {
    return readSoon((options) => readState(this.#store, options));
  }
}

function tooMany(name: string): StorError {
  return new StorError('CONFLICT', `tenant ${name} changes too often: try again`);
}
