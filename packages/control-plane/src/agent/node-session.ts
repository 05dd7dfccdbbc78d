import { hasCode, nodeLeaseMs, nodeLeaseRenewMs, StorError } from '@stor/protocol';
import type { NodeAddresses, NodeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort } from '../agent-port.ts';
import type { ClusterStore, Compare, Operation } from '../cluster-store.ts';
import { decodeForgotten, goneForEver } from '../resources/forgotten-record.ts';
import { clusterKey, forgottenKey, nodeKey, nodeLeaseKey, nodesPrefix } from '../resources/keys.ts';
import { pause } from '../resources/pause.ts';
import { decodeCluster, decodeNode, decodeNodeLease, encodeRecord } from '../resources/records.ts';
import type { NodeRecord } from '../resources/records.ts';

export interface NodeIdentity {
  /** when it registers for the first time; later an operator's labels stand */
  labels?: Record<string, string>;
  id: NodeId;
  name: string;
  /** differs at each start of the agent process */
  agentInstance: string;
  bootId: string;
  version: string;
  addresses: NodeAddresses;
  /** it starts without any disk @default false */
  computeOnly?: boolean;
}

/** Time for one renewal (ms): two more fit before the lease is over. */
const renewTimeoutMs = 2 * nodeLeaseRenewMs;
/** Wait after a failed registration (ms). */
const retryMs = 300;

interface SessionOptions {
  store: ClusterStore;
  agent: AgentPort;
  node: NodeIdentity;
  cluster: { id: string; name: string };
  clock: Clock;
  logger: Logger;
  /** called when the node has got a lease, the first one or another */
  registered: () => void;
}

/**
 * This node's record and its lease. The lease is renewed every second; how long it holds is counted
 * from before each request was sent, so this node stops before anybody else may think it has.
 */
export class NodeSession {
  readonly #options: SessionOptions;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;
  #leaseId: string | null = null;
  #leaseUntilMs = 0;
  #isFirst = true;
  #trouble = 'not registered in the cluster yet';

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  /** null while the node holds its lease, else why it does not */
  get trouble(): string | null {
    return this.#options.clock.monotonicMs() < this.#leaseUntilMs ? null : this.#trouble;
  }

  /**
   * Ends the lease, so that others need not wait for it. The agent must have given up its
   * attachments before.
   */
  async close(): Promise<void> {
    if (this.#closing.signal.aborted) {
      await this.#running;
      return;
    }
    this.#closing.abort();
    await this.#running;
    const leaseId = this.#leaseId;
    this.#leaseId = null;
    this.#holdUntil(0);
    if (leaseId === null) return;
    try {
      await this.#options.store.revokeLease(leaseId, { timeoutMs: nodeLeaseRenewMs });
    } catch (error) {
      // it ends by itself
      this.#options.logger.debug({ error: StorError.from(error).message }, 'lease not revoked');
    }
  }

