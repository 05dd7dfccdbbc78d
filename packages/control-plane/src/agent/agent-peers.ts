import { StorError } from '@stor/protocol';
import type { Attachment, DiskId, NodeId, VolumeId } from '@stor/protocol';
import type {
  DiskOrder,
  LiveVolume,
  PrimaryAnswer,
  PrimaryOrder,
  ReplicaSpace,
} from '../agent-port.ts';
import type { HostAnswer, HostOrder } from '../host-order.ts';
import { decodedAnswer, encodedOrder } from './primary-order-wire.ts';
import { nodeName } from '../resources/cluster-state.ts';
import { joinedSignal } from '../resources/joined-signal.ts';
import { longLivedController } from '../resources/long-lived.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { RpcChannel, RpcTransport } from '../rpc/rpc-transport.ts';

/** What one node may ask of another, or of itself. */
export interface NodeCalls {
  releaseAttachment(
    request: { volumeId: VolumeId; epoch: number; ifIdle: boolean },
    signal?: AbortSignal,
  ): Promise<'released' | 'busy' | 'gone'>;
  attachHere(request: AttachOrder): Promise<{ epoch: number }>;
  /** of these volumes; a node of an earlier version answers with all of its own */
  liveVolumes(volumeIds?: readonly VolumeId[]): Promise<LiveVolume[]>;
  /** See AgentPort.handOver. */
  handOver(request: { volumeId: VolumeId; epoch: number }): Promise<'released' | 'gone'>;
  addDisk(request: DiskOrder): Promise<{ diskId: DiskId }>;
  removeDisk(request: { diskId: DiskId; lost: boolean }): Promise<void>;
  /** See AgentPort.orderPrimary. */
  orderPrimary(request: {
    volumeId: VolumeId;
    epoch: number;
    order: PrimaryOrder;
  }): Promise<PrimaryAnswer>;
  /** See AgentPort.replicaSpace. */
  replicaSpace(volumeIds: VolumeId[]): Promise<ReplicaSpace[]>;
  /** See AgentPort.orderHost. */
  orderHost(order: HostOrder, signal: AbortSignal): Promise<HostAnswer>;
}

export interface AttachOrder {
  volumeId: VolumeId;
  mode: Attachment['mode'];
  /** only while nobody holds the volume and its record wants it on that node */
  onlyIfWanted: boolean;
  /** without asking a holder, even one that lives: it is fenced (I2) */
  force?: boolean;
  /** with `force`: the new primary may begin although unflushed writes are lost */
  acceptUnflushedLoss?: boolean;
}

export const clusterIdKey = 'stor-cluster-id';
export const nodeIdKey = 'stor-node-id';

/** Bounds of calls between nodes (ms): to connect, to drain a volume, to activate one, to glance. */
const connectTimeoutMs = 800;
const releaseTimeoutMs = 15_000;
const attachTimeoutMs = 30_000;
/** A large device takes mkfs some seconds; closing a disk waits for what is being written. */
const addDiskTimeoutMs = 60_000;
const removeDiskTimeoutMs = 30_000;
const glanceTimeoutMs = 500;
const handOverTimeoutMs = 20_000;
const orderTimeoutMs = 30_000;
const spaceTimeoutMs = 2_000;
/** To publish, to become primary, to check and to make a file system, one after the other (ms). */
const hostTimeoutMs = 120_000;

/** The other nodes, by node id; this node is called without the network. */
export class AgentPeers {
  readonly #clusterId: string;
  readonly #selfId: NodeId;
  readonly #cache: StateCache;
  readonly #self: () => NodeCalls;
  readonly #rpc: RpcTransport;
  readonly #channels = new Map<NodeId, RpcChannel>();
  readonly #closing = longLivedController();

  constructor(options: {
    clusterId: string;
    selfId: NodeId;
    rpc: RpcTransport;
    cache: StateCache;
    self: () => NodeCalls;
  }) {
    this.#clusterId = options.clusterId;
    this.#selfId = options.selfId;
    this.#rpc = options.rpc;
    this.#cache = options.cache;
    this.#self = options.self;
  }

