import { makeId } from '@stor/protocol';
import type { Clock, Random } from '@stor/runtime';
import type { ClusterStore, Operation } from '../cluster-store.ts';
import { shippedPolicies } from '../core/qos/policy-rules.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { policyKey, shippedPoliciesKey } from '../resources/keys.ts';
import type { PolicyRecord } from '../resources/policy-record.ts';
import { encodeRecord } from '../resources/records.ts';

/**
 * Makes the policies that come with Stor, in one transaction with the note that they were made: whoever
 * changes or removes one later keeps it so. A policy of that name that is there already stays.
 */
export async function shipPolicies(
  names: readonly string[],
  state: ClusterState,
  { store, clock, random }: { store: ClusterStore; clock: Clock; random: Random },
): Promise<void> {
  const made = state.shippedPolicies;
  const missing = shippedPolicies.filter(({ name }) => names.includes(name));
  const fresh = missing.filter(({ name }) => !state.policies.has(name));
  const operations = fresh.map(({ name, description, qos }): Operation => {
    const id = makeId('p', random.bytes(8));
    const createdAtMs = clock.wallMs();
    const none = { requestId: '', requestHash: '' };
    const record: PolicyRecord = { id, name, createdAtMs, description, qos, ...none };
    return { type: 'put', key: policyKey(name), value: encodeRecord(record) };
  });
  const known = [...(made?.value.names ?? []), ...missing.map(({ name }) => name)];
  operations.push({
    type: 'put',
    key: shippedPoliciesKey,
    value: encodeRecord({ ...made?.value, names: known }),
  });
  await store.transact({
    compare: [
      { key: shippedPoliciesKey, modRevision: made?.modRevision ?? 0 },
      ...fresh.map(({ name }) => ({ key: policyKey(name), modRevision: 0 })),
    ],
    operations,
  });
}
