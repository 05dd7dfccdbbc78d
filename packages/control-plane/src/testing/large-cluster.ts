import { silentLogger } from '@stor/runtime';
import type { RpcCall, RpcOutcome } from '@stor/protocol';
import { FakeClock, SeededRandom } from '@stor/runtime/testing';
import { AgentPeers } from '../agent/agent-peers.ts';
import { EventLog } from '../agent/event-log.ts';
import { LeaderControllers } from '../agent/leader-controllers.ts';
import type { Operation, Transaction } from '../cluster-store.ts';
import {
  decideAcquire,
  decideSet,
  releaseAttachment,
} from '../core/controllers/attachment-rules.ts';
import { isUp } from '../resources/cluster-state.ts';
import type { ClusterState, Versioned } from '../resources/cluster-state.ts';
import { nodeLeaseKey, replicaReportKey, volumeKey, volumesPrefix } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StoredVolume } from '../resources/records.ts';
import { StateCache } from '../resources/state-cache.ts';
import { volumesOn } from '../resources/state-index.ts';
import type { RpcTransport } from '../rpc/rpc-transport.ts';
import { isUnsettled } from '../resources/volume-table.ts';
import { largeRecords, nodeIdOf, type LargeShape } from './large-records.ts';
import { MemoryCluster, type MemoryClusterStore } from './memory-cluster.ts';

/** Records written in one transaction when the cluster is filled. */
const fillBatch = 200;
/** Time that passes when nobody has anything to do (ms). */
const idleStepMs = 500;
/** Of fake time: the replacement wait, and hours of copying at a bounded number at a time (ms). */
const reconcileLimitMs = 48 * 3_600_000;

/**
 * The control plane of a cluster of any size in one process: the real state machine, cache and
 * controllers of a leader on a store of one member, and nodes and primaries as stupid as possible:
 * they do at once what the records say. Time is fake, so what passes is time of computing.
 */
export class LargeCluster {
  readonly clock: FakeClock;
  readonly cluster: MemoryCluster;
  readonly store: MemoryClusterStore;
  readonly cache: StateCache;
  readonly #events: EventLog;
  readonly #peers: AgentPeers;
  readonly #controllers: LeaderControllers;
  readonly #random = new SeededRandom(11);
  /** volumes that changed since their nodes looked */
  readonly #changed = new Set<string>();
  #seenRevision = 0;
  transactions = 0;

  private constructor(cluster: MemoryCluster, clock: FakeClock) {
    this.clock = clock;
    this.cluster = cluster;
    this.store = cluster.store('n1');
    const logger = silentLogger;
    this.cache = new StateCache(this.store, clock, logger);
    this.#peers = new AgentPeers({
      clusterId: 'c',
      selfId: 'n1',
      rpc: this.#rpc(),
      cache: this.cache,
      self: () => {
        throw new Error('the leader has no volumes here');
      },
    });
    const node = { nodeId: 'n1', nodeName: 'n1' };
    const random = this.#random;
    this.#events = new EventLog({
      ...node,
      store: this.store,
      cache: this.cache,
      clock,
      random,
      logger,
    });
    this.#controllers = this.#lead();
  }

  static async open(shape: LargeShape): Promise<LargeCluster> {
    const clock = new FakeClock(1_800_000_000_000);
    const cluster = new MemoryCluster({ clock, random: new SeededRandom(5) });
    const store = cluster.store('n1');
    let operations: Operation[] = [];
    const flush = async (): Promise<void> => {
      await store.transact({ compare: [], operations });
      operations = [];
    };
    for (const operation of largeRecords(shape)) {
      operations.push(operation);
      if (operations.length === fillBatch) await flush();
    }
    if (operations.length > 0) await flush();
    return new LargeCluster(cluster, clock);
  }

  get state(): ClusterState {
    return this.cache.state;
  }

  /** Volumes that the leader's controllers have looked at closely. */
  get looks(): number {
    return this.#controllers.looks;
  }

  #lead(): LeaderControllers {
    const { store, cache, clock } = this;
    const common = { store, cache, clock, random: this.#random, logger: silentLogger };
    return new LeaderControllers({
      ...common,
      nodeId: 'n1',
      peers: this.#peers,
      events: this.#events,
      primaries: {
        movePrimary: () => {
          throw new Error('nobody is drained here');
        },
      },
    });
  }

  /** The node is gone: nobody renews its lease. */
  async lose(node: number): Promise<void> {
    const key = nodeLeaseKey(nodeIdOf(node));
    await this.transact({ compare: [], operations: [{ type: 'delete', key }] });
    for (const { value } of volumesOn(this.state.volumes, nodeIdOf(node))) {
      this.#changed.add(value.metadata.id);
    }
  }

  async transact(transaction: Transaction): Promise<boolean> {
    this.transactions += 1;
    return (await this.store.transact(transaction)).succeeded;
  }

  /** Turns of the event loop until nobody has changed anything; time stands still. */
  async quiet(): Promise<void> {
    for (let still = 0; still < 3;) {
      const { revision } = this.cluster.machine.state;
      await new Promise((resolve) => setImmediate(resolve));
      // what only lets others have a turn waits for no time to pass
      this.clock.advance(0);
      const isStill = !(await this.#nodesAct()) && revision === this.cluster.machine.state.revision;
      still = isStill && this.cache.loaded ? still + 1 : 0;
    }
  }

  /** Lets time pass until no volume has anything on the node; returns what was never done. */
  async reconcile(lost: number): Promise<string[]> {
    const endMs = this.clock.monotonicMs() + reconcileLimitMs;
    const left = (): string[] =>
      volumesOn(this.state.volumes, nodeIdOf(lost))
        .filter(({ value }) => !isReplaced(value, nodeIdOf(lost)))
        .map(({ value }) => value.metadata.name);
    await this.quiet();
    while (left().length > 0 && this.clock.monotonicMs() < endMs) {
      this.clock.advance(idleStepMs);
      await this.quiet();
    }
    return left();
  }

  async close(): Promise<void> {
    await this.#controllers.close();
    await this.#events.close();
    this.#peers.close();
    await this.cache.close();
    this.cluster.close();
  }

  /** Nodes and primaries do what the changed records ask for; false when that was nothing. */
  async #nodesAct(): Promise<boolean> {
    this.#noteChanges();
    const transactions: Transaction[] = [];
    for (const id of this.#changed) {
      const volume = this.state.volumes.get(id);
      const next = volume && nodesTurn(this.state, volume, this.clock.wallMs());
      if (next) transactions.push(next);
    }
    this.#changed.clear();
    for (const each of transactions) await this.transact(each);
    return transactions.length > 0;
  }

  #noteChanges(): void {
    const { state } = this.cluster.machine;
    for (;;) {
      const batch = state.nextChangeAfter(this.#seenRevision);
      if (!batch) return;
      this.#seenRevision = batch.revision;
      for (const { key } of batch.events) {
        if (key.startsWith(volumesPrefix)) this.#changed.add(key.slice(volumesPrefix.length));
      }
    }
  }

  /** Calls of the leader to nodes: only those that ask one to attach a volume. */
  #rpc(): RpcTransport {
    const none = (): never => {
      throw new Error('there is no network here');
    };
    return {
      openStream: none,
      createServer: none,
      channel: (address) => ({
        address,
        close: () => {},
        call: (call) => this.#answer(address, call),
        stream: none,
      }),
    };
  }

  async #answer(address: string, { method, request }: RpcCall): Promise<RpcOutcome> {
    if (method !== 'AttachHere') throw new Error(`nobody answers ${method} here`);
    const { volumeId } = request as { volumeId: string };
    const volume = this.state.volumes.get(volumeId);
    const node = [...this.state.nodes.values()].find((n) => n.value.addresses.api === address);
    if (!volume || !node || !isUp(this.state, node.value.id)) return { type: 'not-sent' };
    const { id: nodeId, agentInstance } = node.value;
    const holder = volume.value.status.attachment;
    const lease = holder ? (this.state.leases.get(holder.nodeId)?.value ?? null) : null;
    const nowWallMs = this.clock.wallMs();
    const asked = {
      nodeId,
      agentInstance,
      mode: 'repair' as const,
      onlyIfWanted: false,
      nowWallMs,
    };
    const decision = decideAcquire(volume.value, lease, asked);
    if (decision.type !== 'grant') return { type: 'not-sent' };
    await this.transact(changeOf(volume, decision.record));
    return { type: 'answered', response: { epoch: decision.attachment.epoch } };
  }
}

