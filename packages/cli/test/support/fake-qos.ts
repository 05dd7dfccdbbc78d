import {
  changedClasses,
  changedQos,
  defaultQosClasses,
  effectiveQos,
  StorError,
} from '@stor/protocol';
import type { Policy, QosSpec, StorApi, Tenant, Volume } from '@stor/protocol';
import { hex, startMs } from './fake-volume.ts';

type QosMethod =
  | 'listPolicies'
  | 'getPolicy'
  | 'createPolicy'
  | 'updatePolicy'
  | 'removePolicy'
  | 'listTenants'
  | 'getTenant'
  | 'setTenant'
  | 'removeTenant'
  | 'listQosClasses'
  | 'setQosClasses';
type Plain<M extends keyof StorApi> = (
  request: Parameters<StorApi[M]>[0],
) => Awaited<ReturnType<StorApi[M]>>;

/** Policies and tenants from memory. */
export class FakeQos {
  policies = [
    makePolicy(1, 'gold', { weight: 400, minIops: 1_000 }),
    makePolicy(2, 'bronze', { iops: 1_000, weight: 25 }),
  ];
  tenants: Tenant[] = [];
  classes = [...defaultQosClasses];
  readonly #volumes: () => Volume[];

  constructor(volumes: () => Volume[]) {
    this.#volumes = volumes;
  }

  /** What holds for a volume, as the control plane says it. */
  show(volume: Volume): void {
    const policy = this.policies.find(({ metadata }) => metadata.name === volume.spec.policyName);
    const { qos, sources } = effectiveQos(volume.spec.qos ?? {}, policy?.spec.qos ?? null);
    volume.status.qos = { effective: qos, sources };
  }

  find(name: string): Policy {
    const found = this.policies.find(({ metadata }) => [metadata.id, metadata.name].includes(name));
    if (!found) throw new StorError('NOT_FOUND', `there is no policy ${JSON.stringify(name)}`);
    found.status.volumes = this.#users(found).length;
    return found;
  }

  #users({ metadata }: Policy): Volume[] {
    return this.#volumes().filter(({ spec }) => spec.policyName === metadata.name);
  }

  #tenant(name: string): Tenant {
    const found = this.tenants.find(({ metadata }) => [metadata.id, metadata.name].includes(name));
    if (!found) throw new StorError('NOT_FOUND', `there is no tenant ${JSON.stringify(name)}`);
    return found;
  }

  methods(): { [M in QosMethod]: Plain<M> } {
    return {
      listTenants: () => ({ tenants: this.tenants }),
      getTenant: ({ name }) => this.#tenant(name),
      setTenant: ({ name, qos = {}, clearQos = [] }) => {
        if (!this.tenants.some(({ metadata }) => metadata.name === name)) {
          this.tenants.push(makeTenant(this.tenants.length + 1, name));
        }
        const found = this.#tenant(name);
        found.spec.qos = changedQos(found.spec.qos, qos, clearQos);
        return found;
      },
      removeTenant: ({ name }) => {
        const found = this.#tenant(name);
        this.tenants = this.tenants.filter((each) => each !== found);
        return {};
      },
      listQosClasses: () => ({ classes: this.classes }),
      setQosClasses: ({ classes }) => {
        this.classes = changedClasses(this.classes, classes);
        return { classes: this.classes };
      },
      listPolicies: () => ({
        policies: this.policies.map(({ metadata }) => this.find(metadata.id)),
      }),
      getPolicy: ({ name }) => this.find(name),
      createPolicy: ({ name, description = '', qos = {} }) => {
        if (this.policies.some(({ metadata }) => metadata.name === name)) {
          throw new StorError('ALREADY_EXISTS', `there is a policy ${name} already`);
        }
        const made = makePolicy(this.policies.length + 1, name, qos);
        made.spec.description = description;
        this.policies.push(made);
        return made;
      },
      updatePolicy: ({ name, description, qos = {}, clearQos = [] }) => {
        const found = this.find(name);
        found.spec.qos = changedQos(found.spec.qos, qos, clearQos);
        found.spec.description = description ?? found.spec.description;
        for (const volume of this.#users(found)) this.show(volume);
        return found;
      },
      removePolicy: ({ name }) => {
        const found = this.find(name);
        const [user] = this.#users(found);
        if (user) throw new StorError('IN_USE', `volume ${user.metadata.name} has it`);
        this.policies = this.policies.filter((each) => each !== found);
        return {};
      },
    };
  }
}

function makePolicy(number: number, name: string, qos: QosSpec): Policy {
  return {
    metadata: {
      id: hex('p', number),
      name,
      labels: {},
      createdAtMs: startMs,
      resourceVersion: number,
    },
    spec: { description: '', qos },
    status: { volumes: 0 },
  };
}

function makeTenant(number: number, name: string): Tenant {
  const times = { labels: {}, createdAtMs: startMs, resourceVersion: number };
  return {
    metadata: { id: hex('t', number), name, ...times },
    spec: { qos: {} },
    status: {
      volumes: 2,
      nodes: [
        { nodeId: hex('n', 1), node: 'n1', parts: 4_960 },
        { nodeId: hex('n', 2), node: 'n2', parts: 4_960 },
      ],
    },
  };
}
