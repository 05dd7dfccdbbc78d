import { hasCode, StorError } from '@stor/protocol';
import type { LossSimulation, NodePlan, NodeVerb, StorApi, UpgradePlan } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { EventLog } from '../agent/event-log.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { changedIntent } from '../core/node/change-intent.ts';
import { withIntent } from '../core/node/node-intent.ts';
import { removalOf } from '../core/node/node-removal.ts';
import { forgottenNote, orderNotes, refusedNote } from '../core/node/node-notes.ts';
import type { NotedNode } from '../core/node/node-notes.ts';
import { planNode } from '../core/node/plan-node.ts';
import type { NodeSight } from '../core/node/plan-node.ts';
import { planUpgrade } from '../core/node/plan-upgrade.ts';
import { findLosses, simulateLoss } from '../core/node/simulate-loss.ts';
import { isUp } from '../resources/cluster-state.ts';
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
  readonly #events: Pick<EventLog, 'note'>;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: {
    store: ClusterStore;
    insight: Pick<VolumeInsight, 'rebuilds'>;
    events: Pick<EventLog, 'note'>;
    clock: Clock;
    logger: Logger;
  }) {
    this.#store = options.store;
    this.#insight = options.insight;
    this.#events = options.events;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** See StorApi.orderNode. */
  async order(request: Request): Promise<NodePlan> {
    const isForget = request.verb === 'forget';
    const found: { node?: NotedNode } = {};
    try {
      return await (isForget ? this.#forget(request, found) : this.#order(request, found));
    } catch (error) {
      const { node } = found;
      const isRefused = hasCode(error, 'UNSAFE_PLAN', 'FAILED_PRECONDITION');
      if (node && isRefused && request.plan !== true) {
        this.#events.note(refusedNote(node, error.message));
      }
      throw error;
    }
  }

  async #order(request: Request, found: { node?: NotedNode }): Promise<NodePlan> {
    const { verb, cancel = false, force = false } = request;
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      // before the state: an order that comes between the two is seen in one of them
      const last = await readSoon((options) => this.#store.get(nodeOrdersKey, options));
      const state = await readSoon((options) => readState(this.#store, options));
      const node = findNode(state, request.name);
      found.node = node.value;
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
      const until = new Date(record.spec?.maintenance?.untilMs ?? 0).toISOString();
      const notes = orderNotes(plan, { isCancel: cancel, until });
      for (const note of notes) this.#events.note(note);
      const { metadata } = plan.node;
      return {
        ...plan,
        node: { ...plan.node, metadata: { ...metadata, resourceVersion: revision } },
      };
    }
    throw new StorError('CONFLICT', `node ${request.name} changes too often: try again`);
  }

  /**
   * A node that never comes back. Carried out at once, in one transaction that holds only while the node
   * has no lease: one that comes back at that moment stays a node.
   */
  async #forget(request: Request, found: { node?: NotedNode }): Promise<NodePlan> {
    const { cancel = false, force = false } = request;
    if (cancel) {
      throw new StorError(
        'INVALID_ARGUMENT',
        'a node that was forgotten is gone for ever: there is nothing to cancel',
      );
    }
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      // as in `#order`: two nodes with the last two copies must not both be forgotten unsaid
      const last = await readSoon((options) => this.#store.get(nodeOrdersKey, options));
      const state = await readSoon((options) => readState(this.#store, options));
      const node = findNode(state, request.name);
      found.node = node.value;
      const { id, name } = node.value;
      checkVersion(node, request.resourceVersion ?? 0);
      if (isUp(state, id)) throw notLost(name);
      const plan = planNode(state, id, { verb: 'forget' }, await this.#sight('forget'));
      if (request.plan === true) return plan;
      if (!force) refuseUnsafe(plan);
      const { compare, operations } = removalOf(state, node, {
        how: 'forgotten',
        nowWallMs: this.#clock.wallMs(),
        mustBeDown: true,
        isMember: this.#voters !== null,
      });
      const order = { key: nodeOrdersKey, modRevision: last?.modRevision ?? 0 };
      const { succeeded } = await this.#store.transact({
        compare: [...compare, order],
        operations: [...operations, { type: 'put', key: nodeOrdersKey, value: new Uint8Array() }],
      });
      if (!succeeded) continue;
      this.#logger.warn({ node: name, id, force }, 'the node is forgotten');
      const lost = plan.effects.filter(({ becomes }) => becomes === 'lost');
      const names = lost.map(({ volume }) => volume);
      this.#events.note(forgottenNote({ id, name }, names));
      return plan;
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

const copying: ReadonlySet<NodeVerb> = new Set(['evacuate', 'decommission', 'forget']);

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

function notLost(name: string): StorError {
  return new StorError(
    'FAILED_PRECONDITION',
    `node ${name} is up, so it is not lost: "storctl node decommission ${name}" moves what it has away first; stop its agent when that is not possible`,
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