  async #run(): Promise<void> {
    const { clock, logger } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        if (this.#leaseId === null) await this.#register();
        else await this.#renew(this.#leaseId);
        await pause(clock, nodeLeaseRenewMs, signal);
      } catch (error) {
        const { message } = StorError.from(error);
        if (this.#trouble !== message) logger.warn({ error: message }, 'no node lease');
        this.#trouble = message;
        await pause(clock, retryMs, signal);
      }
    }
  }

  async #renew(leaseId: string): Promise<void> {
    const { store, clock } = this.#options;
    const sentMs = clock.monotonicMs();
    try {
      await store.renewLease(leaseId, {
        timeoutMs: renewTimeoutMs,
        signal: this.#closing.signal,
      });
      this.#holdUntil(sentMs + nodeLeaseMs);
    } catch (error) {
      if (hasCode(error, 'NOT_FOUND')) this.#leaseId = null;
      throw error;
    }
  }

  async #register(): Promise<void> {
    const { store, clock, node, logger } = this.#options;
    const { signal } = this.#closing;
    await this.#checkForgotten();
    await this.#checkCluster();
    await this.#checkName();
    const old = await store.get(nodeLeaseKey(node.id), { signal });
    if (old) await this.#takeOver(old.key, old.value, old.leaseId);
    const sentMs = clock.monotonicMs();
    const { leaseId } = await store.grantLease(nodeLeaseMs, { signal });
    const done = await this.#writeRecords(leaseId);
    if (!done) {
      await store.revokeLease(leaseId);
      throw new StorError('CONFLICT', 'another agent registered this node id at the same time');
    }
    this.#leaseId = leaseId;
    this.#isFirst = false;
    this.#holdUntil(sentMs + nodeLeaseMs);
    logger.info({ leaseId }, 'node registered');
    this.#options.registered();
  }

  /**
   * A node that has left the cluster for ever is never registered again, whatever its disks hold. What this
   * member knows is asked first: one that the cluster store has let go hears nothing else.
   */
  async #checkForgotten(): Promise<void> {
    const { store, node } = this.#options;
    const key = forgottenKey(node.id);
    const { signal } = this.#closing;
    const item =
      (await store.get(key, { local: true, signal })) ?? (await store.get(key, { signal }));
    if (item) throw goneForEver(decodeForgotten(item.key, item.value));
  }

  /** The first node gives the cluster its id; a node of another cluster is refused. */
  async #checkCluster(): Promise<void> {
    const { store, cluster, clock } = this.#options;
    const item = await store.get(clusterKey, { signal: this.#closing.signal });
    if (!item) {
      const record = { clusterId: cluster.id, name: cluster.name, createdAtMs: clock.wallMs() };
      await store.transact({
        compare: [{ key: clusterKey, modRevision: 0 }],
        operations: [{ type: 'put', key: clusterKey, value: encodeRecord(record) }],
      });
      return;
    }
    const { clusterId } = decodeCluster(item.key, item.value);
    if (clusterId === cluster.id) return;
    throw new StorError(
      'FOREIGN_DATA',
      `the cluster store belongs to cluster ${clusterId}, this node to ${cluster.id}: check clusterId in the config`,
    );
  }

  /** Commands name nodes by name, so two nodes that are up may not share one. */
  async #checkName(): Promise<void> {
    const { store, node } = this.#options;
    const { items } = await store.list(nodesPrefix, { signal: this.#closing.signal });
    for (const item of items) {
      const { id, name } = decodeNode(item.key, item.value);
      if (id === node.id || name !== node.name) continue;
      if ((await store.get(nodeLeaseKey(id), { local: true })) === null) continue;
      throw new StorError(
        'IN_USE',
        `node ${id} has the name ${name} too: give this node another nodeName`,
      );
    }
  }

  /**
   * The lease of this node id is held by another agent process. On the same boot of this host it is
   * the one before this process, and dead, because this one holds the locks of its data folder; but
   * only at the start: a process that lost its lease to another one must not take it back.
   */
  async #takeOver(key: string, value: Uint8Array, leaseId: string): Promise<void> {
    const { store, node } = this.#options;
    const holder = decodeNodeLease(key, value);
    const isMine = holder.agentInstance === node.agentInstance;
    if (isMine || (this.#isFirst && holder.bootId === node.bootId)) {
      await store.revokeLease(leaseId);
      return;
    }
    throw new StorError(
      'IN_USE',
      `another agent (instance ${holder.agentInstance}) holds the lease of node ${node.name} (${node.id}): waiting for it to end; if it does not, two agents run with one node id`,
    );
  }

  async #writeRecords(leaseId: string): Promise<boolean> {
    const { store, node, clock } = this.#options;
    const { id, name, agentInstance, bootId, version, addresses } = node;
    const key = nodeKey(id);
    const item = await store.get(key);
    // from now on it is up
    const {
      downSinceMs: _downSinceMs,
      computeOnly: _computeOnly,
      ...known
    } = item
      ? decodeNode(item.key, item.value)
      : { labels: node.labels ?? {}, createdAtMs: clock.wallMs() };
    const record: NodeRecord = {
      ...known,
      id,
      name,
      agentInstance,
      bootId,
      version,
      addresses,
      ...(node.computeOnly === true ? { computeOnly: true } : {}),
    };
    const lease = encodeRecord({ agentInstance, bootId, addresses });
    const leaseKey = nodeLeaseKey(id);
    const compare: Compare[] = [
      { key, modRevision: item?.modRevision ?? 0 },
      { key: leaseKey, modRevision: 0 },
      { key: forgottenKey(id), modRevision: 0 },
    ];
    const operations: Operation[] = [
      { type: 'put', key, value: encodeRecord(record) },
      { type: 'put', key: leaseKey, value: lease, leaseId },
    ];
    return (await store.transact({ compare, operations })).succeeded;
  }

  #holdUntil(monotonicMs: number): void {
    this.#leaseUntilMs = monotonicMs;
    this.#options.agent.nodeLeaseUntil(monotonicMs);
  }
}