function changeOf(volume: Versioned<StoredVolume>, record: StoredVolume): Transaction {
  const key = volumeKey(record.metadata.id);
  return {
    compare: [{ key, modRevision: volume.modRevision }],
    operations: [{ type: 'put', key, value: encodeRecord(record) }],
  };
}

/** The node is nowhere in the volume but among what it would still have to delete. */
function isReplaced(volume: StoredVolume, nodeId: string): boolean {
  return volume.status.segments.every(
    ({ replicas, inSync }) =>
      replicas.length === volume.spec.replicas &&
      replicas.every((r) => r.nodeId !== nodeId && r.state === 'ready' && inSync.includes(r.id)),
  );
}

/** What comes next: reports of its nodes, or a change of the set by its primary, which copies at once. */
function nodesTurn(
  state: ClusterState,
  volume: Versioned<StoredVolume>,
  nowWallMs: number,
): Transaction | null {
  const reports = reportsOf(state, volume.value);
  if (reports.length > 0) return { compare: [], operations: reports };
  const { attachment, segments } = volume.value.status;
  if (!attachment || !isUp(state, attachment.nodeId)) return null;
  for (const { index: segment, replicas, inSync, setRevision } of segments) {
    const up = replicas.filter((r) => r.state === 'ready' && isUp(state, r.nodeId));
    const stay = up.filter((r) => r.leaving !== true);
    const next = stay.length >= volume.value.spec.replicas || stay.length === up.length ? stay : up;
    const ids = next.map(({ id }) => id);
    if (
      ids.length === 0 ||
      (ids.length === inSync.length && ids.every((id) => inSync.includes(id)))
    )
      continue;
    const proposal = { nowWallMs, segment, epoch: attachment.epoch, setRevision, inSync: ids };
    const decision = decideSet(volume.value, proposal);
    if (decision.type === 'change') return changeOf(volume, decision.record);
  }
  if (attachment.mode !== 'repair' || isUnsettled(volume.value)) return null;
  const released = releaseAttachment(volume.value, attachment.epoch, true);
  return released && changeOf(volume, released);
}

function reportsOf(state: ClusterState, volume: StoredVolume): Operation[] {
  const operations: Operation[] = [];
  const volumeId = volume.metadata.id;
  const report = (replicaId: string, nodeId: string, at: 'ready' | 'deleted'): void => {
    if (!isUp(state, nodeId) || state.reports.get(replicaId)?.value.state === at) return;
    const record = { replicaId, volumeId, nodeId, state: at, code: '', message: '' };
    operations.push({ type: 'put', key: replicaReportKey(replicaId), value: encodeRecord(record) });
  };
  for (const { replicas, removed = [] } of volume.status.segments) {
    for (const r of replicas) if (r.state === 'creating') report(r.id, r.nodeId, 'ready');
    for (const r of removed) report(r.id, r.nodeId, 'deleted');
  }
  return operations;
}
