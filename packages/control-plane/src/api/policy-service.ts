import {
  changedQos,
  checkPolicyName,
  checkQos,
  knownQos,
  makeId,
  maxDescriptionLength,
  maxPolicies,
  StorError,
} from '@stor/protocol';
import type { Policy, QosSpec } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import {
  checkUnused,
  countUsers,
  describePolicy,
  findPolicy,
  usersOf,
} from '../core/qos/policy-rules.ts';
import { checkGuarantee, guaranteeOf } from '../core/qos/guarantees.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import { policyKey, policyUsesKey } from '../resources/keys.ts';
import type { PolicyRecord } from '../resources/policy-record.ts';
import { encodeRecord } from '../resources/records.ts';
import { requestOf } from './creation-requests.ts';
import { readSoon } from './read-soon.ts';
import { usedForAnother } from '../core/requests/change-rules.ts';

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;

interface CreatePolicyRequest {
  name: string;
  description?: string;
  qos?: QosSpec | null;
  requestId?: string;
}

interface UpdatePolicyRequest {
  name: string;
  description?: string | null;
  qos?: QosSpec | null;
  clearQos?: string[] | null;
}

/** The calls of the API that concern policies. */
export class PolicyService {
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

  async list(): Promise<Policy[]> {
    const state = await this.#state();
    const users = countUsers(state);
    return [...state.policies.values()]
      .map((policy) => describePolicy(policy, users.get(policy.value.name) ?? 0))
      .sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
  }

  async get(name: string): Promise<Policy> {
    const state = await this.#state();
    return described(findPolicy(state.policies, name), state);
  }

  /** See StorApi.createPolicy. */
  async create(request: CreatePolicyRequest): Promise<Policy> {
    const { name, description = '' } = request;
    const qos = knownQos(request.qos);
    checkPolicyName(name);
    checkDescription(description);
    checkQos(qos);
    const made = requestOf('createPolicy', request);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await this.#state();
      const known = state.policies.get(name);
      if (known && isMadeBy(known.value, made)) return described(known, state);
      if (known) throw new StorError('ALREADY_EXISTS', `there is a policy ${name} already`);
      if (state.policies.size >= maxPolicies) {
        throw new StorError(
          'FAILED_PRECONDITION',
          `there are ${maxPolicies} policies already: remove one that no volume has ("storctl policy ls")`,
        );
      }
      const id = makeId('p', this.#random.bytes(8));
      const createdAtMs = this.#clock.wallMs();
      const value = { id, name, createdAtMs, description, qos, ...made };
      const written = await this.#write({ value, modRevision: 0 });
      if (!written) continue;
      this.#logger.info({ policy: name, qos }, 'policy created');
      return described(written, state);
    }
    throw tooMany(name);
  }

  /** See StorApi.updatePolicy. */
  async update(request: UpdatePolicyRequest): Promise<Policy> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await this.#state();
      const { value, modRevision } = findPolicy(state.policies, request.name);
      const description = request.description ?? value.description;
      checkDescription(description);
      const qos = changedQos(value.qos, knownQos(request.qos), request.clearQos ?? []);
      const changed = { value: { ...value, description, qos }, modRevision };
      checkUsers(changed, state);
      const written = await this.#write(changed);
      if (!written) continue;
      this.#logger.info({ policy: value.name, qos }, 'policy changed');
      return described(written, state);
    }
    throw tooMany(request.name);
  }

  /** See StorApi.removePolicy. */
  async remove(name: string): Promise<void> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      // before the state: a volume that takes it between the two is seen in one of them
      const uses = await readSoon((options) => this.#store.get(policyUsesKey, options));
      const state = await this.#state();
      const { value, modRevision } = findPolicy(state.policies, name);
      checkUnused(state, value.name);
      const key = policyKey(value.name);
      const { succeeded } = await this.#store.transact({
        compare: [
          { key, modRevision },
          { key: policyUsesKey, modRevision: uses?.modRevision ?? 0 },
        ],
        operations: [{ type: 'delete', key }],
      });
      if (!succeeded) continue;
      this.#logger.info({ policy: value.name }, 'policy removed');
      return;
    }
    throw tooMany(name);
  }

  #state(): Promise<ClusterState> {
    return readSoon((options) => readState(this.#store, options));
  }

  /** Null when it was changed meanwhile. */
  async #write({
    value,
    modRevision,
  }: Versioned<PolicyRecord>): Promise<Versioned<PolicyRecord> | null> {
    const key = policyKey(value.name);
    const { succeeded, revision } = await this.#store.transact({
      compare: [{ key, modRevision }],
      operations: [{ type: 'put', key, value: encodeRecord(value) }],
    });
    return succeeded ? { value, modRevision: revision } : null;
  }
}

function described(policy: Versioned<PolicyRecord>, state: ClusterState): Policy {
  return describePolicy(policy, usersOf(state, policy.value.name).length);
}

function isMadeBy(
  record: Pick<PolicyRecord, 'requestId' | 'requestHash'>,
  { requestId, requestHash }: { requestId: string; requestHash: string },
): boolean {
  if (requestId === '' || record.requestId !== requestId) return false;
  if (record.requestHash === requestHash) return true;
  throw usedForAnother(requestId);
}

function checkDescription(text: string): void {
  if (text.length <= maxDescriptionLength && !/\p{Cc}/u.test(text)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `a description is one line of at most ${maxDescriptionLength} characters`,
  );
}

function tooMany(name: string): StorError {
  return new StorError('CONFLICT', `policy ${name} changes too often: try again`);
}

/** FAILED_PRECONDITION when it would guarantee more to a volume than a disk of its replicas can keep. */
function checkUsers(policy: Versioned<PolicyRecord>, state: ClusterState): void {
  const { name } = policy.value;
  const changed = { ...state, policies: new Map(state.policies).set(name, policy) };
  for (const user of usersOf(state, name)) checkGuarantee(user, changed, guaranteeOf(user, state));
}
