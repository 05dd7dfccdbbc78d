import { knownQos, StorError } from '@stor/protocol';
import type { Policy, QosSpec } from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { PolicyRecord } from '../../resources/policy-record.ts';
import type { Compare, Operation } from '../../cluster-store.ts';
import { policyKey, policyUsesKey } from '../../resources/keys.ts';
import type { StoredVolume } from '../../resources/records.ts';
import { keptVolumes } from '../placement/disk-use.ts';

/** Users that an error names. */
const maxNamed = 12;

/** Those that come with Stor; made once for each cluster, and then the operator's. */
export const shippedPolicies: readonly { name: string; description: string; qos: QosSpec }[] = [
  {
    name: 'gold',
    description: 'databases: no limits, four times the usual share, 1000 requests/s guaranteed',
    qos: { weight: 400, minIops: 1_000 },
  },
  {
    name: 'silver',
    description: 'most things: the usual share, 10000 requests/s and 400MiB/s at most',
    qos: { iops: 10_000, bps: 400 * 2 ** 20, burst: { factor: 2, seconds: 30 }, weight: 100 },
  },
  {
    name: 'bronze',
    description:
      'what may wait: a quarter of the usual share, 1000 requests/s and 100MiB/s at most',
    qos: { iops: 1_000, bps: 100 * 2 ** 20, burst: { factor: 3, seconds: 60 }, weight: 25 },
  },
];

/** Volumes that name the policy, those in the trash too: they come back with it. */
export function usersOf(state: ClusterState, name: string): StoredVolume[] {
  return keptVolumes(state)
    .map(({ value }) => value)
    .filter(({ spec }) => spec.policyName === name);
}

/** How many volumes name each policy. */
export function countUsers(state: ClusterState): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { value } of keptVolumes(state)) {
    const name = value.spec.policyName;
    if (name !== undefined) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return counts;
}

export function describePolicy(
  { value, modRevision }: Versioned<PolicyRecord>,
  volumes: number,
): Policy {
  const { id, name, createdAtMs, description, qos } = value;
  return {
    metadata: { id, name, labels: {}, createdAtMs, resourceVersion: modRevision },
    spec: { description, qos: knownQos(qos) },
    status: { volumes },
  };
}

/** By name, or else by id. NOT_FOUND. */
export function findPolicy(
  policies: ReadonlyMap<string, Versioned<PolicyRecord>>,
  nameOrId: string,
): Versioned<PolicyRecord> {
  const found =
    policies.get(nameOrId) ?? [...policies.values()].find(({ value }) => value.id === nameOrId);
  if (found) return found;
  const name = JSON.stringify(nameOrId.slice(0, 128));
  throw new StorError('NOT_FOUND', `there is no policy ${name}: see "storctl policy ls"`);
}

/** IN_USE as long as a volume names it. */
export function checkUnused(state: ClusterState, name: string): void {
  const users = usersOf(state, name);
  if (users.length === 0) return;
  const shown = users
    .slice(0, maxNamed)
    .map((user) => `${user.metadata.name}${user.trash ? ' (in the trash)' : ''}`)
    .join(', ');
  const more = users.length > maxNamed ? ` and ${users.length - maxNamed} more` : '';
  throw new StorError(
    'IN_USE',
    `policy ${name} is not removed: ${users.length === 1 ? 'volume' : 'volumes'} ${shown}${more} ${users.length === 1 ? 'has' : 'have'} it; "storctl volume update NAME --policy none" takes it from one`,
  );
}

/** Those that come with Stor and were never made here; empty: nothing is to be done. */
export function unshipped(state: ClusterState): string[] {
  if (!state.cluster) return [];
  const made = new Set(state.shippedPolicies?.value.names);
  return shippedPolicies.map(({ name }) => name).filter((name) => !made.has(name));
}

/**
 * What goes with the write of a volume that takes a policy: it must still be there, and whoever is
 * about to remove it finds that it has a user.
 */
export function holdOfPolicy(
  record: StoredVolume,
  before: StoredVolume | null,
  state: ClusterState,
): { compare: Compare[]; operations: Operation[] } {
  const { policyName } = record.spec;
  const policy = state.policies.get(policyName ?? '');
  if (!policy || policyName === before?.spec.policyName) return { compare: [], operations: [] };
  return {
    compare: [{ key: policyKey(policy.value.name), modRevision: policy.modRevision }],
    operations: [{ type: 'put', key: policyUsesKey, value: new Uint8Array() }],
  };
}
