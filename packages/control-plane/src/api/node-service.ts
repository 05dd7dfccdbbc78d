import { StorError } from '@stor/protocol';
import type { LossSimulation, NodePlan, NodeVerb, StorApi, UpgradePlan } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { changedIntent } from '../core/node/change-intent.ts';
import { withIntent } from '../core/node/node-intent.ts';
import { planNode } from '../core/node/plan-node.ts';
import type { NodeSight } from '../core/node/plan-node.ts';
import { planUpgrade } from '../core/node/plan-upgrade.ts';
import { findLosses, simulateLoss } from '../core/node/simulate-loss.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import { nodeKey, nodeOrdersKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { NodeRecord } from '../resources/records.ts';
import { findNode } from './find-node.ts';
import { readSoon } from './read-soon.ts';
import type { VolumeInsight } from './volume-insight.ts';

type Request = Parameters<StorApi['orderNode']>[0];

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;

/** What operators want of nodes: it is recorded here, and carried out by controllers. */
export class NodeService {
  readonly #store: ClusterStore;
  readonly #insight: Pick<VolumeInsight, 'rebuilds'>;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    insight: Pick<VolumeInsight, 'rebuilds'>;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#insight = options.insight;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** See StorApi.orderNode. */
  async order(request: Request): Promise<NodePlan> {
    const { verb, cancel = false, force = false } = request;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      // before the state: an order that comes between the two is seen in one of them
      const last = await readSoon((options) => this.#store.get(nodeOrdersKey, options));
      const state = await readSoon((options) => readState(this.#store, options));
      const node = findNode(state, request.name);
      checkVersion(node, request.resourceVersion ?? 0);
      const intent = changedIntent(node.value, request, this.#clock.wallMs());
      const record = intent ? withIntent(node.value, intent) : node.value;
      const wanted = withNode(state, { value: record, modRevision: node.modRevision });
      const plan = planNode(wanted, node.value.id, { verb, cancel }, await this.#sight(verb));
      if (request.plan === true || !intent) return plan;
      if (!force) refuseUnsafe(plan);
      const key = nodeKey(node.value.id);
      const { succeeded, revision } = await this.#store.transact({
        compare: [
          { key, modRevision: node.modRevision },
          { key: nodeOrdersKey, modRevision: last?.modRevision ?? 0 },
        ],
        operations: [
          { type: 'put', key, value: encodeRecord(record) },
          { type: 'put', key: nodeOrdersKey, value: new Uint8Array() },
        ],
      });
      if (!succeeded) continue;
      this.#logger.info({ node: record.name, verb, cancel, force }, 'node ordered');
      const { metadata } = plan.node;
      return {
        ...plan,
        node: { ...plan.node, metadata: { ...metadata, resourceVersion: revision } },
      };
    }
    throw new StorError('CONFLICT', `node ${request.name} changes too often: try again`);
  }

  /** See StorApi.simulateLoss. */
  async simulate({ down }: { down: string[] }): Promise<LossSimulation> {
    const state = await readSoon((options) => readState(this.#store, options));
    const losses = findLosses(state, down);
    const measuredBytesPerSecond = await this.#measure();
    return simulateLoss(state, losses, { measuredBytesPerSecond, voters: this.#voters });
  }

  /** See StorApi.planUpgrade. */
  async upgrade(): Promise<UpgradePlan> {
    const state = await readSoon((options) => readState(this.#store, options));
    const { leaderId } = this.#store.status();
    return planUpgrade(state, { leaderId, voters: this.#voters });
  }

  /** How fast rebuilds go at this moment is asked only when it says when something will be done. */
  async #sight(verb: NodeVerb): Promise<NodeSight> {
    const { leaderId } = this.#store.status();
    const learners = this.#store.members?.local().learners ?? [];
    const facts = { leaderId, voters: this.#voters, learners };
    if (!copying.has(verb)) return { ...facts, measuredBytesPerSecond: 0 };
    return { ...facts, measuredBytesPerSecond: await this.#measure() };
  }

  get #voters(): string[] | null {
    const voters = this.#store.members?.local().voters ?? [];
    return voters.length === 0 ? null : voters;
  }

  async #measure(): Promise<number> {
    const rebuilds = await this.#insight.rebuilds('');
    return rebuilds
      .filter(({ state }) => state === 'running')
      .reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
  }
}

const copying: ReadonlySet<NodeVerb> = new Set(['evacuate', 'decommission']);

/** What is being done, in words, for the refusal. */
const passive: Readonly<Record<NodeVerb, string>> = {
  cordon: 'cordoned',
  uncordon: 'uncordoned',
  drain: 'drained',
  evacuate: 'evacuated',
  maintenance: 'put into maintenance',
  decommission: 'decommissioned',
  forget: 'forgotten',
};

function refuseUnsafe({ verb, node, safe, reasons, effects, blocked }: NodePlan): void {
  if (safe) return;
  const { name } = node.metadata;
  const volumes = new Set([...effects, ...blocked].map(({ volume }) => volume));
  throw new StorError(
    'UNSAFE_PLAN',
    `node ${name} is not ${passive[verb]}, because that is not safe: ${reasons[0] ?? ''}. "storctl node ${verb} ${name} --plan" shows all, --yes does it all the same`,
    { details: { volumes: [...volumes].join(',') } },
  );
}

function withNode(state: ClusterState, node: Versioned<NodeRecord>): ClusterState {
  return { ...state, nodes: new Map(state.nodes).set(node.value.id, node) };
}

function checkVersion(node: Versioned<NodeRecord>, resourceVersion: number): void {
  if (resourceVersion === 0 || resourceVersion === node.modRevision) return;
  throw new StorError(
    'CONFLICT',
    `node ${node.value.name} has changed since version ${resourceVersion} (it is at ${node.modRevision}): look at it again and repeat`,
  );
}