  /** Calls fail with what the node answers, or UNAVAILABLE / OUTCOME_UNKNOWN. */
  at(nodeId: NodeId): NodeCalls {
    if (nodeId === this.#selfId) return this.#self();
    return {
      releaseAttachment: async (request, signal) => {
        const answer = (await this.#call(nodeId, {
          method: 'ReleaseAttachment',
          request,
          timeoutMs: releaseTimeoutMs,
          signal,
        })) as { result: string };
        const { result } = answer;
        if (result === 'released' || result === 'gone') return result;
        return 'busy';
      },
      attachHere: (request) =>
        this.#call(nodeId, {
          method: 'AttachHere',
          request,
          timeoutMs: attachTimeoutMs,
        }) as Promise<{ epoch: number }>,
      liveVolumes: async (volumeIds) => {
        const answer = (await this.#call(nodeId, {
          method: 'LiveVolumes',
          request: { volumeIds: volumeIds ?? [] },
          timeoutMs: glanceTimeoutMs,
        })) as { volumes: LiveVolume[] };
        return answer.volumes.map(decodedLive);
      },
      handOver: async (request) => {
        const answer = (await this.#call(nodeId, {
          method: 'HandOver',
          request,
          timeoutMs: handOverTimeoutMs,
        })) as { result: string };
        return answer.result === 'released' ? 'released' : 'gone';
      },
      addDisk: (request) =>
        this.#call(nodeId, { method: 'AddDisk', request, timeoutMs: addDiskTimeoutMs }) as Promise<{
          diskId: DiskId;
        }>,
      removeDisk: async (request) => {
        const timeoutMs = removeDiskTimeoutMs;
        await this.#call(nodeId, { method: 'RemoveDisk', request, timeoutMs });
      },
      orderPrimary: async ({ volumeId, epoch, order }) =>
        decodedAnswer(
          await this.#call(nodeId, {
            method: 'OrderPrimary',
            request: encodedOrder(volumeId, epoch, order),
            timeoutMs: orderTimeoutMs,
          }),
        ),
      replicaSpace: async (volumeIds) => {
        const answer = (await this.#call(nodeId, {
          method: 'ReplicaSpace',
          request: { volumeIds },
          timeoutMs: spaceTimeoutMs,
        })) as { replicas: ReplicaSpace[] };
        return answer.replicas;
      },
      orderHost: (request, signal) =>
        this.#call(nodeId, {
          method: 'OrderHost',
          request,
          timeoutMs: hostTimeoutMs,
          signal,
        }) as Promise<HostAnswer>,
    };
  }

  /** Gives up what is being asked. */
  close(): void {
    this.#closing.abort();
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
  }

  async #call(
    nodeId: NodeId,
    call: { method: string; request: object; timeoutMs: number; signal?: AbortSignal | undefined },
  ): Promise<unknown> {
    const { state } = this.#cache;
    const name = nodeName(state, nodeId);
    // one that has left the cluster has a lease as long as it serves something
    const known = state.nodes.get(nodeId) ?? state.leases.get(nodeId);
    const address = known?.value.addresses.api;
    if (!address)
      throw unreachable('UNAVAILABLE', nodeId, `the address of node ${name} is unknown`);
    const { signal, dispose } = joinedSignal([call.signal, this.#closing.signal]);
    const outcome = await this.#channel(nodeId, address)
      .call({
        ...call,
        signal,
        connectTimeoutMs: Math.min(connectTimeoutMs, call.timeoutMs),
        metadata: { [clusterIdKey]: this.#clusterId, [nodeIdKey]: nodeId },
      })
      .finally(dispose);
    switch (outcome.type) {
      case 'answered':
        return outcome.response;
      case 'refused':
        throw outcome.error;
      case 'not-sent':
      case 'aborted':
        throw unreachable(
          'UNAVAILABLE',
          nodeId,
          `node ${name} cannot be reached at ${address}: check that its agent runs`,
        );
      case 'lost':
      case 'timeout':
        throw unreachable(
          'OUTCOME_UNKNOWN',
          nodeId,
          `node ${name} at ${address} was asked and did not answer: it may or may not have done it`,
        );
    }
  }

  #channel(nodeId: NodeId, address: string): RpcChannel {
    const known = this.#channels.get(nodeId);
    if (known?.address === address) return known;
    known?.close();
    const channel = this.#rpc.channel(address, 'agent');
    this.#channels.set(nodeId, channel);
    return channel;
  }
}

/** On the wire a message that is absent is null, and an unknown source is ''. */
function decodedLive(wire: LiveVolume): LiveVolume {
  const replicas = wire.replicas.map(({ resync, ...replica }) => {
    if (!resync) return replica;
    const sourceReplicaId = resync.sourceReplicaId === '' ? null : resync.sourceReplicaId;
    return { ...replica, resync: { ...resync, sourceReplicaId } };
  });
  const { throttle, ...rest } = wire;
  return { ...rest, replicas, ...(throttle ? { throttle } : {}) };
}

function unreachable(
  code: 'UNAVAILABLE' | 'OUTCOME_UNKNOWN',
  nodeId: NodeId,
  message: string,
): StorError {
  return new StorError(code, message, { details: { unreachable: nodeId } });
}
