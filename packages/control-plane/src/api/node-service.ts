import { StorError } from '@stor/protocol';
import type { NodePlan, StorApi } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore } from '../cluster-store.ts';
import { changedIntent } from '../core/node/change-intent.ts';
import { withIntent } from '../core/node/node-intent.ts';
import { planNode } from '../core/node/plan-node.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import { nodeKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { NodeRecord } from '../resources/records.ts';
import { findNode } from './find-node.ts';
import { readSoon } from './read-soon.ts';

type Request = Parameters<StorApi['orderNode']>[0];

/** Lost races in a row after which a caller is told to try again. */
const maxConflicts = 20;

/** What operators want of nodes: it is recorded here, and carried out by controllers. */
export class NodeService {
  readonly #store: ClusterStore;
  readonly #clock: Clock;
  readonly #logger: Logger;

  constructor(options: { store: ClusterStore; clock: Clock; logger: Logger }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#logger = options.logger;
  }

  /** See StorApi.orderNode. */
  async order(request: Request): Promise<NodePlan> {
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const state = await readSoon((options) => readState(this.#store, options));
      const node = findNode(state, request.name);
      checkVersion(node, request.resourceVersion ?? 0);
      const nowMs = this.#clock.wallMs();
      const intent = changedIntent(node.value, request, nowMs);
      const record = intent ? withIntent(node.value, intent) : node.value;
      const wanted = withNode(state, { value: record, modRevision: node.modRevision });
      const plan = planNode(wanted, node.value.id, request.verb, this.#store.status().leaderId);
      if (request.plan === true || !intent) return plan;
      const key = nodeKey(node.value.id);
      const { succeeded, revision } = await this.#store.transact({
        compare: [{ key, modRevision: node.modRevision }],
        operations: [{ type: 'put', key, value: encodeRecord(record) }],
      });
      if (!succeeded) continue;
      const { verb, cancel = false } = request;
      this.#logger.info({ node: record.name, verb, cancel }, 'node ordered');
      const { metadata } = plan.node;
      return {
        ...plan,
        node: { ...plan.node, metadata: { ...metadata, resourceVersion: revision } },
      };
    }
    throw new StorError('CONFLICT', `node ${request.name} changes too often: try again`);
  }
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
